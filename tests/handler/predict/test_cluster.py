"""``python -m handler.predict`` on Ray: every photo of INPUT exactly once in OUTPUT, whatever happens."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

pytest.importorskip("ray", reason="ray is not installed: make install-batch")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: make install-batch")

from handler.predict import BatchError  # noqa: E402
from handler.predict.cli import main  # noqa: E402
from handler.predict.sources import list_photos  # noqa: E402
from handler.predict.writers import Shards, rows_of, write_coco  # noqa: E402
from tests.handler.predict.archives import (  # noqa: E402
    REPOSITORY,
    command,
    environment,
    run_batch,
    stub_archive,
    write_bad_photos,
    write_photos,
)

ANSWER = {
    "model": {"name": "maskrcnn"},
    "image": {"width": 40, "height": 30},
    "instances": [
        {
            "id": 0,
            "class_id": 1,
            "class_name": "kite",
            "score": 0.9,
            "box": [1.0, 2.0, 11.5, 12.0],
            "area": 99,
            "mask": {"size": [30, 40], "counts": "abc"},
        }
    ],
    "mask_fraction": 0.1,
}
EMPTY = ANSWER | {"instances": [], "mask_fraction": 0.0}
REFUSED = {"error": {"code": "undecodable_image", "message": "Torn.", "field": "image"}}


def read(output: Path) -> list[dict[str, Any]]:
    return [row for name in sorted(output.glob("*.parquet")) for row in pq.read_table(name).to_pylist()]


def photos_in(output: Path) -> list[str]:
    """Each photo as often as its answer was written: an instance number that comes twice counts twice."""
    return [row["photo"] for row in read(output) if not row["instance"]]


def ray_processes() -> list[psutil.Process]:
    names = ("raylet", "gcs_server", "ray::")
    return [p for p in psutil.process_iter(["name", "cmdline"]) if str(p.info["name"]).startswith(names)]


@pytest.fixture(autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    before = {process.pid for process in ray_processes()}
    yield
    deadline = time.monotonic() + 120  # its agents look for a killed Ray once in a while
    while left := [process for process in ray_processes() if process.pid not in before]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


# --- without Ray ------------------------------------------------------------------------------------------------------


def test_inputs(tmp_path: Path) -> None:
    paths = [str(path) for path in write_photos(tmp_path / "photos/inner", 3)]
    (tmp_path / "photos/notes.md").write_text("no photo")
    assert list_photos(str(tmp_path / "photos")) == paths
    assert list_photos(f"file://{tmp_path}/photos") == paths
    assert list_photos(f"{tmp_path}/photos/*/00[12].jpg") == paths[1:]
    assert list_photos(paths[2]) == paths[2:]
    listing = tmp_path / "photos/list.txt"
    listing.write_text(f"inner/002.jpg\n\n{paths[0]}\ninner/002.jpg\ns3://bucket/x.jpg\n")
    assert list_photos(str(listing)) == [paths[2], paths[0], "s3://bucket/x.jpg"], (
        "no doubles, the list's order"
    )
    (awkward,) = write_photos(tmp_path / "holiday [1]", 1)
    assert list_photos(str(tmp_path / "holiday [1]")) == [str(awkward)], "a folder, and no pattern"
    for nothing in (tmp_path / "none", f"{tmp_path}/*.gif", "nostore://bucket"):
        with pytest.raises(BatchError, match="INPUT"):
            list_photos(str(nothing))


def test_input_and_output_in_an_object_store(tmp_path: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe_file("/bucket/b.jpg", b"b")
    store.pipe_file("/bucket/a.png", b"a")
    assert list_photos("memory://bucket") == ["memory:///bucket/a.png", "memory:///bucket/b.jpg"]
    shards = Shards("memory://bucket/results", {"version": "a"}, 10)
    shards.add("memory:///bucket/b.jpg", ANSWER)
    shards.flush()
    assert Shards("memory://bucket/results", {"version": "a"}, 10).done() == {"memory:///bucket/b.jpg"}


def test_rows() -> None:
    (row,) = rows_of("a.jpg", ANSWER)
    assert row["mask"] == "abc"
    assert (row["width"], row["height"], row["class_name"], row["box"]) == (
        40,
        30,
        "kite",
        [1.0, 2.0, 11.5, 12.0],
    )
    assert rows_of("a.jpg", EMPTY) == [{"photo": "a.jpg", "width": 40, "height": 30, "mask_fraction": 0.0}]
    assert rows_of("a.jpg", REFUSED) == [
        {"photo": "a.jpg", "error_code": "undecodable_image", "error_message": "Torn."}
    ]
    polygons = ANSWER | {
        "instances": [ANSWER["instances"][0] | {"mask": {"size": [30, 40], "polygons": [[1, 2]]}}]
    }
    assert rows_of("a.jpg", polygons)[0]["mask"] == "[[1,2]]"


def test_a_torn_shard_does_not_count(tmp_path: Path) -> None:
    shards = Shards(str(tmp_path / "out"), {"version": "a"}, 2)
    for name in ("a", "b", "c"):
        shards.add(name, EMPTY)
    assert shards.done() == {"a", "b"}, "c waits for its shard"
    (tmp_path / "out/.part-1.parquet.tmp").write_bytes(b"half")
    again = Shards(str(tmp_path / "out"), {"version": "a"}, 2)
    assert again.done() == {"a", "b"}


def test_another_job_is_refused(tmp_path: Path) -> None:
    Shards(str(tmp_path / "out"), {"version": "a", "options": {}}, 2)
    with pytest.raises(BatchError, match="other version"):
        Shards(str(tmp_path / "out"), {"version": "b", "options": {}}, 2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    with pytest.raises(BatchError, match="something else"):
        Shards(str(tmp_path / "full"), {}, 2)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_coco_file(tmp_path: Path) -> None:
    shards = Shards(str(tmp_path / "parts"), {}, 2)
    for name, answer in (("c.jpg", ANSWER), ("a.jpg", EMPTY), ("b.jpg", REFUSED)):
        shards.add(name, answer)
    shards.flush()
    write_coco(shards, str(tmp_path / "out.json"), ["balloon", "kite"], "rle")
    document = json.loads((tmp_path / "out.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["a.jpg", "c.jpg"]
    assert document["annotations"] == [
        {
            "id": 1,
            "image_id": 2,
            "category_id": 2,
            "bbox": [1.0, 2.0, 10.5, 10.0],
            "area": 99,
            "iscrowd": 0,
            "score": 0.9,
            "segmentation": {"size": [30, 40], "counts": "abc"},
        }
    ]
    assert [error["file_name"] for error in document["errors"]] == ["b.jpg"]
    assert [category["name"] for category in document["categories"]] == ["balloon", "kite"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--score-threshold", "2"], "score_threshold"),
        (["--classes", "dragon"], "dragon"),
        (["--output-format", "coco", "--mask-format", "png"], "png"),
    ],
)
def test_refused_before_ray_starts(tmp_path: Path, capsys: Any, more: list[str], message: str) -> None:
    write_photos(tmp_path / "photos", 1)
    paths = [stub_archive(tmp_path), tmp_path / "photos", tmp_path / "out"]
    assert main([*map(str, paths), *more]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["parquet", "coco"])
def test_an_output_that_cannot_be_used_is_told_in_a_sentence(tmp_path: Path, capsys: Any, form: str) -> None:
    write_photos(tmp_path / "photos", 1)
    arguments = [str(stub_archive(tmp_path)), str(tmp_path / "photos"), "nostore://bucket/results"]
    assert main([*arguments, "--output-format", form]) == 1
    assert capsys.readouterr().err.startswith("error: OUTPUT nostore://bucket/results cannot be used: ")


# --- with Ray ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deadly", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_local_run(tmp_path: Path, deadly: bool) -> None:
    """Good photos, bad ones of every kind, a missing file, one that kills its worker: a row for each."""
    archive = stub_archive(tmp_path)
    good = write_photos(tmp_path / "photos", 20)
    bad = write_bad_photos(tmp_path / "photos") | {"unreadable_file": tmp_path / "photos/gone.jpg"}
    if not deadly:
        bad.pop("worker_died")
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(str(path) for path in [*good, *bad.values()]))
    run = run_batch(archive, listing, tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == str(tmp_path / "out")
    assert "photos a second when running" in run.stderr
    assert "Traceback" not in run.stderr
    assert sorted(photos_in(tmp_path / "out")) == sorted(str(path) for path in [*good, *bad.values()])
    errors = {row["photo"]: row["error_code"] for row in read(tmp_path / "out") if row["error_code"]}
    assert errors == {str(path): code for code, path in bad.items()}
    counts = {row["photo"]: row["instance"] for row in read(tmp_path / "out")}
    assert None in counts.values(), "some good photos have no instances"
    assert {3, 2} & set(counts.values())


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def start_batch(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        cwd=REPOSITORY,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_resume(tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    # a killed job cannot remove its folder of sockets, whose paths must be short
    scratch = tempfile.mkdtemp(prefix="b-", dir="/tmp")
    monkeypatch.setenv("TMPDIR", scratch)
    archive, out = stub_archive(tmp_path, seconds=0.1), tmp_path / "out"
    photos = [str(path) for path in write_photos(tmp_path / "photos", 120)]
    arguments = (archive, tmp_path / "photos", out, "--shard-size", 10)
    process = start_batch(*arguments)
    wait_for(lambda: len(list(out.glob("*.parquet"))) >= 2, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number), said
    before = photos_in(out)
    assert 20 <= len(before) < 120
    run = run_batch(*arguments)
    assert run.returncode == 0, run.stderr
    assert f"{len(before)} of 120 photos are done already" in run.stderr
    assert sorted(photos_in(out)) == photos
    again = run_batch(*arguments)
    assert again.returncode == 0
    assert sorted(photos_in(out)) == photos
    shutil.rmtree(scratch)


@pytest.mark.slow
def test_coco_and_an_archive_that_does_not_load(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    write_photos(tmp_path / "photos", 6)
    target = tmp_path / "found.json"
    run = run_batch(stub_archive(tmp_path), tmp_path / "photos", target, "--output-format", "coco")
    assert run.returncode == 0, run.stderr
    coco = COCO(str(target))
    assert len(coco.imgs) == 6
    for annotation in coco.anns.values():
        assert coco.annToMask(annotation).sum() == annotation["area"]
    assert not (tmp_path / "found.json.parts").exists()
    assert (
        run_batch(
            tmp_path / "maskrcnn_stub.mar", tmp_path / "photos", target, "--output-format", "coco"
        ).returncode
        == 1
    )

    (tmp_path / "broken").mkdir()
    run = run_batch(stub_archive(tmp_path / "broken", weights=b""), tmp_path / "photos", tmp_path / "out")
    assert run.returncode == 1
    assert "no weights at all" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_a_photo_that_hangs(tmp_path: Path) -> None:
    good = write_photos(tmp_path / "photos", 12)
    Image.new("RGB", (60, 40), "black").save(tmp_path / "photos/hangs.png")
    run = run_batch(stub_archive(tmp_path), tmp_path / "photos", tmp_path / "out", "--stall-timeout", 20)
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    hangs = str(tmp_path / "photos/hangs.png")
    assert sorted(photos_in(tmp_path / "out")) == [*(str(path) for path in good), hangs]
    errors = {row["photo"]: row["error_code"] for row in read(tmp_path / "out") if row["error_code"]}
    assert errors == {hangs: "worker_died"}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two Ray nodes of one core each."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        two = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            two.second = two.add_node(num_cpus=1)
            yield two
        finally:
            two.shutdown()


@pytest.mark.slow
def test_two_nodes_a_killed_worker_and_a_lost_node(tmp_path: Path, cluster: Any) -> None:
    archive, out = stub_archive(tmp_path, seconds=0.1), tmp_path / "out"
    photos = [str(path) for path in write_photos(tmp_path / "photos", 240)]
    arguments = (archive, tmp_path / "photos", out, "--shard-size", 10, "--address", cluster.address)
    process = start_batch(*arguments, "--stall-timeout", 15)

    def workers() -> list[psutil.Process]:
        return [process for process in ray_processes() if "PhotoWorker" in str(process.info["name"])]

    wait_for(lambda: len(list(out.glob("*.parquet"))) >= 3, process)
    victims = workers()
    assert len(victims) == 2, "one predictor a node"
    victims[0].kill()
    written = len(list(out.glob("*.parquet")))
    wait_for(lambda: len(list(out.glob("*.parquet"))) >= written + 3, process)
    cluster.remove_node(cluster.second, allow_graceful=False)
    _, said = process.communicate(timeout=150)
    assert process.returncode == 0, said
    assert sorted(photos_in(out)) == photos
    assert not [row for row in read(out) if row["error_code"]]


@pytest.mark.slow
@pytest.mark.e2e
def test_answers_equal_those_of_torchserve(tmp_path: Path, served: Any) -> None:
    """The same archive, the same photos: equal to the digit with TorchServe, and with the service in process."""
    from handler.api.options import Options
    from handler.api.settings import Settings
    from handler.model.predictor import Predictor
    from handler.service import Request, Service

    (archive,) = served.store.glob("*.mar")
    photos = write_photos(tmp_path / "photos", 8)
    write_bad_photos(tmp_path / "photos")["image_too_large"].unlink()
    photos = sorted((tmp_path / "photos").iterdir())
    run = run_batch(archive, tmp_path / "photos", tmp_path / "out", "--max-detections", 20)
    assert run.returncode == 0, run.stderr
    rows = read(tmp_path / "out")
    unpacked = next((archive.parents[1] / "archive").glob("parts"))
    predictor = Predictor.load(unpacked, device="cpu", precision="fp32", engine="torch", threads=1)
    service = Service(predictor, Settings(options=Options(score_threshold=0.05)))
    found = 0
    for path in photos:
        form = {"image": io.BytesIO(path.read_bytes())}
        reply = served.client.request(
            "inference",
            "POST",
            "/predictions/maskrcnn",
            files=form,
            data={"max_detections": "20"},
            timeout=60,
        )
        (inside,) = service.answer([Request({"image": path.read_bytes(), "max_detections": 20})])
        mine = [{k: v for k, v in row.items() if v is not None} for row in rows if row["photo"] == str(path)]
        assert mine == rows_of(str(path), reply.json()) == rows_of(str(path), json.loads(inside.body))
        found += len(mine)
    assert found > 30
