"""The commands about what TorchServe serves: register, swap, ask and the like. Heavy imports wait until one runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve_config.server.options import at_home, json_option, positive, say
from serve_config.server.state import MODEL, Home, State

if TYPE_CHECKING:
    from serve_config.models.client import Client

version_option = click.option("--version", metavar="VERSION", help="Instead of the default.")
classes_option = click.option(
    "--allow-other-classes", is_flag=True, help="Even if its class names differ from the default's."
)


def _client(home: Home) -> Client:
    from serve_config.models.client import Client

    return Client(home)


@click.command()
@json_option
@at_home
def models(home: Home, as_json: bool) -> None:
    """List the registered versions and the other archives.

    \b
    Example:
      maskrcnn serve models --json
    """
    from serve_config.models.management import listing
    from serve_config.server.status import table

    entries, store = listing(_client(home)), State.load(home).store
    if as_json:
        click.echo(json.dumps({"model": MODEL, "store": store, "versions": entries}, indent=2))
        return
    rows = [
        {
            "VERSION": entry["version"],
            "": "default" if entry["default"] else "",
            "STATE": entry["state"],
            "CLASSES": ", ".join(entry["classes"]),
            "ARCHIVE": entry["archive"],
        }
        for entry in entries
    ]
    click.echo(table(rows) if rows else f"nothing is registered, and {store} holds no archive")


@click.command()
@click.argument("archive")
@classes_option
@at_home
def register(home: Home, archive: str, allow_other_classes: bool) -> None:
    """Register ARCHIVE as a further version.

    ARCHIVE is a .mar file (copied into the model store if it lies elsewhere) or a version in the store. The command
    waits until the version is READY.

    \b
    Example:
      maskrcnn serve register model_store/maskrcnn_resnet50_fpn.mar
    """
    from serve_config.models import management
    from serve_config.models.archives import find_archive, read_archive

    with home.lock():
        client = _client(home)
        read = read_archive(find_archive(archive, Path(State.load(home).store)))
        management.refuse_other_classes(read, client, allow_other_classes)
        version = management.register(client, read, say)
        default = management.default_version(client)
    role = "the default" if version == default else f"{default} stays the default"
    say(f"version {version} is READY; {role}")
    click.echo(client.url("inference", f"/predictions/maskrcnn/{version}"))


@click.command()
@click.argument("version")
@click.option(
    "--unregister-old", is_flag=True, help="Remove the old default once it has answered everything."
)
@click.option(
    "--drain-timeout",
    type=positive,
    default=120,
    show_default=True,
    metavar="S",
    help="Seconds to wait for that.",
)
@classes_option
@at_home
def swap(home: Home, version: str, **options: Any) -> None:
    """Make VERSION the default without losing a request.

    VERSION is registered, or is model_store/maskrcnn_VERSION.mar. It must answer a probe image first.

    \b
    Example:
      maskrcnn serve swap resnet50_fpn --unregister-old
    """
    from serve_config.models import swap

    with home.lock():
        old = swap.swap(_client(home), version, say, **options)
    click.echo(f"version {version} is the default now" + (f" (before: {old})" if old else ""))


@click.command()
@at_home
def rollback(home: Home) -> None:
    """Restore the default before the last swap.

    \b
    Example:
      maskrcnn serve rollback
    """
    from serve_config.models import swap

    with home.lock():
        new, old = swap.rollback(_client(home), say)
    click.echo(f"version {new} is the default again (before: {old})")


@click.command()
@click.argument("version")
@at_home
def unregister(home: Home, version: str) -> None:
    """Remove VERSION, which must not be the default.

    \b
    Example:
      maskrcnn serve unregister mobilenetv2_fpn
    """
    from serve_config.models import management

    with home.lock():
        management.unregister(_client(home), version)
    click.echo(f"version {version} is unregistered; its archive stays in the model store")


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@version_option
@click.option(
    "--output",
    type=click.Choice(["json", "coco", "overlay", "splash", "labels"]),
    help="The last three are PNG.",
)
@click.option("--to", type=click.Path(path_type=Path), metavar="FILE", help="Write the answer there.")
@click.option("--score-threshold", type=click.FloatRange(0, 1))
@click.option("--max-detections", type=click.IntRange(1, 300))
@click.option("--classes", metavar="NAMES", help="Names or ids, comma separated.")
@click.option("--mask-format", type=click.Choice(["rle", "polygon", "png", "none"]))
@click.option("--raw", is_flag=True, help="Print the JSON unchanged, masks in full.")
@click.option(
    "--timeout", type=positive, default=140, show_default=True, metavar="S", help="Seconds to wait."
)
@at_home
def ask(
    home: Home, image: Path, version: str | None, to: Path | None, raw: bool, timeout: int, **options: Any
) -> None:
    """Send IMAGE; print the JSON or write the PNG.

    \b
    Examples:
      maskrcnn serve ask photo.jpg --score-threshold 0.7
      maskrcnn serve ask photo.jpg --output overlay --to overlay.png
    """
    from serve_config.models import ask

    if options["output"] in ask.PNG_OUTPUTS and to is None:
        raise click.UsageError(f"--output {options['output']} is a PNG: name a file with --to FILE")
    given = {name: str(value) for name, value in options.items() if value is not None}
    body = ask.ask(_client(home), image, version, given, timeout)
    if to is None:
        click.echo(ask.show(body, raw))
    else:
        ask.write_file(to, body)
        click.echo(to)


@click.command()
@at_home
def header(home: Home) -> None:
    """Print the authorization header, to pipe into curl.

    \b
    Example:
      maskrcnn serve header | curl --header @- -T photo.jpg http://127.0.0.1:8080/predictions/maskrcnn
    """
    from serve_config.models import ask

    click.echo(ask.header(_client(home)))


COMMANDS = (models, register, swap, rollback, unregister, ask, header)
