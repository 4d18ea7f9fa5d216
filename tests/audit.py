"""``make audit``: the bill of materials, and which of the pinned packages have known vulnerabilities.

pip-audit compares the pins with the database of osv.dev, which needs the internet, and installs nothing. Exit status:
0 nothing known, 1 vulnerabilities found, 3 the database could not be asked, so nothing is known and nothing written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

SERVED = ("requirements.txt", "requirements-detectron2.txt")
ALL = (*SERVED, "requirements-dev.txt", "requirements-kserve.txt")
DATABASE = "api.osv.dev"


class DatabaseError(Exception):
    """pip-audit wrote no report."""


def pip_audit(files: tuple[str, ...], output_format: str, report: Path) -> None:
    """Write pip-audit's report on ``files``.

    Raises:
        DatabaseError: there is no report; the message is pip-audit's last line.
    """
    report.unlink(missing_ok=True)
    options = "--vulnerability-service osv --progress-spinner off --no-deps --disable-pip".split()
    options += ["--format", output_format, "--output", str(report)]
    options += [word for name in files for word in ("--requirement", name)]
    command = [sys.executable, "-m", "pip_audit", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not report.exists():
        raise DatabaseError((done.stderr.strip().splitlines() or ["no reason given"])[-1][:200])


def audit(output: Path) -> int:
    """Write ``sbom.json`` and ``audit.json``, and print the vulnerabilities; the exit status."""
    bill, report = output / "sbom.json", output / "audit.json"
    try:
        pip_audit(SERVED, "cyclonedx-json", bill)
        pip_audit(ALL, "json", report)
    except DatabaseError as error:
        print(f"error: {DATABASE} could not be asked, so NOTHING WAS AUDITED ({error})", file=sys.stderr)
        return 3
    print(f"{bill}: {len(json.loads(bill.read_text())['components'])} packages that are served with")
    found = [entry for entry in json.loads(report.read_text())["dependencies"] if entry.get("vulns")]
    for entry in found:
        for each in entry["vulns"]:
            fixed = ", ".join(each["fix_versions"]) or "no release"
            print(f"{entry['name']} {entry['version']}: {each['id']}, fixed in {fixed}")
    print(f"{report}: {len(found)} packages with known vulnerabilities")
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("reports"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    return audit(args.output)


if __name__ == "__main__":
    sys.exit(main())
