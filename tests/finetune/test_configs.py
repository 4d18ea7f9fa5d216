"""Configs are read, overridden, and refuse what they do not know."""

import re
from pathlib import Path

import pytest

from finetune.backbones import BACKBONES
from finetune.configs.keys import CONFIGS, get_config, leaves, read_config
from finetune.errors import UserError
from finetune.training.launch import LEAN


@pytest.mark.parametrize("backbone", BACKBONES)
def test_header_names_its_commands(backbone):
    text = (CONFIGS / f"{backbone}.yaml").read_text()
    for command in (f"train {backbone}", "evaluate", "export"):
        assert f"maskrcnn {command}" in text.split("_BASE_")[0]


def test_every_config_has_a_backbone():
    assert {path.stem for path in Path(CONFIGS).glob("*.yaml")} == {*BACKBONES, *LEAN.values(), "base"}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("SOLVER.BASE_LR", "1e-4", 1e-4),
        ("SOLVER.BASE_LR", "1", 1.0),
        ("SOLVER.MAX_ITER", "20", 20),
        ("MODEL.MASK_ON", "false", False),
        ("MODEL.MASK_ON", "False", False),
        ("FINETUNE.INIT", "weights/model.pth", "weights/model.pth"),
        ("FINETUNE.INIT", "1234", "1234"),
        ("FINETUNE.AUGMENT.COPY_PASTE", "0.5", 0.5),
        ("SOLVER.STEPS", "[10, 20]", (10, 20)),
        ("MODEL.FPN.OUT_CHANNELS", "128", 128),
    ],
)
def test_override(key, text, value):
    found = dict(leaves(get_config("resnet50_fpn", [key, text])))[key]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.MAX_ITERS", "5"], "no config key SOLVER.MAX_ITERS: did you mean SOLVER.MAX_ITER?"),
        (["FINETUNE.AUGMENT.COPYPASTE", "5"], "did you mean FINETUNE.AUGMENT.COPY_PASTE?"),
        (["solver.max_iter", "5"], "did you mean SOLVER.MAX_ITER?"),
        (["SOLVER", "5"], "no config key SOLVER"),
        (["SOLVER.MAX_ITER"], "'SOLVER.MAX_ITER' has no value"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER takes a whole number such as 700, not 'many'"),
        (["MODEL.MASK_ON", "1"], "MODEL.MASK_ON takes true or false"),
    ],
)
def test_bad_override_is_one_sentence(overrides, message):
    with pytest.raises(UserError) as error:
        get_config("mobilenetv2_fpn", overrides)
    assert message in str(error.value)
    with pytest.raises(UserError, match="choose one of resnet50_fpn"):
        get_config("resnet18_fpn", overrides)


def test_config_of_another_version_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("FINETUNE:\n  LONG_GONE: 1\n")
    with pytest.raises(UserError, match=r"config of this version \(.*LONG_GONE"):
        read_config(path)


README = CONFIGS.parent / "README.md"
ROW = re.compile(r"^\| `([A-Z][A-Z0-9_.]+)` \| `(.*?)` \| \S.* \|$", re.MULTILINE)


def test_readme_documents_every_finetune_key():
    documented = {key for key, _ in ROW.findall(README.read_text()) if key.startswith("FINETUNE.")}
    assert documented == {key for key, _ in leaves(get_config("resnet50_fpn")) if key.startswith("FINETUNE.")}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_readme_states_the_defaults(backbone):
    config = dict(leaves(get_config(backbone)))
    stated = dict(ROW.findall(README.read_text()))
    assert stated == {key: str(config[key]) for key in stated}
