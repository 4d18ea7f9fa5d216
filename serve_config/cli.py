"""The commands ``maskrcnn serve …`` and ``maskrcnn doctor``. What they do is imported when they run."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click

import serve_config.models.cli
from serve_config.server.options import at_home, json_option, positive, say, with_ports
from serve_config.server.properties import DEFAULT_PORTS, QUEUE_SIZE, RESPONSE_TIMEOUT, Settings
from serve_config.server.state import ENGINES, Home, State

EPILOG = """\b
Examples:
  maskrcnn serve start
  maskrcnn serve ask photo.jpg
  maskrcnn serve swap resnet50_fpn
  maskrcnn serve header | curl --header @- -T photo.jpg http://127.0.0.1:8080/predictions/maskrcnn
"""


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def serve() -> None:
    """Start and stop the server, and choose what it serves."""
    # SIGTERM cleans up like Ctrl-C; and Ctrl-C works for a background job, which inherits SIGINT ignored
    for number in (signal.SIGINT, signal.SIGTERM):
        former = signal.signal(number, _interrupt)
        click.get_current_context().call_on_close(lambda n=number, f=former: signal.signal(n, f))


@serve.command()
@click.option(
    "--models",
    multiple=True,
    metavar="ARCHIVE",
    help="An archive or version; repeat. The first is the default.",
)
@click.option(
    "--list",
    "listed",
    type=Path,
    metavar="LIST",
    help="On the first start, serve the archives of this list, the first as the default.",
)
@click.option(
    "--model-store", "store", type=Path, default="model_store", metavar="DIR", help="Folder of archives."
)
@click.option(
    "--workers",
    type=positive,
    metavar="N",
    help="Per version.  [default: the archive's, or 1 per GPU]",
)
@click.option(
    "--queue-size",
    type=positive,
    default=QUEUE_SIZE,
    metavar="N",
    help="Requests that may wait per version; one more gets a 503.",
)
@click.option(
    "--response-timeout",
    type=positive,
    default=RESPONSE_TIMEOUT,
    metavar="S",
    help="Restart a worker that takes longer than this to answer.",
)
@click.option(
    "--engine",
    type=click.Choice(list(ENGINES)),
    default="torchserve",
    help="LitServe is an extra: pip install litserve prometheus-client.",
)
@click.option("--foreground", is_flag=True, help="Stay until SIGTERM or Ctrl-C, then stop (for systemd).")
@with_ports
@at_home
def start(
    home: Home,
    ports: dict[str, int],
    models: tuple[str, ...],
    listed: Path | None,
    store: Path,
    queue_size: int,
    workers: int | None,
    response_timeout: int,
    engine: str,
    foreground: bool,
) -> None:
    """Start the server and wait until its models are READY.

    The server is TorchServe, or LitServe with --engine litserve. It restores what was registered when it stopped; the
    first time it serves the whole model store. An archive's own response timeout wins over the option.

    \b
    Examples:
      maskrcnn serve start
      maskrcnn serve start --models resnet50_fpn --workers 2
      maskrcnn serve start --engine litserve
    """
    from serve_config.models.archives import listed_archives
    from serve_config.models.client import Client
    from serve_config.models.management import default_version
    from serve_config.server import lifecycle

    settings = Settings(ports, queue_size, response_timeout, workers or 0, engine)
    wanted = list(models) or None
    if listed and wanted is None and not State.load(home).models:
        wanted = listed_archives(listed)
    done = lifecycle.start(home, settings, store, wanted, say)
    try:
        client = Client(home)
        served = ", ".join(done) or "nothing yet: `register` an archive"
        default = f" (default {default_version(client)})" if len(done) > 1 else ""
        click.echo(f"{ENGINES[engine]} serves {served}{default}")
        if any(client.ports[name] != DEFAULT_PORTS[name] for name in ("inference", "management")):
            urls = " ".join(f"--{name}-url {client.url(name, '')}" for name in ("inference", "management"))
            click.echo(f"the page: maskrcnn web {urls} --key-file {home.key_file}")
        click.echo(client.url("inference", "/predictions/maskrcnn"))
        if foreground:
            lifecycle.wait_until_stopped(home)
    except KeyboardInterrupt:
        if not foreground:
            raise
        lifecycle.stop(home)


@serve.command()
@at_home
def stop(home: Home) -> None:
    """Stop the server and its workers.

    \b
    Example:
      maskrcnn serve stop
    """
    from serve_config.server import lifecycle

    server = State.load(home).server
    click.echo(f"{server} has stopped" if lifecycle.stop(home) else f"{server} was not running")


@serve.command()
@json_option
@at_home
def status(home: Home, as_json: bool) -> int:
    """Show versions, workers, memory and the last errors.

    The exit status is 1 if the server is not healthy.

    \b
    Example:
      maskrcnn serve status --json
    """
    from serve_config.server import status

    report = status.collect(home)
    click.echo(json.dumps(asdict(report), indent=2) if as_json else status.as_text(report))
    return 0 if report.healthy else 1


for command in serve_config.models.cli.COMMANDS:
    serve.add_command(command)


@click.command()
@with_ports
@at_home
def doctor(home: Home, ports: dict[str, int]) -> int:
    """Check this machine for what is missing, and name the cure.

    \b
    Example:
      maskrcnn doctor
    """
    from serve_config import doctor

    return doctor.report(home, ports)
