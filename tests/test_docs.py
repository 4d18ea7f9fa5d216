"""The documentation and the code say the same: commands, options, variables, targets and links."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from maskrcnn import maskrcnn
from tests.conftest import REPOSITORY

ROOMS = ("finetune", "handler", "serve_config", "web_client")
MANUALS = [
    *sorted(REPOSITORY.glob("*.md")),
    *(
        path
        for room in (*ROOMS, "model_store", "tests")
        for path in sorted((REPOSITORY / room).rglob("*.md"))
    ),
]
TEXTS = {str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8") for path in MANUALS}
CURRENT = {name: text for name, text in TEXTS.items() if name != "CHANGELOG.md"}  # it names what is gone
ALL = "\n".join(CURRENT.values())


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


def manuals_of(command: click.Command) -> str:
    """The READMEs of the room whose code the command is."""
    assert command.callback is not None
    room = command.callback.__module__.partition(".")[0]
    return "\n".join(text for name, text in CURRENT.items() if name.startswith(f"{room}/"))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_is_documented_and_shows_an_example(words: tuple[str, ...]) -> None:
    text = manuals_of(COMMANDS[words])
    assert re.search(rf"(?<![\w-])({' '.join(words)}|`{' '.join(words[1:])}[` ])(?![\w-])", text)
    assert COMMANDS[words].get_short_help_str()
    shown = f"{COMMANDS[words].help}\n{COMMANDS[words].epilog}"
    assert re.search(rf"(?m)^ +{' '.join(words)}( |$)", shown), "no example"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_is_documented_in_its_room(words: tuple[str, ...]) -> None:
    text = manuals_of(COMMANDS[words])
    options = [option for param in COMMANDS[words].params for option in param.opts if option.startswith("--")]
    assert [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", text)] == []


def test_every_environment_variable_is_documented() -> None:
    """Those that the code reads by name; the two that :mod:`handler.predict.cli` gives to Ray are set, not read."""
    code = "\n".join(path.read_text() for room in ROOMS for path in (REPOSITORY / room).rglob("*.py"))
    read = set(re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"(?!\] =)", code))
    options = {str(param.envvar) for command in COMMANDS.values() for param in command.params if param.envvar}
    torchrun = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"}
    variables = (read | options) - torchrun
    assert {"MASKRCNN_CACHE", "JAVA_HOME", "SERVE_HOME", "WEB_CLIENT_PORT"} <= variables
    assert sorted(name for name in variables if f"`{name}`" not in ALL and f"{name}=" not in ALL) == []


def test_every_metric_is_documented() -> None:
    declared = (REPOSITORY / "serve_config/templates/metrics.yaml").read_text()
    ours = set(re.findall(r"name: (maskrcnn_\w+)", declared))
    assert len(ours) > 5
    assert sorted(name for name in ours if f"| `{name}` |" not in CURRENT["handler/README.md"]) == []


def test_make_targets_and_the_manuals_agree() -> None:
    targets = set(re.findall(r"(?m)^([a-z0-9-]+):.*## ", (REPOSITORY / "Makefile").read_text()))
    assert len(targets) > 15
    named = set(re.findall(r"(?:`|^|&& )make ([a-z][a-z0-9-]*)", ALL, re.MULTILINE))
    assert targets - named == set()
    assert named - targets == set()


def test_every_config_key_in_the_manuals_exists() -> None:
    from finetune.configs.keys import get_config

    def exists(key: str) -> bool:
        node = get_config("vovnet19_fpn")
        for part in key.split("."):
            if part not in node:
                return False
            node = node[part]
        return True

    keys = set(re.findall(r"(?<![\w.])(?:[A-Z]{4,}\.)[A-Z0-9_.]*[A-Z0-9](?![a-z])", ALL))
    assert len(keys) > 30
    assert sorted(key for key in keys if not exists(key)) == []


def anchors(text: str) -> set[str]:
    """The fragments that a Markdown page's headings make."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere() -> None:
    broken = []
    for name, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)\s]+)", text) + re.findall(r'src="([^"]+)"', text):
            if "://" in target:
                continue
            path, _, fragment = target.partition("#")
            file = (REPOSITORY / name).parent / path if path else REPOSITORY / name
            if not file.exists() or (fragment and fragment not in anchors(file.read_text())):
                broken.append(f"{name}: {target}")
    assert broken == []


def test_every_module_and_test_that_a_manual_names_exists() -> None:
    modules = re.findall(r"python -m ([a-z_]+(?:\.\w+)*)", ALL)
    modules = [name for name in modules if name != "pip"]
    paths = [REPOSITORY / name.replace(".", "/") for name in modules]
    assert [path for path in paths if not path.with_suffix(".py").exists() and not path.is_dir()] == []
    tests = "\n".join(path.name + "\n" + path.read_text() for path in (REPOSITORY / "tests").rglob("*.py"))
    named = set(re.findall(r"\b(test_\w+|Test[A-Z]\w+)", CURRENT["SECURITY.md"]))
    assert len(named) > 5
    assert sorted(name for name in named if name not in tests) == []


def command_lines(text: str) -> Iterator[str]:
    """The ``maskrcnn …`` in lines of shell, without variables before them, pipes and comments."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s+(?:\||&&)\s+", line.partition(" #")[0].lstrip("!$ ")):
            if found := re.match(r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(maskrcnn .+)", part):
                yield found[1].strip()


def documented_lines() -> Iterator[tuple[str, str]]:
    for name, text in CURRENT.items():
        for block in re.findall(r"```(?:bash|sh|shell)\n(.*?)```", text, re.DOTALL):
            yield from ((name, line) for line in command_lines(block))
    for words, command in COMMANDS.items():
        help_text = f"{command.help}\n{command.epilog}"
        yield from ((" ".join([*words, "--help"]), line) for line in command_lines(help_text))


LINES = sorted(set(documented_lines()))
FRAGMENTS = sorted(
    {(name, span) for name, text in CURRENT.items() for span in re.findall(r"`(maskrcnn [^`…]+)`", text)}
    - {("finetune/README.md", "maskrcnn COMMAND")}
)


def parse(line: str) -> None:
    """Let click take the words: the command, its options and the types of their values. Nothing runs."""
    command: click.Command = maskrcnn
    words, context = shlex.split(line)[1:], None
    for word in words:  # commands may want their files to exist
        if re.fullmatch(r"[\w./]+", word) and not word.startswith("/"):
            path = Path(word)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch() if path.suffix or word == "ARCHIVE" else path.mkdir(exist_ok=True)
    while True:
        context = command.make_context(command.name, list(words), parent=context)
        rest = [*context._protected_args, *context.args] if isinstance(command, click.Group) else []
        if not rest:
            return
        assert isinstance(command, click.Group)
        child = command.get_command(context, rest[0])
        assert child is not None, f"there is no command {rest[0]}"
        command, words = child, rest[1:]


@pytest.mark.parametrize(("where", "line"), LINES, ids=[line for _, line in LINES])
def test_every_command_line_can_be_parsed(
    where: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parse(line)


@pytest.mark.parametrize(("where", "line"), FRAGMENTS, ids=[line for _, line in FRAGMENTS])
def test_every_command_in_the_prose_exists(
    where: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prose may leave out an argument or a value, but each command and option that it names is there."""
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(click.MissingParameter, click.BadOptionUsage, click.exceptions.Exit):
        parse(line)


@pytest.mark.parametrize(
    "line",
    [
        "maskrcnn trian resnet50_fpn --data data",
        "maskrcnn train resnet50_fpn --dta data",
        "maskrcnn train resnet50_fpn",
        "maskrcnn web --port many",
        "maskrcnn serve swop two",
    ],
)
def test_a_wrong_line_is_found(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((click.UsageError, AssertionError)):
        parse(line)


def test_there_are_command_lines_to_check() -> None:
    assert len(LINES) > 50
    assert {f"{room}/README.md" for room in ROOMS} | {"README.md"} <= {where for where, _ in LINES}
