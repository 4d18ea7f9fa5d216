import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from handler.errors import ArchiveError
from handler.model.predictor import Predictor


def _edit_card(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        card = json.loads((folder / "archive.json").read_text(encoding="utf-8"))
        (folder / "archive.json").write_text(json.dumps({**card, **changes}), encoding="utf-8")

    return edit


def _flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_flip_a_bit, "SHA-256"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no readable model\.safetensors"),
        (lambda folder: (folder / "archive.json").unlink(), r"no archive\.json"),
        (lambda folder: (folder / "archive.json").write_text("{"), "not JSON"),
        (_edit_card(format=2), "format 1"),
        (_edit_card(classes=["a", "b"]), "2 classes"),
        (
            lambda folder: (folder / "config.yaml").write_text("MODEL: {NOPE: 1}"),
            r"config\.yaml cannot be read",
        ),
        (
            lambda folder: (folder / "config.yaml").write_text(
                (folder / "config.yaml").read_text().replace("OUT_CHANNELS: 32", "OUT_CHANNELS: 64")
            ),
            r"does not fit config\.yaml",
        ),
    ],
)
def test_a_harmed_archive_is_refused_in_one_sentence(
    toy: tuple[Path, nn.Module], tmp_path: Path, harm: Callable[[Path], None], said: str
) -> None:
    folder = shutil.copytree(toy[0], tmp_path / "archive")
    harm(folder)
    with pytest.raises(ArchiveError, match=said) as caught:
        Predictor.load(folder, device="cpu")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
