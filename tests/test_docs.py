"""The documentation and the code say the same: commands, options, variables, targets and links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from maskrcnn import maskrcnn
from tests.conftest import REPOSITORY

MANUALS = sorted(
    path
    for path in REPOSITORY.rglob("*.md")
    if not {".venv", "data", "runs", "reports", ".demo"} & set(path.relative_to(REPOSITORY).parts[:-1])
    or "finetune" in path.relative_to(REPOSITORY).parts
)
TEXTS = {str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8") for path in MANUALS}
ALL = "\n".join(TEXTS.values())
PLACEHOLDERS = re.compile(r"…|\.\.\.|\b[A-Z][A-Z0-9_]{2,}\b(?!\.)")


def leaves(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below ``command`` that does something, with the words that call it."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from leaves(child, (*words, name))


COMMANDS = dict(leaves(maskrcnn, ("maskrcnn",)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_is_documented_and_has_examples(words: tuple[str, ...]) -> None:
    assert " ".join(words) in ALL or f"`{' '.join(words[1:])}`" in ALL
    assert COMMANDS[words].get_short_help_str()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_is_documented(words: tuple[str, ...]) -> None:
    options = [option for param in COMMANDS[words].params for option in param.opts if option.startswith("--")]
    assert [option for option in options if not re.search(rf"{option}\b", ALL)] == []


def test_every_make_target_is_documented() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = re.findall(r"(?m)^([a-z0-9-]+):.*## ", makefile)
    assert len(targets) > 15
    internal = {
        "help",
        "lock",
        "clean",
        "format",
        "web",
        "serve",
        "stop",
        "demo-check",
    }  # `make` lists them all
    assert [name for name in targets if name not in internal and f"make {name}" not in ALL] == []


def test_every_link_to_a_file_leads_somewhere() -> None:
    broken = []
    for name, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'src="([^"]+)"', text):
            if "://" not in target and not (REPOSITORY / name).parent.joinpath(target).exists():
                broken.append(f"{name}: {target}")
    assert broken == []


def shell_commands() -> Iterator[tuple[str, str]]:
    """Every ``maskrcnn`` line in the shell blocks of the manuals."""
    for name, text in TEXTS.items():
        for block in re.findall(r"```(?:bash|sh|shell)\n(.*?)```", text, re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"\s+(?:\||&&)\s+", line.partition(" #")[0].lstrip("!$ ")):
                    words = part.removeprefix(".venv/bin/").strip()
                    if re.match(r"([A-Z_]+=\S+ )*(\.venv/bin/)?maskrcnn ", words):
                        yield name, re.sub(r"^([A-Z_]+=\S+ )*(\.venv/bin/)?", "", words)


LINES = sorted(set(shell_commands()))


@pytest.mark.parametrize(("manual", "line"), LINES, ids=[line for _, line in LINES])
def test_every_command_line_can_be_parsed(
    manual: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """click takes the words: the command, its options and the types of their values; nothing runs."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)[1:]
    command: click.Command = maskrcnn
    context = None
    while True:
        for word in words:  # paths that the command wants to exist
            if "/" in word and not word.startswith(("-", "/")) and "://" not in word and "*" not in word:
                path = tmp_path / word
                path.parent.mkdir(parents=True, exist_ok=True)
                path.exists() or (path.mkdir() if not path.suffix else path.touch())
        context = command.make_context(command.name, list(words), parent=context)
        rest = [*context._protected_args, *context.args] if isinstance(command, click.Group) else []
        if not rest:
            break
        child = command.get_command(context, rest[0])
        assert child is not None, f"{manual}: there is no command {rest[0]}"
        command, words = child, rest[1:]
    assert isinstance(command, click.Command)


def test_there_are_command_lines_to_check() -> None:
    assert len(LINES) > 25
    assert {"README.md", "finetune/README.md", "serve_config/README.md", "web_client/README.md"} <= {
        name for name, _ in LINES
    }
