"""What ``make audit`` does when the vulnerability database answers, and when it does not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests import audit

COMPLETE = {"components": [{"name": "flask"}], "dependencies": []}


@pytest.mark.parametrize(
    ("vulnerable", "status"),
    [([], 0), ([{"name": "flask", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": []}]}], 1)],
)
def test_status_tells_whether_something_is_known(
    vulnerable: list[dict], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pip_audit(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        report = Path(command[command.index("--output") + 1])
        report.write_text(json.dumps({**COMPLETE, "dependencies": vulnerable}))
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(subprocess, "run", pip_audit)
    assert audit.audit(tmp_path) == status


def test_unreachable_database_is_no_clean_bill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "audit.json").write_text('{"dependencies": []}')  # of an earlier run
    failed = subprocess.CompletedProcess([], 1, stderr="no connection")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    (tmp_path / "sbom.json").write_text(json.dumps(COMPLETE))
    assert audit.audit(tmp_path) == 3
    assert "NOTHING WAS AUDITED (no connection)" in capsys.readouterr().err
    assert not (tmp_path / "sbom.json").exists()
