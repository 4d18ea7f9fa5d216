"""``python -m serve_config COMMAND``: start and stop TorchServe, and tell it what to serve."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from serve_config import doctor
from serve_config.errors import ServeError
from serve_config.server.properties import DEFAULT_PORTS, Settings
from serve_config.server.state import Home


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serve_config", description="Start and stop TorchServe, and tell it what to serve."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    home = os.environ.get("SERVE_HOME", ".serve")

    def add(name: str, about: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
        command.add_argument(
            "--home", default=home, metavar="DIR", help="state folder ($SERVE_HOME or .serve)"
        )
        return command

    start = add("start", "start TorchServe and wait until its models are READY")
    option = start.add_argument
    option(
        "--models",
        nargs="+",
        metavar="ARCHIVE",
        help="archives or versions to serve; the first is the default",
    )
    about = "a list as `fetch` reads it: what to serve the first time, its first archive the default"
    option("--list", metavar="LIST", help=about)
    option("--fresh", action="store_true", help="do not bring back what was registered when it stopped")
    option(
        "--model-store",
        type=Path,
        default="model_store",
        metavar="DIR",
        help="folder of archives (%(default)s)",
    )
    add_ports(start)
    chosen = Settings()
    about = "workers per version where its archive does not say (%(default)s)"
    option("--workers", type=positive, default=chosen.workers, metavar="N", help=about)
    about = "requests that may wait per version; one more gets a 503 (%(default)s)"
    option("--queue-size", type=positive, default=chosen.job_queue_size, metavar="N", help=about)
    about = "seconds after which a silent worker is restarted (%(default)s)"
    option("--response-timeout", type=positive, default=chosen.response_timeout, metavar="S", help=about)
    option(
        "--foreground", action="store_true", help="stay until SIGTERM or Ctrl-C, then stop it (for systemd)"
    )

    add("stop", "stop TorchServe and its workers")

    status = add("status", "show versions, workers, queue, memory, GPU, last errors; exit 1 if not healthy")
    models = add("models", "list registered versions and the archives in the model store")
    for command in (status, models):
        command.add_argument("--json", action="store_true", help="as JSON")

    register = add("register", "register an archive as a further version, wait until it is READY")
    about = "a .mar file (copied into the model store if it lies elsewhere), or a version in the store"
    register.add_argument("archive", metavar="ARCHIVE", help=about)
    swap = add("swap", "make a version the default without losing a request")
    swap.add_argument("version", metavar="VERSION", help="registered, or model_store/maskrcnn_VERSION.mar")
    about = "take the old default down once it has answered everything"
    swap.add_argument("--unregister-old", action="store_true", help=about)
    about = "seconds to wait for that (%(default)s)"
    swap.add_argument("--drain-timeout", type=positive, default=120, metavar="S", help=about)
    for command in (register, swap):
        about = "even if its class names differ from the default's"
        command.add_argument("--allow-other-classes", action="store_true", help=about)
    add("rollback", "make the default before the last swap the default again")
    unregister = add("unregister", "take a version down (not the default)")
    unregister.add_argument("version", metavar="VERSION")

    fetch = add("fetch", "download archives into the model store, by a list with their SHA-256")
    fetch.add_argument(
        "list", metavar="LIST", help="`SHA256  https://…/NAME.mar` a line; - reads standard input"
    )
    fetch.add_argument(
        "--to", type=Path, default="model_store", metavar="DIR", help="model store (%(default)s)"
    )

    option = add("predict", "send a picture, print the JSON or write the PNG").add_argument
    option("image", type=Path, metavar="IMAGE")
    option("--version", metavar="VERSION", help="instead of the default")
    option("--output", choices=["json", "coco", "overlay", "splash", "labels"], help="the last three are PNG")
    option("--to", type=Path, metavar="FILE", help="write the answer there")
    option("--score-threshold", type=float, metavar="0..1")
    option("--max-detections", type=positive, metavar="1..300")
    option("--classes", metavar="NAMES", help="names or ids, comma separated")
    option("--mask-format", choices=["rle", "polygon", "png", "none"])
    option("--raw", action="store_true", help="print the JSON as it came, masks in full")
    option("--timeout", type=positive, default=120, metavar="S", help="seconds to wait (%(default)s)")

    option = add("plan", "tell how many machines a load needs, from what `make bench` measured").add_argument
    option("--rate", type=above_zero, required=True, metavar="R", help="requests a second")
    option(
        "--p95",
        type=above_zero,
        required=True,
        metavar="MS",
        help="95 %% are to be answered within so many ms",
    )
    measured = Path("reports/bench_http/bench_http.json")
    option("--bench", type=Path, default=measured, metavar="FILE", help="the report to plan by (%(default)s)")
    option("--json", action="store_true", help="as JSON")

    curl = add("curl", "print the curl line that sends a picture")
    curl.add_argument("image", nargs="?", default="photo.jpg", metavar="IMAGE")
    curl.add_argument("--version", metavar="VERSION", help="instead of the default")
    add("header", "print the Authorization header, to pipe into `curl --header @-`")

    add_ports(add("doctor", "look for what is missing on this machine, and tell the cure"))
    return parser


def add_ports(parser: argparse.ArgumentParser) -> None:
    for name, port in DEFAULT_PORTS.items():
        variable = f"SERVE_{name.upper()}_PORT"
        default = os.environ.get(variable, str(port))
        about = f"0 takes a free one (${variable} or {port})"
        parser.add_argument(
            f"--{name.replace('_', '-')}-port", type=int, default=default, metavar="N", help=about
        )


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    args = build_parser().parse_args(argv)
    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        return run(args, Home.at(args.home))
    except ServeError as error:
        return fail(str(error))
    except ModuleNotFoundError as error:
        return fail(
            f"the Python package {error.name} is missing: run `make install`, and use .venv/bin/python"
        )
    except BrokenPipeError:  # `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, former)


def run(args: argparse.Namespace, home: Home) -> int:
    if args.command == "doctor":  # must run where no package is installed
        findings = doctor.examine(home, {name: getattr(args, f"{name}_port") for name in DEFAULT_PORTS})
        print(doctor.as_text(findings))
        return 1 if any(finding.level == "missing" for finding in findings) else 0
    from serve_config import commands

    return int(getattr(commands, f"run_{args.command}")(args, home))


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM tidies up as Ctrl-C does."""
    raise KeyboardInterrupt


def fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1
