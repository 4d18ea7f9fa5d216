"""The software bill of materials: every pinned package with its hashes, as CycloneDX 1.5 JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]+?))?\s*\\?$")


def components(text: str) -> Iterator[dict[str, Any]]:
    """CycloneDX components from a requirements file as pip's --require-hashes wants it.

    Raises:
        ValueError: a requirement is not pinned to one version, or has no hash.
    """
    for entry in re.split(r"\n(?=\S)", re.sub(r"(?m)^\s*#.*\n?", "", text).strip()):
        first, *rest = entry.splitlines()
        pin = PIN.match(first)
        hashes = [
            {"alg": "SHA-256", "content": found}
            for line in rest
            for found in re.findall("sha256:(\\w{64})", line)
        ]
        if pin is None or not hashes:
            raise ValueError(f"{first!r} is not pinned and hashed")
        name = re.sub(r"[-_.]+", "-", pin["name"]).lower()
        purl = f"pkg:pypi/{name}@{pin['version']}"
        # one file of these is installed, chosen by the platform: all of them are given
        files = [{"type": "distribution", "url": purl, "hashes": [each]} for each in hashes]
        component = {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": pin["version"],
            "purl": purl,
        }
        component |= {"externalReferences": files}
        if pin["marker"]:
            component["properties"] = [{"name": "marker", "value": pin["marker"]}]
        yield component


def bom(texts: list[str]) -> dict[str, Any]:
    """The document; a package of the same version in two files stands in it once. The same for the same pins."""
    found = {component["bom-ref"]: component for text in texts for component in components(text)}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "components": [found[ref] for ref in sorted(found)],
    }
