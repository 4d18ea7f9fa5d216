"""Run a job: list the photos, skip what is done, predict the rest, write.

Every photo is in the output exactly once, with its instances or with its error.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from handler.api.errors import RequestError
from handler.api.options import FormText, parse_options
from handler.errors import PredictError
from handler.predict import films, pictures, writers
from handler.predict.job import Job, Model
from handler.predict.models import open_model
from handler.predict.sources import is_film, list_sources
from handler.predict.store import Store


def run(job: Job, rooms: Any) -> str:
    """Run the job; return the path of what it made.

    Args:
        rooms: what other rooms do for this one (``maskrcnn.Rooms``).

    Raises:
        PredictError: something that the user can fix.
        KeyboardInterrupt: what was answered is written.
    """
    # a job may write into the folder that it reads
    sources = [name for name in list_sources(*job.sources) if not name.startswith(f"{job.folder}/")]
    clips = [source for source in sources if is_film(source)]
    needs_folder = {
        "--overlay": job.overlay,
        "a film": bool(clips),
        f"--format {job.format}": job.format in writers.ANNOTATIONS,
    }
    what = next((name for name, asked in needs_folder.items() if asked), None)
    if what and "://" in job.output.removeprefix("file://"):
        raise PredictError(f"{what} needs a folder of this machine as --output")
    if job.format == "parquet":
        import pyarrow  # noqa: F401 # to fail before the work if it is missing
    model = open_model(job, rooms)
    options = {**job.options, "mask_format": "rle"}
    _check(options, model.classes)
    about = {"model": model.identity, "version": model.version, "options": options, "fps": job.fps}
    store = Store(job.output, about, job.shard_size)
    with store.exclusive():
        frames = films.extract(clips, job.folder / "frames", job.fps) if clips else {}
        photos = [photo for source in sources for photo in frames.get(source, [source])]
        _predict(job, model, options, photos, store)
        if clips:
            films.write(frames, store, job.folder, overlay=job.overlay)
        if job.overlay:
            in_films = {frame for listed in frames.values() for frame in listed}
            pictures.write_overlays(store, job.folder / "overlays", in_films)
        return writers.write(job, store, model.classes, rooms)


def _check(options: Mapping[str, str], classes: Sequence[str]) -> None:
    try:
        parse_options({name: FormText(value) for name, value in options.items()}, classes)
    except RequestError as error:
        raise PredictError(error.message.rstrip(".")) from error


def _predict(job: Job, model: Model, options: Mapping[str, str], photos: list[str], store: Store) -> None:
    """Predict the photos that are not in the store."""
    done = store.done()
    waiting = [photo for photo in photos if photo not in done]
    if len(waiting) < len(photos):
        print(f"{len(photos) - len(waiting)} of {len(photos)} photos are done already", file=sys.stderr)
    if not waiting:
        return
    errors, begun = 0, time.perf_counter()
    progress = tqdm(
        total=len(photos),
        initial=len(photos) - len(waiting),
        unit="photo",
        smoothing=0.05,
        desc=model.version,
        disable=None,  # only on a terminal
    )
    with contextlib.closing(model.answer(options, waiting)) as answers, progress:
        try:
            for photo, document in answers:
                store.add(photo, document)
                errors += "error" in document
                progress.set_postfix(errors=errors, refresh=False)
                progress.update()
        finally:
            store.flush()
    print(f"{len(waiting)} photos in {time.perf_counter() - begun:.1f} s; errors: {errors}", file=sys.stderr)
