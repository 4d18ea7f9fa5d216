"""``make demo``: fine-tune, serve, swap and roll back by the commands that a user would type, then open the page.

Each command is printed before it runs. What it makes stays in ``.demo/``, so that a second run only serves. Ctrl-C ends
everything that was started.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from maskrcnn import Rooms, maskrcnn, run
from serve_config.errors import ServeError
from serve_config.models.ask import ask
from serve_config.models.client import Client
from serve_config.server.processes import delayed_interrupts
from serve_config.server.properties import ANSWER_TIMEOUT, DEFAULT_PORTS, choose_ports
from serve_config.server.state import Home

HOME = Path(".demo")
DATA, STORE, SERVE = HOME / "data", HOME / "model_store", HOME / "serve"
STARTER = Path("model_store/mobilenetv2_fpn_starter.safetensors")
WEB_PORT = 5000

# the smallest training that shows every step; `maskrcnn train` without these keys is the real recipe
FEW_STEPS = (
    "SOLVER.MAX_ITER 12 SOLVER.IMS_PER_BATCH 2 SOLVER.CHECKPOINT_PERIOD 12 TEST.EVAL_PERIOD 12 FINETUNE.PATIENCE 0 "
    "FINETUNE.AUGMENT.CROP_SIZE 256 INPUT.MIN_SIZE_TEST 256 MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 64 "
    "DATALOADER.NUM_WORKERS 1"
)
BACKBONES = ["mobilenetv2_fpn", "resnet50_fpn", "resnet101_fpn", "vovnet19_fpn"]


@click.command()
@click.option("--backbone", type=click.Choice(BACKBONES), default=BACKBONES[0], show_default=True)
@click.option("--check", is_flag=True, help="Do not stay: exit with 0 if all went well, else 1.")
def demo(backbone: str, check: bool) -> None:
    """Fine-tune, serve, swap and roll back on synthetic photos; then open the page until Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):  # also where SIGINT is inherited ignored, as after `nohup`
        signal.signal(number, signal.default_int_handler)
    started = time.monotonic()
    make(backbone)
    with serving("starter", f"{backbone}.2", any_port=check) as page:
        show("starter", f"{backbone}.2", page)
        click.echo(f"\nAll done in {time.monotonic() - started:.0f} s.")
        if not check:
            click.echo(f"\n  page     {page}\n  overlay  {HOME / 'overlay.png'}")
            click.echo(f"  status   maskrcnn serve status --home {SERVE}\n\nCtrl-C stops everything.")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()


def make(backbone: str) -> None:
    """Draw, train, evaluate, export; each step only if its result is not there."""
    trained = HOME / "runs" / backbone
    if not (DATA / "dataset.json").exists():
        step("Draw photos of balloons", f"data synthetic --root {DATA} --images 24 --size 320x240")
    if not (trained / "evaluation/test/report.json").exists():
        weights = STARTER if backbone == BACKBONES[0] else "coco"
        more = "--resume" if (trained / "last.pth").exists() else f"--weights {weights} {FEW_STEPS}"
        step("Fine-tune for a few steps", f"train {backbone} --data {DATA} --output {trained} {more}")
        step("Choose a score threshold on the val photos", f"evaluate {trained} --data {DATA} --split val")
        step("Evaluate on photos that it has not seen", f"evaluate {trained} --data {DATA} --split test")
    measured = f" --data {DATA} --max-loss 5"  # four test photos: one object is several points
    for source, version, options in ((STARTER, "starter", ""), (trained, f"{backbone}.2", measured)):
        if not (STORE / f"maskrcnn_{version}.mar").exists():
            step(f"Package {version}", f"export {source} --version {version} --output {STORE}{options}")


@contextlib.contextmanager
def serving(first: str, second: str, *, any_port: bool) -> Iterator[str]:
    """TorchServe with two versions, and the page. Yields the page's URL; nothing is left running at the end."""
    try:
        choose_ports({**DEFAULT_PORTS, "page": WEB_PORT})
    except ServeError:
        any_port = True
    ports = "".join(f" --{name.replace('_', '-')}-port 0" for name in DEFAULT_PORTS) if any_port else ""
    start = f"serve start --home {SERVE} --model-store {STORE} --models {first} --models {second}{ports}"
    stop = "Stop TorchServe", f"serve stop --home {SERVE}"
    try:
        step("Start TorchServe", start)
    except click.Abort:
        step(*stop)
        raise
    try:  # only now: a TorchServe that was running already is not ours to stop
        with page_server(0 if any_port else WEB_PORT) as page:
            yield page
    finally:
        step(*stop)


@contextlib.contextmanager
def page_server(port: int) -> Iterator[str]:
    """The web client in a process of its own, in a session that Ctrl-C does not reach. Yields its URL."""
    client = Client(Home.at(SERVE))
    urls = " ".join(f"--{name}-url {client.url(name, '')}" for name in ("inference", "management"))
    command = f"web --port {port} {urls} --key-file {SERVE / 'key_file.json'}"
    announce("Start the page", command)
    process = None
    try:
        with open(HOME / "web_client.log", "w", encoding="utf-8") as log, delayed_interrupts():
            words = [sys.executable, "-m", "maskrcnn", *shlex.split(command)]
            process = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        line = process.stdout.readline() if process.stdout else ""
        if "http://" not in line:
            raise ServeError(f"the page did not start: see {HOME / 'web_client.log'}")
        yield line[line.index("http://") :].strip()
    finally:
        if process:
            process.terminate()
            process.communicate()


def show(first: str, second: str, page: str) -> None:
    """Ask each version and the page, swap, roll back. Raises ServeError if another version than expected answers."""
    photos = json.loads((DATA / "test.json").read_text(encoding="utf-8"))["images"]
    image, home = DATA / str(photos[0]["file_name"]), f"--home {SERVE}"
    step("Send a photo", f"serve ask {image} --max-detections 1 {home}")
    step("Draw the masks", f"serve ask {image} --output overlay --to {HOME / 'overlay.png'} {home}")
    for title, command, version in (
        ("Make the fine-tuned version the default", f"serve swap {second} {home}", second),
        ("Go back", f"serve rollback {home}", first),
    ):
        step(title, command)
        answer = json.loads(ask(Client(Home.at(SERVE)), image, None, {}, ANSWER_TIMEOUT))
        answered = answer["model"]["version"]
        if answered != version:
            raise ServeError(f"{answered} answered instead of {version}: see {SERVE / 'logs'}")
        click.echo(f"a photo was answered by {answered}")
    shutil.rmtree(HOME / "found", ignore_errors=True)  # what is there already would not be asked again
    step("Send it through the page", f"predict {page} {image} --output {HOME / 'found'}")


def step(title: str, command: str) -> None:
    """Announce a command of ours and run it. Raises what it raises."""
    announce(title, command)
    if status := maskrcnn.main(shlex.split(command), "maskrcnn", standalone_mode=False, obj=Rooms()):
        raise ServeError(f"maskrcnn {command.split()[0]} ended with exit status {status}")


def announce(title: str, command: str) -> None:
    click.echo(f"\n▸ {title}\n  maskrcnn {command}")


if __name__ == "__main__":
    sys.exit(run(demo, "python -m serve_config.demo"))
