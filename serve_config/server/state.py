"""The state folder (``.serve/`` by default): what TorchServe was told, and what we must remember between two
commands.

::

    config.properties   rendered from templates/config.properties at every start
    key_file.json       TorchServe's keys, written by itself, mode 0600
    state.json          this module's State
    logs/               TorchServe's logs
    tmp/                unpacked archives and the workers' sockets; emptied at start and at stop
    lock                held while a command changes something
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

PORT_NAMES = ("inference", "management", "metrics", "grpc_inference", "grpc_management")

# A Unix socket's path is limited to 107 bytes, and TorchServe adds "/.ts.sock.9000".
LONGEST_SOCKET_FOLDER = 90


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
        """Where archives are unpacked and workers listen; private to this user."""
        inside = self.path / "tmp"
        if len(os.fsencode(inside)) <= LONGEST_SOCKET_FOLDER:
            return inside
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"serve-{digest}"

    def create(self) -> None:
        """Make the folder, for this user only. Raises ServeError if that cannot be done."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ServeError(
                f"the state folder {self.path} cannot be written ({error.strerror}): choose "
                "another with --home"
            ) from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Only one command at a time may change what runs. Raises ServeError if another one does."""
        self.create()
        with open(self.path / "lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ServeError(
                    f"another serve_config command is working on {self.path}: wait until it has finished"
                ) from error
            yield


@dataclass
class State:
    """What must outlive a command.

    ``pid``, ``created`` (seconds after boot) and ``boot`` together name one process beyond doubt;
    ``pid`` is 0 when TorchServe was stopped. ``models`` maps each registered version to its archive's file
    name in ``store``, in the order of registration; with ``default`` it is what the next ``start`` brings
    back. ``history`` holds the earlier defaults, the latest last.
    """

    pid: int = 0
    created: float = 0.0
    boot: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    store: str = ""
    models: dict[str, str] = field(default_factory=dict)
    default: str | None = None
    history: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, home: Home) -> State:
        """The saved state, or an empty one. Raises ServeError if the file is damaged."""
        try:
            return cls(**json.loads(home.state_file.read_text()))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError) as error:
            raise ServeError(
                f"{home.state_file} cannot be read: delete it; a TorchServe that still runs must "
                "be ended by hand"
            ) from error

    def save(self, home: Home) -> None:
        write_atomically(home.state_file, json.dumps(asdict(self), indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` for this user only; a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def boot_id() -> str:
    """Changes with every boot of the machine, so that a process id of yesterday is not taken for one of
    today.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
