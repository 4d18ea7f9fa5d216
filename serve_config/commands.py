"""What each command of ``python -m serve_config`` does. Every function returns the exit status and may raise
ServeError.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from serve_config import status
from serve_config.errors import ServeError
from serve_config.models import ask, fetch, swap
from serve_config.models.archives import find_archive, read_archive
from serve_config.models.client import Client
from serve_config.models.management import default_version, refuse_other_classes, register, unregister
from serve_config.server import foreground, lifecycle
from serve_config.server.properties import DEFAULT_PORTS, Settings
from serve_config.server.state import Home, State


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def run_start(args: argparse.Namespace, home: Home) -> int:
    settings = Settings(
        ports={name: getattr(args, f"{name}_port") for name in DEFAULT_PORTS},
        job_queue_size=args.queue_size,
        response_timeout=args.response_timeout,
        workers=args.workers,
    )
    models = [] if args.fresh and args.models is None else args.models
    if args.list and models is None and not State.load(home).models:
        models = [wanted.name for wanted in fetch.read_list(args.list)]
    done = lifecycle.start(home, settings, args.model_store, models, say)
    try:
        client = Client(home)
        print(f"TorchServe serves {', '.join(done) or 'nothing yet: `register` an archive'}", end="")
        print(f" (default {default_version(client)})" if len(done) > 1 else "")
        print(client.url("inference", "/predictions/maskrcnn"))
        if any(client.ports[name] != DEFAULT_PORTS[name] for name in ("inference", "management")):
            print(f"the page: {page_line(client, home)}")
        sys.stdout.flush()
        if args.foreground:
            foreground.watch(home)
    except KeyboardInterrupt:
        if not args.foreground:
            raise
        lifecycle.stop(home)
    return 0


def page_line(client: Client, home: Home) -> str:
    """The command that starts the page for this TorchServe, wherever its ports are."""
    urls = " ".join(f"--{name}-url {client.url(name, '')}" for name in ("inference", "management"))
    return f"python -m web_client {urls} --key-file {home.key_file}"


def run_stop(args: argparse.Namespace, home: Home) -> int:
    print("TorchServe has stopped" if lifecycle.stop(home) else "TorchServe was not running")
    return 0


def run_status(args: argparse.Namespace, home: Home) -> int:
    report = status.collect(home)
    print(status.as_json(report) if args.json else status.as_text(report))
    return 0 if report.healthy else 1


def run_models(args: argparse.Namespace, home: Home) -> int:
    print(status.models_table(Client(home), args.json))
    return 0


def run_register(args: argparse.Namespace, home: Home) -> int:
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
    with home.lock():
        old = swap.swap(
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
    with home.lock():
        new, old = swap.rollback(Client(home), say)
    print(f"version {new} is the default again (before: {old})")
    return 0


def run_unregister(args: argparse.Namespace, home: Home) -> int:
    with home.lock():
        unregister(Client(home), args.version)
    print(f"version {args.version} is unregistered; its archive stays in the model store")
    return 0


def run_fetch(args: argparse.Namespace, home: Home) -> int:
    for wanted in fetch.read_list(args.list):
        print(fetch.fetch(wanted, args.to, say))
    return 0


def run_predict(args: argparse.Namespace, home: Home) -> int:
    names = ("output", "score_threshold", "max_detections", "classes", "mask_format")
    options = {name: str(getattr(args, name)) for name in names if getattr(args, name) is not None}
    if args.output in ask.PICTURES and args.to is None:
        raise ServeError(f"--output {args.output} is a PNG: say with --to FILE where to write it")
    body = ask.predict(Client(home), args.image, args.version, options, args.timeout)
    if args.to is not None:
        ask.write_file(args.to, body)
        print(args.to)
    else:
        print(ask.show(body, args.raw))
    return 0


def run_plan(args: argparse.Namespace, home: Home) -> int:
    from serve_config import capacity, plan

    measured = plan.read_measured(args.bench)
    found = capacity.plan(measured, args.rate, args.p95 / 1000)
    text = plan.as_text(measured, found, args.rate, args.p95 / 1000)
    print(plan.as_json(measured, found) if args.json else text)
    return 0


def run_curl(args: argparse.Namespace, home: Home) -> int:
    print(ask.curl_line(Client(home), home, args.image, args.version))
    return 0


def run_header(args: argparse.Namespace, home: Home) -> int:
    print(ask.header(Client(home)))
    return 0
