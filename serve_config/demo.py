"""``make demo``: the whole chain by its own commands, from drawn photos to a page that shows masks.

Every step runs a command that a user would type, printed before it runs; no other room is imported. What a
step made stays in ``.demo/``, so a second run goes straight to serving. Ctrl-C at any time ends all that was started.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serve_config.server.interrupts import interrupts_wait

HOME = Path(".demo")
DATA = HOME / "data"
STORE = HOME / "model_store"
SERVE = HOME / "serve"
STARTER = Path("model_store/mobilenetv2_fpn_starter.safetensors")
PORTS = {
    "inference": 8080,
    "management": 8081,
    "metrics": 8082,
    "grpc-inference": 7070,
    "grpc-management": 7071,
}
WEB_PORT = 5000

# Small pictures and few steps: two minutes on two cores. `python -m finetune train` without keys is the real recipe.
SMALL = (
    "FINETUNE.AUGMENT.CROP_SIZE 256 FINETUNE.AUGMENT.SCALE_MIN 0.8 FINETUNE.AUGMENT.SCALE_MAX 1.5 "
    "INPUT.MIN_SIZE_TEST 256 MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 64 DATALOADER.NUM_WORKERS 1 "
    "FINETUNE.PATIENCE 0 SOLVER.CHECKPOINT_PERIOD 50 TEST.EVAL_PERIOD 50"
)
TRAININGS = {
    # the starter's widths, so that all of it fits
    "mobilenetv2_fpn": f"{SMALL} SOLVER.MAX_ITER 50 MODEL.FPN.OUT_CHANNELS 128 MODEL.ROI_MASK_HEAD.CONV_DIM 128",
    "vovnet19_fpn": f"{SMALL} SOLVER.MAX_ITER 50 SOLVER.IMS_PER_BATCH 2",
}
NOTES = {"vovnet19_fpn": ", the second version, from random weights: too short to find anything yet"}


class DemoError(Exception):
    """A step did not do what it should have done. The message says which."""


def main(argv: list[str] | None = None) -> int:
    """Run the demo. Exit status: 0 all went well, 1 a step failed, 130 Ctrl-C before the page was up."""
    parser = argparse.ArgumentParser(prog="python -m serve_config.demo", description=__doc__)
    parser.add_argument("--check", action="store_true", help="do not stay: exit 0 if all went well, else 1")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    started = time.monotonic()
    try:
        make()
        with serving(any_ports=args.check) as page:
            show(page)
            print(f"\nAll done in {time.monotonic() - started:.0f} s.")
            if not args.check:
                stay(page)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; what was made lies in .demo/ and will be used next time.")
        return 130
    return 0


# --- what is made once ----------------------------------------------------------------------------------------------


def make() -> None:
    """Draw, train, evaluate, export: each only if its result is not there yet."""
    if not (DATA / "dataset.json").exists():
        step(
            "Draw balloons with exact masks",
            f"finetune data synthetic --root {DATA} --images 60 --size 480x360",
        )
    for backbone, keys in TRAININGS.items():
        run = HOME / "runs" / backbone
        if not finished(run):
            options = f"--data {DATA} --weights {initial_weights(backbone)} --output {run}"
            again = (run / "last.pth").exists()
            step(
                f"{'Go on to fine-tune' if again else 'Fine-tune'} {backbone}{NOTES.get(backbone, '')}",
                f"finetune train {backbone} {options} " + ("--resume" if again else keys),
            )
        if not (run / "evaluation/test/report.json").exists():
            step(
                f"Evaluate {backbone} on photos that it has not seen",
                f"finetune evaluate {run} --data {DATA} --split test",
            )
        if not archive(backbone).exists():
            step(f"Package {backbone} for TorchServe", f"finetune export {run} --output {STORE}")


def initial_weights(backbone: str) -> str:
    """The starter checkpoint where it fits; nothing else is at hand without a download."""
    return str(STARTER) if backbone == "mobilenetv2_fpn" and STARTER.exists() else "none"


def finished(run: Path) -> bool:
    """Whether the run's training has reached its last step."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        return record["iterations"] == record["planned_iterations"]
    return False


def archive(backbone: str) -> Path:
    """The archive of a backbone."""
    return STORE / f"maskrcnn_{backbone}.mar"


# --- what is served -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(*, any_ports: bool) -> Iterator[str]:
    """TorchServe with both backbones, and the page. Yields the page's URL; in the end nothing is left running."""
    first, second = TRAININGS
    free = any_ports or not all(is_free(port) for port in (*PORTS.values(), WEB_PORT))
    ports = " ".join(f"--{name}-port {0 if free else port}" for name, port in PORTS.items())
    start = f"serve_config start --home {SERVE} --model-store {STORE} --models {first} --fresh {ports}"
    try:
        step("Start TorchServe", start)
    except KeyboardInterrupt:
        run(f"serve_config stop --home {SERVE}")
        raise
    try:  # only now: a TorchServe that ran before is not ours to stop
        step("Register a second backbone beside it", f"serve_config register {second} --home {SERVE}")
        with page_server(0 if free else WEB_PORT) as page:
            yield page
    finally:
        step("Stop TorchServe", f"serve_config stop --home {SERVE}")


