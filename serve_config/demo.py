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
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from serve_config.errors import ServeError
from serve_config.server.processes import delayed_interrupts
from serve_config.server.properties import ANSWER_TIMEOUT, DEFAULT_PORTS, choose_ports

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
WEIGHTS = {  # that each backbone starts from
    "mobilenetv2_fpn": str(STARTER),
    "resnet50_fpn": "coco",
    "resnet101_fpn": "coco",
    "vovnet19_fpn": "coco",
}


@click.command()
@click.option("--backbone", type=click.Choice(list(WEIGHTS)), default="mobilenetv2_fpn", show_default=True)
@click.option("--check", is_flag=True, help="Do not stay: exit with 0 if all went well, else 1.")
def demo(backbone: str, check: bool) -> None:
    """Fine-tune, serve, swap and roll back on synthetic photos; then open the page until Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):  # also where SIGINT is inherited ignored, as after `nohup`
        signal.signal(number, signal.default_int_handler)
    started = time.monotonic()
    make(backbone)
    tuned = f"{backbone}.2"
    with serving("starter", tuned, any_port=check) as page:
        show("starter", tuned)
        ask_page(page)
        click.echo(f"\nAll done in {time.monotonic() - started:.0f} s.")
        if not check:
            stay(page)


def make(backbone: str) -> None:
    """Draw, train, evaluate, export; each step only if its result is not there."""
    run = HOME / "runs" / backbone
    if not (DATA / "dataset.json").exists():
        step("Draw photos of balloons", f"data synthetic --root {DATA} --images 24 --size 320x240")
    if not finished(run):
        command = f"train {backbone} --data {DATA} --output {run}"
        more = "--resume" if (run / "last.pth").exists() else f"--weights {WEIGHTS[backbone]} {FEW_STEPS}"
        step(f"Fine-tune {backbone} for a few steps", f"{command} {more}")
    if not (run / "evaluation/test/report.json").exists():
        step("Choose its score threshold on the val photos", f"evaluate {run} --data {DATA} --split val")
        step("Evaluate it on photos that it has not seen", f"evaluate {run} --data {DATA} --split test")
    measured = f"--data {DATA} --max-loss 5"  # four test photos: one object is several points
    for source, version, options in ((STARTER, "starter", ""), (run, f"{backbone}.2", measured)):
        if not (STORE / f"maskrcnn_{version}.mar").exists():
            command = f"export {source} --version {version} --output {STORE} {options}".strip()
            step(f"Package {version} for TorchServe", command)


def finished(run: Path) -> bool:
    """Whether a run's training has reached its last step."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        return bool(record["iterations"] == record["planned_iterations"])
    return False


@contextlib.contextmanager
def serving(first: str, second: str, *, any_port: bool) -> Iterator[str]:
    """TorchServe with two versions, and the page. Yields the page's URL; nothing is left running at the end."""
    try:
        choose_ports({**DEFAULT_PORTS, "page": WEB_PORT})
    except ServeError:
        any_port = True
    ports = " ".join(f"--{name.replace('_', '-')}-port 0" for name in DEFAULT_PORTS) if any_port else ""
    start = f"serve start --home {SERVE} --model-store {STORE} --models {first} --models {second} {ports}"
    stop = f"serve stop --home {SERVE}"
    try:
        step("Start TorchServe", start.strip())
    except KeyboardInterrupt:
        step("Stop TorchServe", stop)
        raise
    try:  # only now: a TorchServe that was running already is not ours to stop
        with page_server(0 if any_port else WEB_PORT) as page:
            yield page
    finally:
        step("Stop TorchServe", stop)


@contextlib.contextmanager
def page_server(port: int) -> Iterator[str]:
    """The web client in a process of its own. Yields its URL."""
    ports = json.loads((SERVE / "state.json").read_text(encoding="utf-8"))["ports"]
    urls = " ".join(f"--{name}-url http://127.0.0.1:{ports[name]}" for name in ("inference", "management"))
    with open(HOME / "web_client.log", "w", encoding="utf-8") as log:
        process = launch(
            "Start the page", f"web --port {port} {urls} --key-file {SERVE / 'key_file.json'}", log
        )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if "http://" not in line:
            raise ServeError(f"the page did not start: see {HOME / 'web_client.log'}")
        yield line[line.index("http://") :].strip()
    finally:
        end(process)


