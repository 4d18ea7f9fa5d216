"""``maskrcnn predict --ray``: every photo exactly once, whatever happens to workers and nodes."""

from __future__ import annotations

import io
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest
from PIL import Image

pytest.importorskip("ray", reason="ray is not installed: make install-batch")

from handler.predict import cluster as ray_job
from handler.predict.store import KEPT
from tests.handler.predict.archives import (
    answered,
    answers,
    errors,
    run_predict,
    start_predict,
    stub_archive,
    wait_for,
    write_bad_photos,
    write_photos,
)


def ray_processes() -> list[psutil.Process]:
    names = ("raylet", "gcs_server", "ray::")
    return [p for p in psutil.process_iter(["name", "cmdline"]) if str(p.info["name"]).startswith(names)]


@pytest.mark.parametrize(
    ("gpus", "threads", "actors"), [(0, None, 8), (0, 4, 2), (2, None, 2), (2, 3, 2)], ids=str
)
def test_actors_reserve_the_cores_that_they_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, threads: int | None, actors: int
) -> None:
    remote, spread = MagicMock(), MagicMock(return_value=[])
    monkeypatch.setattr(ray_job, "_connected", lambda *_: nullcontext())
    monkeypatch.setattr(ray_job, "_spread", spread)
    monkeypatch.setattr(ray_job.ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": float(gpus)})
    monkeypatch.setattr(ray_job.ray, "remote", lambda _: remote)
    monkeypatch.setattr(ray_job.ray, "put", len)
    (tmp_path / "stub.mar").write_bytes(b"stub")
    job = SimpleNamespace(ray="auto", threads=threads, batch_size=None, stall_timeout=100)
    assert list(ray_job.answers(tmp_path / "stub.mar", job, {}, [*map(str, range(400))])) == []
    _, start, started, _ = spread.call_args.args
    assert remote.options.call_args.kwargs["num_cpus"] == start.keywords["threads"] == (threads or 1)
    assert remote.options.call_args.kwargs["num_gpus"] == (1 if gpus else None)
    assert started == actors


@pytest.fixture(autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    before = {process.pid for process in ray_processes()}
    yield
    deadline = time.monotonic() + 120  # its agents look for a killed Ray once in a while
    while left := [process for process in ray_processes() if process.pid not in before]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


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
    run = run_predict(archive, listing, "--output", tmp_path / "out", "--ray", "local")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == f"{tmp_path}/out/coco.json"  # Ray prints lost workers before it
    assert "Traceback" not in run.stderr
    assert sorted(answered(tmp_path / "out")) == sorted(str(path) for path in [*good, *bad.values()])
    assert errors(tmp_path / "out") == {str(path): code for code, path in bad.items()}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_resume(tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    # a killed job cannot remove its folder of sockets, whose paths must be short
    scratch = tempfile.mkdtemp(prefix="b-", dir="/tmp")
    monkeypatch.setenv("TMPDIR", scratch)
    archive, out = stub_archive(tmp_path, seconds=0.1), tmp_path / "out"
    photos = [str(path) for path in write_photos(tmp_path / "photos", 120)]
    arguments = (archive, tmp_path / "photos", "--output", out, "--shard-size", 10, "--ray", "local")
    process = start_predict(*arguments)
    wait_for(lambda: len(list(out.glob("answers/*.jsonl"))) >= 2, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number), said
    before = answered(out)
    assert 20 <= len(before) < 120
    run = run_predict(*arguments)
    assert run.returncode == 0, run.stderr
    assert f"{len(before)} of 120 photos are done already" in run.stderr
    assert sorted(answered(out)) == photos
    again = run_predict(*arguments)
    assert again.returncode == 0
    assert sorted(answered(out)) == photos
    shutil.rmtree(scratch)


@pytest.mark.slow
def test_an_archive_that_does_not_load(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 6)
    archive = stub_archive(tmp_path, weights=b"")
    run = run_predict(archive, tmp_path / "photos", "--output", tmp_path / "out", "--ray", "local")
    assert run.returncode == 1
    assert "no weights at all" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_a_photo_that_hangs(tmp_path: Path) -> None:
    good = write_photos(tmp_path / "photos", 12)
    Image.new("RGB", (60, 40), "black").save(tmp_path / "photos/hangs.png")
    run = run_predict(
        *(stub_archive(tmp_path), tmp_path / "photos", "--output", tmp_path / "out"),
        *("--ray", "local", "--stall-timeout", 20),
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    hangs = str(tmp_path / "photos/hangs.png")
    assert sorted(answered(tmp_path / "out")) == [*(str(path) for path in good), hangs]
    assert errors(tmp_path / "out") == {hangs: "worker_died"}


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
    arguments = (archive, tmp_path / "photos", "--output", out, "--shard-size", 10, "--ray", cluster.address)
    process = start_predict(*arguments, "--stall-timeout", 15)

    def workers() -> list[psutil.Process]:
        return [process for process in ray_processes() if "PredictorProcess" in str(process.info["name"])]

    wait_for(lambda: len(list(out.glob("answers/*.jsonl"))) >= 3, process)
    victims = workers()
    assert len(victims) == 2, "one predictor a node"
    victims[0].kill()
    written = len(list(out.glob("answers/*.jsonl")))
    wait_for(lambda: len(list(out.glob("answers/*.jsonl"))) >= written + 3, process)
    cluster.remove_node(cluster.second, allow_graceful=False)
    _, said = process.communicate(timeout=150)
    assert process.returncode == 0, said
    assert sorted(answered(out)) == photos
    assert not errors(out)


@pytest.mark.slow
@pytest.mark.e2e
def test_answers_equal_those_of_torchserve(tmp_path: Path, served: Any) -> None:
    """The same archive, the same photos: equal to the digit, on Ray and on this machine."""
    (archive,) = served.store.glob("*.mar")
    write_photos(tmp_path / "photos", 8)
    write_bad_photos(tmp_path / "photos")["image_too_large"].unlink()
    expected = []
    for path in sorted((tmp_path / "photos").iterdir()):
        reply = served.client.request(
            *("inference", "POST", "/predictions/maskrcnn"),
            files={"image": io.BytesIO(path.read_bytes())},
            data={"max_detections": "20"},
            timeout=60,
        )
        document = reply.json()
        expected.append({"photo": str(path), **{key: document[key] for key in KEPT if key in document}})
    assert sum(len(each.get("instances", ())) for each in expected) > 30
    for more in ([], ["--ray", "local"]):
        out = tmp_path / f"out{len(more)}"
        run = run_predict(archive, tmp_path / "photos", "--output", out, "--max-detections", 20, *more)
        assert run.returncode == 0, run.stderr
        assert sorted(answers(out), key=lambda answer: answer["photo"]) == expected
