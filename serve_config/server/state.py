"""The state folder (``.serve/`` by default): TorchServe's files, and what must be known from one command to the next.

::

    config.properties   rendered from templates/config.properties at each start
    key_file.json       TorchServe's keys; TorchServe writes it, mode 0600
    state.json          State, below
    drift.json          the week's counts of pictures, see models/drift.py
    logs/               TorchServe's logs
    tmp/                unpacked archives and the workers' sockets; emptied at each start and stop
    lock                locked while a command changes something
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from serve_config.errors import ServeError

MODEL = "maskrcnn"  # the one TorchServe model; its versions are the backbones

ENGINES = {"torchserve": "TorchServe", "litserve": "LitServe"}
"""The servers that can run, by their names on the command line."""

# A Unix socket's path is limited to 107 bytes. TorchServe adds "/.ts.sock.9000"; LitServe, by Python's multiprocessing,
# "/pymp-12345678/listener-12345678".
LONGEST_SOCKET_FOLDER = 72


@dataclass(frozen=True)
class Home:
    """Paths inside the state folder; ``path`` is absolute."""

    path: Path

    @classmethod
    def at(cls, path: str | Path) -> Home:
        return cls(Path(path).expanduser().resolve())

    @property
    def config(self) -> Path:
        return self.path / "config.properties"

    @property
    def key_file(self) -> Path:
        return self.path / "key_file.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def state_file(self) -> Path:
        return self.path / "state.json"

    @property
    def tmp(self) -> Path:
        """Where archives are unpacked and the workers' sockets lie; private to this user."""
        inside = self.path / "tmp"
        if len(os.fsencode(inside)) <= LONGEST_SOCKET_FOLDER:
            return inside
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"serve-{digest}"

    def create(self) -> None:
        """Make the folder, for this user only. Raises ServeError if it cannot be made."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ServeError(
                f"the state folder {self.path} cannot be written ({error.strerror}): choose another with --home"
            ) from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Let one command at a time change what runs. Raises ServeError if another is at work."""
        self.create()
        with open(self.path / "lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ServeError(
                    f"another command is changing {self.path}: wait until it has finished"
                ) from error
            yield


@dataclass
class State:
    """What one command leaves for the next.

    ``pid`` and ``created`` (Unix time) identify the process; ``pid`` is 0 after a stop. ``models`` maps each
    registered version to its archive's file name in ``store``, in the order of registration; together with
    ``default`` it is what the next ``start`` restores. ``history`` holds the earlier defaults, the latest last.
    ``workers`` is the number that `start` was given, or 0; ``engine`` is one of ENGINES.
    """

    pid: int = 0
    created: float = 0.0
    ports: dict[str, int] = field(default_factory=dict)
    store: str = ""
    models: dict[str, str] = field(default_factory=dict)
    default: str | None = None
    history: list[str] = field(default_factory=list)
    workers: int = 0
    engine: str = "torchserve"

    @property
    def server(self) -> str:
        """The name of the server that runs or ran last."""
        return ENGINES[self.engine]

    @classmethod
    def load(cls, home: Home) -> State:
        """The saved state, or an empty one. Raises ServeError if the file is damaged."""
        try:
            return cls(**json.loads(home.state_file.read_text()))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError) as error:
            raise ServeError(
                f"{home.state_file} cannot be read: delete it, and end by hand a TorchServe that still runs"
            ) from error

    def save(self, home: Home) -> None:
        write_atomically(home.state_file, json.dumps(asdict(self), indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` for this user only; a reader sees the old file or the new one, never part of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
