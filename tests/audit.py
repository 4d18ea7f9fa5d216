"""``make audit``: the bill of materials, and which of the pinned packages have known vulnerabilities.

The pins are compared with the database of osv.dev, which wants a connection to the internet. Exit status: 0 nothing
known, 1 vulnerabilities found, 3 the database could not be asked, so nothing is known.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tests.bom import bom

SERVED = ("requirements.txt", "requirements-detectron2.txt")
DATABASE = "api.osv.dev"


def audit(files: list[str], report: Path) -> int:
    """Run pip-audit on the pins, without installing anything; its JSON goes to ``report``."""
    report.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--vulnerability-service",
        "osv",
        "--progress-spinner",
        "off",
    ]
    command += ["--no-deps", "--disable-pip", "--format", "json", "--output", str(report)]
    for name in files:
        command += ["--requirement", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not report.exists():
        said = done.stderr.strip().splitlines() or ["no reason given"]
        print(
            f"error: {DATABASE} could not be asked, so NOTHING WAS AUDITED ({said[-1][:200]})",
            file=sys.stderr,
        )
        return 3
    found = [entry for entry in json.loads(report.read_text())["dependencies"] if entry.get("vulns")]
    for entry in found:
        for each in entry["vulns"]:
            fixed = ", ".join(each["fix_versions"]) or "no release"
            print(f"{entry['name']} {entry['version']}: {each['id']}, mended in {fixed}")
    print(f"{report}: {len(found)} packages with known vulnerabilities")
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("reports"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    materials = bom([Path(name).read_text(encoding="utf-8") for name in SERVED])
    (args.output / "sbom.json").write_text(json.dumps(materials, indent=1) + "\n", encoding="utf-8")
    print(f"{args.output / 'sbom.json'}: {len(materials['components'])} packages that are served with")
    return audit([*SERVED, "requirements-dev.txt", "requirements-kserve.txt"], args.output / "audit.json")


if __name__ == "__main__":
    sys.exit(main())