def show(first: str, second: str) -> None:
    """Ask the default version, swap, roll back. Raises ServeError if another version than expected answers."""
    image = image_with_most_balloons()
    step("Send a photo", f"serve ask {image} --max-detections 1 --home {SERVE}")
    step("Draw the masks", f"serve ask {image} --output overlay --to {HOME / 'overlay.png'} --home {SERVE}")
    step("Make the fine-tuned version the default", f"serve swap {second} --home {SERVE}")
    expect(second, image)
    step("Go back", f"serve rollback --home {SERVE}")
    expect(first, image)


def ask_page(page: str) -> None:
    """Send the photo through the page's API. Raises ServeError unless it is answered."""
    import requests

    image = image_with_most_balloons()
    with requests.Session() as session:
        session.trust_env = False  # no proxy from the environment between us and 127.0.0.1
        try:
            answer = session.post(
                f"{page}api/predict", files={"image": image.read_bytes()}, timeout=ANSWER_TIMEOUT
            )
            answer.raise_for_status()
        except requests.RequestException as error:
            raise ServeError(f"the page does not answer ({error}): see {HOME / 'web_client.log'}") from error
    click.echo(f"\nThrough the page: {len(answer.json()['instances'])} instances in {image}")


def expect(version: str, image: Path) -> None:
    """Raise ServeError unless ``version`` answers."""
    process = launch("Who answers?", f"serve ask {image} --raw --home {SERVE}")
    answer, _ = wait(process)
    answered = json.loads(answer)["model"]["version"]
    click.echo(answered)
    if answered != version:
        raise ServeError(f"{answered} answered instead of {version}: look at {SERVE / 'logs'}")


def stay(page: str) -> None:
    """Print the addresses and wait for Ctrl-C."""
    click.echo(f"\n  page     {page}\n  overlay  {HOME / 'overlay.png'}")
    click.echo(
        f"  status   maskrcnn serve status --home {SERVE}\n  predict  maskrcnn serve ask PHOTO --home {SERVE}"
    )
    click.echo("\nCtrl-C stops everything.")
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


def image_with_most_balloons() -> Path:
    """The test photo with the most to see."""
    coco = json.loads((DATA / "test.json").read_text(encoding="utf-8"))
    counts = Counter(annotation["image_id"] for annotation in coco["annotations"])
    best = max(coco["images"], key=lambda image: counts[image["id"]])
    return DATA / str(best["file_name"])


# --- commands -------------------------------------------------------------------------------------------------------


def step(title: str, command: str) -> None:
    """Run a command of ours to its end. Raises ServeError if it fails."""
    wait(launch(title, command, stdout=None))


def launch(title: str, command: str, stderr: object = None, stdout: int | None = -1) -> subprocess.Popen[str]:
    """Announce a command of ours and start it, in a session of its own: Ctrl-C reaches it only through us.

    It starts with SIGINT blocked. `maskrcnn.run` unblocks it; before that, Python would print a traceback.
    """
    shown, width = f"  maskrcnn {command}", 3 * shutil.get_terminal_size().columns
    click.echo(f"\n▸ {title}\n{shown if len(shown) <= width else shown[:width] + ' …'}")
    words = [sys.executable, "-m", "maskrcnn", *shlex.split(command)]
    process = None
    try:
        with delayed_interrupts():
            process = subprocess.Popen(  # type: ignore[call-overload]
                words,
                stdout=stdout,
                stderr=stderr,
                text=True,
                start_new_session=True,
                preexec_fn=_block_interrupts,
            )
    except KeyboardInterrupt:
        if process:
            end(process)
        raise
    return process


def _block_interrupts() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def wait(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a process printed, once it has ended. Raises ServeError if it failed; ends it on Ctrl-C."""
    try:
        output = process.communicate()
    except KeyboardInterrupt:
        end(process)
        raise
    if process.returncode:
        raise ServeError(f"a step failed with exit status {process.returncode}: see above")
    return output


def end(process: subprocess.Popen[str], patience: float = 30) -> None:
    """Press Ctrl-C on a process and wait; kill it if that does not help."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    process.kill()
    process.communicate()


if __name__ == "__main__":
    from maskrcnn import run

    sys.exit(run(demo, "python -m serve_config.demo"))
