"""The commands about what the server serves: register, swap, ask and the like. Heavy imports wait until one runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve_config.server.options import json_option, positive, say, with_client
from serve_config.server.state import MODEL, State

if TYPE_CHECKING:
    from serve_config.models.client import Client

classes_option = click.option(
    "--allow-other-classes", is_flag=True, help="Even if its class names differ from the default's."
)


@click.command()
@json_option
@with_client
def models(client: Client, as_json: bool) -> None:
    """List the registered versions and the other archives.

    \b
    Example:
      maskrcnn serve models --json
    """
    from serve_config.models.management import listing
    from serve_config.server.status import table

    entries, store = listing(client), State.load(client.home).store
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
@with_client
def register(client: Client, archive: str, allow_other_classes: bool) -> None:
    """Register ARCHIVE as a further version.

    ARCHIVE is a .mar file (copied into the model store if it lies elsewhere) or a version in the store. The command
    waits until the version is READY.

    \b
    Example:
      maskrcnn serve register model_store/maskrcnn_resnet50_fpn.mar
    """
    from serve_config.models import management
    from serve_config.models.archives import find_archive, read_archive

    with client.home.lock():
        read = read_archive(find_archive(archive, Path(State.load(client.home).store)))
        management.refuse_other_classes(read, client, allow_other_classes)
        version = management.register(client, read, say)
        default = management.default_version(client)
    say(
        f"version {version} is READY; {'the default' if version == default else f'{default} stays the default'}"
    )
    click.echo(client.url("inference", f"/predictions/maskrcnn/{version}"))


@click.command()
@click.argument("version")
@click.option(
    "--unregister-old", is_flag=True, help="Remove the old default once it has answered everything."
)
@classes_option
@with_client
def swap(client: Client, version: str, **options: Any) -> None:
    """Make VERSION the default without losing a request.

    VERSION is registered, or is model_store/maskrcnn_VERSION.mar. It must answer a probe image first.

    \b
    Example:
      maskrcnn serve swap resnet50_fpn --unregister-old
    """
    from serve_config.models import swap

    with client.home.lock():
        old = swap.swap(client, version, say, **options)
    if old == version:
        click.echo(f"version {version} is the default already; nothing had to be done")
    else:
        click.echo(f"version {version} is the default now" + (f" (before: {old})" if old else ""))


@click.command()
@with_client
def rollback(client: Client) -> None:
    """Restore the default before the last swap.

    \b
    Example:
      maskrcnn serve rollback
    """
    from serve_config.models import swap

    with client.home.lock():
        new, old = swap.rollback(client, say)
    click.echo(f"version {new} is the default again (before: {old})")


@click.command()
@click.argument("version")
@with_client
def unregister(client: Client, version: str) -> None:
    """Remove VERSION, which must not be the default.

    \b
    Example:
      maskrcnn serve unregister mobilenetv2_fpn
    """
    from serve_config.models import management

    with client.home.lock():
        management.unregister(client, version)
    click.echo(f"version {version} is unregistered; its archive stays in the model store")


@click.command()
@click.argument("image", type=Path)
@click.option("--version", help="Instead of the default.")
@click.option(
    "--output",
    type=click.Choice(["json", "coco", "overlay", "splash", "labels"]),
    help="The last three are PNG.",
)
@click.option("--to", type=Path, metavar="FILE", help="Write the answer there.")
@click.option("--score-threshold", type=click.FloatRange(0, 1))
@click.option("--max-detections", type=click.IntRange(1, 300))
@click.option("--classes", metavar="NAMES", help="Names or ids, comma separated.")
@click.option("--mask-format", type=click.Choice(["rle", "polygon", "png", "none"]))
@click.option("--raw", is_flag=True, help="Print the JSON unchanged, masks in full.")
@click.option("--timeout", type=positive, default=140, show_default=True, help="Seconds to wait.")
@with_client
def ask(
    client: Client, image: Path, version: str | None, to: Path | None, raw: bool, timeout: int, **options: Any
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
    body = ask.ask(client, image, version, given, timeout)
    if to:
        ask.write(to, body)
    click.echo(to or ask.show(body, raw))


@click.command()
@with_client
def header(client: Client) -> None:
    """Print the authorization header, to pipe into curl.

    \b
    Example:
      maskrcnn serve header | curl --header @- -T photo.jpg http://127.0.0.1:8080/predictions/maskrcnn
    """
    client.json("inference", "GET", "/ping")  # renews the key if it has expired
    click.echo(f"Authorization: Bearer {client.read_key('inference')[0]}")


COMMANDS = (models, register, swap, rollback, unregister, ask, header)
