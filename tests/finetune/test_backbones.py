"""The four models are the original's, name by name and shape by shape, and they run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.modeling import build_model

from finetune.backbones import BACKBONES, backbone_of, load_config
from finetune.configs.keys import get_config

REFERENCE = Path(__file__).parent / "reference"
STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}


def model_of(backbone, *overrides):
    return build_model(get_config(backbone, ["MODEL.DEVICE", "cpu", *overrides])).eval()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_state_dict_equals_the_reference(backbone):
    reference = json.loads((REFERENCE / f"{backbone}.json").read_text())
    state = {name: list(tensor.shape) for name, tensor in model_of(backbone).state_dict().items()}
    assert state == reference


@pytest.mark.parametrize("backbone", BACKBONES)
def test_forward_pass(backbone):
    model = model_of(backbone, "INPUT.MIN_SIZE_TEST", "64", "MODEL.RPN.POST_NMS_TOPK_TEST", "20")
    with torch.no_grad():
        features = model.backbone(torch.randn(1, 3, 64, 128))
        assert {name: (64 // f.shape[2], 128 // f.shape[3]) for name, f in features.items()} == {
            name: (stride, stride) for name, stride in STRIDES.items()
        }
        image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
        [output] = model([{"image": image, "height": 128, "width": 192}])
    assert output["instances"].image_size == (128, 192)
    assert all(torch.isfinite(f).all() for f in features.values())


@pytest.mark.parametrize("backbone", ["mobilenetv2_fpn", "vovnet19_fpn"])
def test_signal_keeps_its_scale_through_random_weights(backbone):
    # a run with --weights none cannot learn when the features vanish or explode
    with torch.no_grad():
        features = model_of(backbone).backbone.bottom_up(torch.randn(1, 3, 96, 96) * 60)
    for name, feature in features.items():
        assert 0.05 < feature.std() < 10, name


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(("freeze_at", "trained"), [(0, "stem"), (1, "2"), (2, "3"), (5, None)])
def test_freeze_at(backbone, freeze_at, trained):
    bottom_up = model_of(backbone, "MODEL.BACKBONE.FREEZE_AT", str(freeze_at)).backbone.bottom_up
    names = [name for name, parameter in bottom_up.named_parameters() if parameter.requires_grad]
    if trained is None:
        assert names == []
    elif backbone == "mobilenetv2_fpn":
        assert names[0].startswith({"stem": "features.0.", "2": "features.2.", "3": "features.4."}[trained])
    else:
        assert names[0].startswith(("stem", f"res{trained}", f"stage{trained}"))
        assert (freeze_at == 0) == names[0].startswith("stem")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_config_is_known_and_has_the_one_pixel_convention(backbone):
    cfg = get_config(backbone)
    assert backbone_of(cfg) == backbone
    assert cfg.INPUT.FORMAT == "BGR"
    assert cfg.MODEL.PIXEL_MEAN == [103.530, 116.280, 123.675]
    assert cfg.MODEL.PIXEL_STD == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("backbone", ["mobilenetv2_fpn", "vovnet19_fpn"])
def test_unknown_feature_is_refused(backbone):
    node = "MOBILENETV2" if backbone == "mobilenetv2_fpn" else "VOVNET"
    with pytest.raises(ValueError, match="no feature"):
        model_of(backbone, f"MODEL.{node}.OUT_FEATURES", "['res9']")


def test_load_config_leaves_the_training_node_out(tmp_path):
    cfg = get_config("vovnet19_fpn", ["MODEL.FPN.OUT_CHANNELS", "64"])
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    loaded = load_config(path)
    assert "FINETUNE" not in loaded
    assert yaml.safe_load(loaded.MODEL.dump()) == yaml.safe_load(cfg.MODEL.dump())


def test_load_config_runs_no_code(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("MODEL: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(Exception, match="could not determine a constructor"):
        load_config(path)


def test_backbones_travel_alone(tmp_path):
    # an archive carries finetune/__init__.py and finetune/backbones/ and nothing else of finetune
    source = Path(__file__).parents[2] / "finetune"
    (tmp_path / "finetune").mkdir()
    shutil.copy(source / "__init__.py", tmp_path / "finetune")
    shutil.copytree(source / "backbones", tmp_path / "finetune" / "backbones")
    (tmp_path / "config.yaml").write_text(get_config("mobilenetv2_fpn", ["MODEL.DEVICE", "cpu"]).dump())
    code = (
        "from detectron2.modeling import build_model; import finetune.backbones as b;"
        "print(b.__file__); build_model(b.load_config('config.yaml'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
