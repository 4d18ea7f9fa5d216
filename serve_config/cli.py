"""``python -m serve_config COMMAND``: start and stop TorchServe, and tell it what to serve."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from serve_config.config import DEFAULT_PORTS, Settings
from serve_config.errors import ServeError
from serve_config.state import Home

Run = Callable[[argparse.Namespace, Home], int]

# Imports that need installed packages happen inside the functions: `doctor` and `--help` must run without
# any.


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def run_start(args: argparse.Namespace, home: Home) -> int:
    from serve_config import foreground, torchserve
    from serve_config.client import Client
    from serve_config.management import default_version

    settings = Settings(
        ports={name: getattr(args, f"{name}_port") for name in DEFAULT_PORTS},
        job_queue_size=args.queue_size,
        response_timeout=args.response_timeout,
        workers=args.workers,
    )
    models = [] if args.fresh and args.models is None else args.models
    done = torchserve.start(home, settings, args.model_store, models, say)
    client = Client(home)
    default = default_version(client)
    print(f"TorchServe serves {', '.join(done) or 'nothing yet: `register` an archive'}", end="")
    print(f" (default {default})" if len(done) > 1 else "")
    print(client.url("inference", "/predictions/maskrcnn"))
    return foreground.stay(home) if args.foreground else 0


def run_stop(args: argparse.Namespace, home: Home) -> int:
    from serve_config import torchserve

    print("TorchServe has stopped" if torchserve.stop(home) else "TorchServe was not running")
    return 0


def run_status(args: argparse.Namespace, home: Home) -> int:
    from serve_config import status

    report = status.collect(home)
    print(status.as_json(report) if args.json else status.as_text(report))
    return 0 if report.healthy else 1


def run_models(args: argparse.Namespace, home: Home) -> int:
    from serve_config import status
    from serve_config.client import Client

    print(status.models_table(Client(home), args.json))
    return 0


def run_register(args: argparse.Namespace, home: Home) -> int:
    from serve_config.archives import find_archive, read_archive
    from serve_config.client import Client
    from serve_config.management import default_version, refuse_other_classes, register
    from serve_config.state import State

    with home.lock():
        client = Client(home)
        archive = read_archive(find_archive(args.archive, Path(State.load(home).store)))
        refuse_other_classes(archive, client, args.allow_other_classes)
        version = register(client, archive, say)
        default = default_version(client)
        print(
            f"version {version} is READY"
            + (" and the default" if version == default else f"; {default} stays default")
        )
        print(client.url("inference", f"/predictions/maskrcnn/{version}"))
    return 0


def run_swap(args: argparse.Namespace, home: Home) -> int:
    from serve_config.client import Client
    from serve_config.swap import swap

    with home.lock():
        old = swap(
            Client(home),
            args.version,
            say,
            allow_other_classes=args.allow_other_classes,
            unregister_old=args.unregister_old,
            drain_timeout=args.drain_timeout,
        )
    print(f"version {args.version} is the default now" + (f" (before: {old})" if old else ""))
    return 0


def run_rollback(args: argparse.Namespace, home: Home) -> int:
    from serve_config.client import Client
    from serve_config.swap import rollback

    with home.lock():
        new, old = rollback(Client(home), say)
    print(f"version {new} is the default again (before: {old})")
    return 0


def run_unregister(args: argparse.Namespace, home: Home) -> int:
    from serve_config.client import Client
    from serve_config.management import unregister

    with home.lock():
        unregister(Client(home), args.version)
    print(f"version {args.version} is unregistered; its archive stays in the model store")
    return 0


def run_predict(args: argparse.Namespace, home: Home) -> int:
    from serve_config import predict
    from serve_config.client import Client

    names = ("output", "score_threshold", "max_detections", "classes", "mask_format")
    options = {name: str(getattr(args, name)) for name in names if getattr(args, name) is not None}
    if args.output in predict.PICTURES and args.to is None:
        raise ServeError(f"--output {args.output} is a PNG: say with --to FILE where to write it")
    content_type, body = predict.predict(Client(home), args.image, args.version, options, args.timeout)
    if args.to is not None:
        predict.write_file(args.to, body)
        print(args.to)
    else:
        print(predict.show(content_type, body, args.raw))
    return 0


def run_curl(args: argparse.Namespace, home: Home) -> int:
    from serve_config.client import Client
    from serve_config.predict import curl_line

    print(curl_line(Client(home), home, args.image, args.version))
    return 0


def run_header(args: argparse.Namespace, home: Home) -> int:
    from serve_config.client import Client
    from serve_config.predict import header

    print(header(Client(home)))
    return 0


def run_doctor(args: argparse.Namespace, home: Home) -> int:
    from serve_config import doctor

    findings = doctor.examine(home, {name: getattr(args, f"{name}_port") for name in DEFAULT_PORTS})
    print(doctor.as_text(findings))
    return 1 if any(finding.level == "missing" for finding in findings) else 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve_config", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    home = os.environ.get("SERVE_HOME", ".serve")

    def add(name: str, run: Run, about: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
        command.add_argument(
            "--home", default=home, metavar="DIR", help="state folder ($SERVE_HOME or .serve)"
        )
        command.set_defaults(run=run)
        return command

    start = add("start", run_start, "start TorchServe and wait until its models are READY")
    option = start.add_argument
    option(
        "--models",
        nargs="+",
        metavar="ARCHIVE",
        help="archives or versions to serve; the first is the default",
    )
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

    add("stop", run_stop, "stop TorchServe and its workers")

    status = add(
        "status", run_status, "show versions, workers, queue, memory, GPU, last errors; exit 1 if not healthy"
    )
    models = add("models", run_models, "list registered versions and the archives in the model store")
    for command in (status, models):
        command.add_argument("--json", action="store_true", help="as JSON")

    register = add(
        "register", run_register, "register an archive as a further version, wait until it is READY"
    )
    about = "a .mar file (copied into the model store if it lies elsewhere), or a version in the store"
    register.add_argument("archive", metavar="ARCHIVE", help=about)
    swap = add("swap", run_swap, "make a version the default without losing a request")
    swap.add_argument("version", metavar="VERSION", help="registered, or model_store/maskrcnn_VERSION.mar")
    about = "take the old default down once it has answered everything"
    swap.add_argument("--unregister-old", action="store_true", help=about)
    about = "seconds to wait for that (%(default)s)"
    swap.add_argument("--drain-timeout", type=positive, default=120, metavar="S", help=about)
    for command in (register, swap):
        about = "even if its class names differ from the default's"
        command.add_argument("--allow-other-classes", action="store_true", help=about)
    add("rollback", run_rollback, "make the default before the last swap the default again")
    unregister = add("unregister", run_unregister, "take a version down (not the default)")
    unregister.add_argument("version", metavar="VERSION")

    option = add("predict", run_predict, "send a picture, print the JSON or write the PNG").add_argument
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

    curl = add("curl", run_curl, "print the curl line that sends a picture")
    curl.add_argument("image", nargs="?", default="photo.jpg", metavar="IMAGE")
    curl.add_argument("--version", metavar="VERSION", help="instead of the default")
    add("header", run_header, "print the Authorization header, to pipe into `curl --header @-`")

    add_ports(add("doctor", run_doctor, "look for what is missing on this machine, and tell the cure"))
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


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args, Home.at(args.home)))
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


def fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1
