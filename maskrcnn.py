"""``maskrcnn``: the commands of all rooms under one name.

A room is imported when one of its commands is asked for, and its ``cli`` module imports torch and TorchServe inside
the functions that need them, so ``maskrcnn --help`` answers at once.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.exceptions import NoSuchCommand

__version__ = "0.2.0"

SECTIONS = {
    "From photos to an archive": {
        "data": "finetune.cli:data",
        "train": "finetune.cli:train",
        "evaluate": "finetune.cli:evaluate",
        "compare": "finetune.cli:compare",
        "tune": "finetune.cli:tune",
        "publish": "finetune.cli:publish",
        "export": "finetune.cli:export",
    },
    "From an archive to masks": {
        "predict": "handler.predict.cli:predict",
        "serve": "serve_config.cli:serve",
        "web": "web_client.cli:web",
        "doctor": "serve_config.cli:doctor",
    },
}
COMMANDS = {name: place for section in SECTIONS.values() for name, place in section.items()}

EPILOG = "Example: maskrcnn train mobilenetv2_fpn --data photos --weights imagenet"


class Rooms:
    """What one room does for another's command, which gets it as ``ctx.obj``: rooms do not import each other."""

    def export_run(self, run: Path) -> Path:
        """See ``finetune.export.cached``."""
        from finetune.export.cached import cached_archive

        return cached_archive(run)

    def write_annotations(self, *arguments: Any) -> None:
        """See ``finetune.data.pre_annotations``."""
        from finetune.data.pre_annotations import write_pre_annotations

        write_pre_annotations(*arguments)

    def client(self, url: str, token: str | None, **options: float) -> Any:
        """A client of a public API."""
        from web_client.client import Client

        return Client(url, token, **options)


class _LazyGroup(click.Group):
    """Imports a command when it is asked for, and lists the commands by section."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option:
            option.hidden = True  # anyone reading the help has found it
        return option

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        if name not in COMMANDS:  # click suggests the nearest of `self.commands`, which is empty here
            raise NoSuchCommand(name, possibilities=COMMANDS, ctx=ctx)
        module, _, attribute = COMMANDS[name].partition(":")
        return getattr(import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            rows = [(name, self.get_command(ctx, name).get_short_help_str(90)) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(cls=_LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(version)s")
def maskrcnn() -> None:
    """Fine-tune Mask R-CNN on your photos, serve it, and see the masks."""


def run(command: click.Command, prog_name: str, args: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status: 0, 1 (failed), 2 (wrong usage) or 130 (Ctrl-C).

    Every entry point goes through here: ``maskrcnn``, and ``python -m`` of each room.
    """
    # fvcore, which Detectron2 needs, calls what torch 2.14 deprecates: nothing that the user could change
    warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
    try:
        status = command.main(args, prog_name, standalone_mode=False, obj=Rooms())
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as stopped:
        # click replaces KeyboardInterrupt by Abort; the message is in the original
        click.echo(str(stopped.__cause__ or stopped) or "stopped", err=True)
        return 130
    except BrokenPipeError:  # the reader has seen enough: `maskrcnn data check DIR | head`
        sys.stdout = None  # nothing left to flush at exit
        return 141
    return status if isinstance(status, int) else 0


def main() -> None:
    """The console script."""
    sys.exit(run(maskrcnn, "maskrcnn"))


if __name__ == "__main__":
    main()