def is_free(port: int) -> bool:
    """Whether nobody listens on this port of ours."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@contextlib.contextmanager
def page_server(port: int) -> Iterator[str]:
    """The web client in a process of its own. Yields its URL."""
    ports = json.loads((SERVE / "state.json").read_text(encoding="utf-8"))["ports"]
    command = (
        f"web_client --port {port} --inference-url http://127.0.0.1:{ports['inference']} "
        f"--management-url http://127.0.0.1:{ports['management']} --key-file {SERVE / 'key_file.json'}"
    )
    say("Start the page", command)
    process = None
    try:
        with open(HOME / "web_client.log", "w", encoding="utf-8") as log, interrupts_wait():
            process = subprocess.Popen(
                python(command), stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        line = process.stdout.readline() if process.stdout else ""
        if "http://" not in line:
            raise DemoError(f"the page did not start: see {HOME / 'web_client.log'}")
        yield line[line.index("http://") :].strip()
    finally:
        if process:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def show(page: str) -> None:
    """Send a picture to both backbones and through the page, print what comes back, write the overlay."""
    import requests

    picture = picture_with_most_balloons()
    first, second = TRAININGS
    answer = step("Send a picture", f"serve_config predict {picture} --home {SERVE}", capture=True)
    print(answer, end="")
    overlay = HOME / "overlay.png"
    step(
        "Write the overlay", f"serve_config predict {picture} --output overlay --to {overlay} --home {SERVE}"
    )
    width, height = png_size(overlay)
    print(f"{overlay}: {width} × {height} pixels")

    step("Swap the default", f"serve_config swap {second} --home {SERVE}")
    version = predicted_version(picture)
    if version != second:
        raise DemoError(f"after the swap, {version} answered instead of {second}")
    step("Swap back", f"serve_config rollback --home {SERVE}")
    if predicted_version(picture) != first:
        raise DemoError(f"after the rollback, {first} does not answer")

    with requests.Session() as session:
        session.trust_env = False  # a proxy of the environment does not lead to this machine
        try:
            files = {"image": (picture.name, picture.read_bytes())}
            reply = session.post(f"{page}api/predict", files=files, timeout=60)
            ready = session.get(f"{page}readyz", timeout=10)
        except requests.RequestException as error:
            raise DemoError(f"the page does not answer: {error}") from error
    if reply.status_code != 200 or "instances" not in reply.json():
        raise DemoError(f"the page answered {reply.status_code}: {reply.text[:200]}")
    if ready.status_code != 200:
        raise DemoError("the page says that it is not ready")
    print(f"The page found {len(reply.json()['instances'])} balloons in the same picture.")


def stay(page: str) -> None:
    """Say where everything is, and wait for Ctrl-C."""
    curl = run(f"serve_config curl {picture_with_most_balloons()} --home {SERVE}", capture=True)
    print(f"\n  the page     {page}\n  the overlay  {HOME / 'overlay.png'}\n  by hand      {curl.strip()}")
    print(f"  its state    {RUN} -m serve_config status --home {SERVE}\n\nCtrl-C stops it all.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
    print()


def predicted_version(picture: Path) -> str:
    """Which version answers a request to the default."""
    answer = json.loads(run(f"serve_config predict {picture} --raw --home {SERVE}", capture=True))
    return str(answer["model"]["version"])


def picture_with_most_balloons() -> Path:
    """The test picture that has the most to show."""
    coco = json.loads((DATA / "test.json").read_text(encoding="utf-8"))
    counts: dict[Any, int] = {}
    for annotation in coco["annotations"]:
        counts[annotation["image_id"]] = counts.get(annotation["image_id"], 0) + 1
    best = max(coco["images"], key=lambda image: counts.get(image["id"], 0))
    return DATA / str(best["file_name"])


def png_size(path: Path) -> tuple[int, int]:
    """Width and height from a PNG's header."""
    header = path.read_bytes()[:24]
    if not header.startswith(b"\x89PNG"):
        raise DemoError(f"{path} is not a PNG")
    width, height = struct.unpack(">II", header[16:24])
    return width, height


# --- commands -------------------------------------------------------------------------------------------------------

RUN = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else sys.executable


def python(command: str) -> list[str]:
    """The words of ``python -m COMMAND``."""
    return [sys.executable, "-m", *shlex.split(command)]


def say(title: str, command: str) -> None:
    """Announce a step and the command that does it."""
    width = shutil.get_terminal_size().columns
    shown = f"  python -m {command}"
    print(f"\n▸ {title}\n{shown if len(shown) <= 3 * width else shown[: 3 * width] + ' …'}", flush=True)


def step(title: str, command: str, *, capture: bool = False) -> str:
    """Announce a step and run its command."""
    say(title, command)
    return run(command, capture=capture)


def run(command: str, *, capture: bool = False) -> str:
    """Run ``python -m COMMAND`` to its end, and return what it printed if that is captured.

    Raises:
        DemoError: it failed; its own words stand above.
    """
    process = None
    try:
        with interrupts_wait():
            process = subprocess.Popen(
                python(command), stdout=subprocess.PIPE if capture else None, text=True
            )
        output, _ = process.communicate()
    except KeyboardInterrupt:
        if process:
            process.send_signal(signal.SIGINT)  # from a terminal it has had one already, and takes two as one
            process.wait()
        raise
    if process.returncode == 130:
        raise KeyboardInterrupt
    if process.returncode:
        raise DemoError(f"`python -m {command.split(' --')[0]}` failed, see above")
    return output or ""


if __name__ == "__main__":
    sys.exit(main())
