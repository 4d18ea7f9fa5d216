"""Weights of every published layout load, numerically checked; bad files are refused in one sentence."""

import pickle
import re

import numpy as np
import pytest
import torch
import torchvision
from detectron2.modeling import build_model
from safetensors.torch import save_file

from finetune.backbones import BACKBONES
from finetune.checkpoints.initial_weights import load_weights
from finetune.checkpoints.reader import read_checkpoint
from finetune.configs.keys import get_config
from finetune.errors import UserError

BOTTOM_UP = "backbone.bottom_up."


def model_of(backbone, *overrides):
    return build_model(get_config(backbone, ["MODEL.DEVICE", "cpu", *overrides])).eval()


def save(tensors, path):
    """Write a checkpoint in the format that the suffix names, as others publish it; return the path."""
    if path.suffix == ".pth":
        torch.save({"model": tensors, "optimizer": {}, "iteration": 300}, path)
    elif path.suffix == ".pkl":
        arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}, protocol=2))
    else:
        save_file(tensors, path)
    return str(path)


def missing_of_the_backbone(report):
    return [name for name in report.missing if name.startswith(BOTTOM_UP)]


@pytest.fixture(scope="module")
def resnet50():
    model = model_of("resnet50_fpn")
    for name, tensor in model.state_dict().items():  # norms that do something
        if name.endswith("norm.weight"):
            tensor.uniform_(0.5, 1.0)
    return model


def backbone_state(model):
    return {
        n.removeprefix(BOTTOM_UP): t.clone() for n, t in model.state_dict().items() if n.startswith(BOTTOM_UP)
    }


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "pkl"])
def test_published_checkpoint_loads_whole(backbone, suffix, tmp_path):
    torch.manual_seed(0)
    published, model = model_of(backbone).state_dict(), model_of(backbone)
    report = load_weights(model, save(published, tmp_path / f"model_final.{suffix}"), backbone)
    assert (report.missing, report.replaced, report.skipped) == ([], [], [])
    assert all(torch.equal(tensor, published[name]) for name, tensor in model.state_dict().items())


def test_none_loads_nothing():
    report = load_weights(model_of("mobilenetv2_fpn"), "none", "mobilenetv2_fpn")
    assert report.loaded == []
    assert "random" in str(report)


def test_head_of_another_class_count_is_replaced_and_said_so(tmp_path):
    state = model_of("mobilenetv2_fpn", "MODEL.ROI_HEADS.NUM_CLASSES", "80").state_dict()
    url = f"file://{save(state, tmp_path / 'coco.pth')}"
    model = model_of("mobilenetv2_fpn", "MODEL.ROI_HEADS.NUM_CLASSES", "3")
    report = load_weights(model, url, "mobilenetv2_fpn")
    layers = ("box_predictor.bbox_pred", "box_predictor.cls_score", "mask_head.predictor")
    kinds = ("bias", "weight")
    assert sorted(report.replaced) == [f"roi_heads.{layer}.{kind}" for layer in layers for kind in kinds]
    assert report.missing == []
    assert "other classes" in str(report)
    assert re.search(r"^mask head +10 +0 +2$", str(report), re.MULTILINE)


def test_narrower_fpn_is_skipped_and_the_backbone_loaded(tmp_path):
    state = model_of("mobilenetv2_fpn", "MODEL.FPN.OUT_CHANNELS", "128").state_dict()
    path = save(state, tmp_path / "faster_rcnn.pth")
    report = load_weights(model_of("mobilenetv2_fpn"), path, "mobilenetv2_fpn")
    assert "backbone.fpn_lateral2.weight" in report.skipped
    assert "tensors of the file that fit nothing: " in str(report)
    assert "backbone.fpn_lateral2.weight" in report.missing
    assert missing_of_the_backbone(report) == []


def torchvision_mobilenet():
    torch.manual_seed(1)
    network = torchvision.models.mobilenet_v2(weights=None).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network


def flat_names(state):
    """The names of torchvision's first releases, derived by the order of modules."""
    flat = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"features\.(\d+)\.conv\.(\d)\.(\d)\.(.+)", name)
        if match:
            name = f"features.{match[1]}.conv.{int(match[2]) * 3 + int(match[3])}.{match[4]}"
        elif match := re.fullmatch(r"features\.(\d+)\.conv\.(\d)\.(.+)", name):
            last_convolution = {"1": {"1": 3, "2": 4}}.get(match[1], {"2": 6, "3": 7})
            name = f"features.{match[1]}.conv.{last_convolution[match[2]]}.{match[3]}"
        flat[name] = tensor
    return flat


@pytest.mark.parametrize("layout", ["nested", "flat", "features only"])
def test_torchvision_mobilenet_gives_the_same_features(layout, tmp_path):
    network = torchvision_mobilenet()
    state = network.state_dict()
    if layout == "flat":
        state = flat_names(state)
    elif layout == "features only":
        state = {n.removeprefix("features."): t for n, t in state.items() if n.startswith("features.")}
    model = model_of("mobilenetv2_fpn")
    report = load_weights(model, save(state, tmp_path / "mobilenet_v2.pth"), "mobilenetv2_fpn")
    assert missing_of_the_backbone(report) == []

    rgb = torch.randint(0, 256, (1, 3, 64, 96)).float()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        features = model.backbone.bottom_up(rgb.flip(1) - model.pixel_mean)
        x = (rgb / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        for i, block in enumerate(network.features[:18]):
            x = block(x)
            if i in (3, 6, 13, 17):
                ours = features[{3: "res2", 6: "res3", 13: "res4", 17: "res5"}[i]]
                torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3 * x.std().item())


def test_our_own_mobilenet_is_not_taken_for_torchvisions(tmp_path):
    # a run's checkpoint is used again: its first convolution must not be converted a second time
    half = {name: tensor.half() for name, tensor in model_of("mobilenetv2_fpn").state_dict().items()}
    model = model_of("mobilenetv2_fpn")
    load_weights(model, save(half, tmp_path / "model_best.safetensors"), "mobilenetv2_fpn")
    first = f"{BOTTOM_UP}features.0.0.weight"
    assert torch.equal(model.state_dict()[first], half[first].float())


def test_partial_resnet_without_prefix(resnet50, tmp_path):
    state = {n: t for n, t in backbone_state(resnet50).items() if not n.startswith(("res5.1", "res5.2"))}
    path = save(state, tmp_path / "resnet50_res2_res4.safetensors")
    report = load_weights(model_of("resnet50_fpn"), path, "resnet50_fpn")
    assert {name.split(".")[2] for name in missing_of_the_backbone(report)} == {"res5"}
    assert "residual blocks that the file lacks start as identity: res5.1, res5.2" in str(report)


def test_resnet101_grows_from_resnet50(resnet50, tmp_path):
    model = model_of("resnet101_fpn")
    path = save(backbone_state(resnet50), tmp_path / "resnet50.safetensors")
    report = load_weights(model, path, "resnet101_fpn")
    assert "start as identity: res4.6, res4.7, res4.8, res4.9, … (17 in all)" in str(report)
    image = torch.randn(1, 3, 64, 64) * 50
    with torch.no_grad():
        grown, original = model.backbone.bottom_up(image), resnet50.backbone.bottom_up(image)
    for name, feature in original.items():
        torch.testing.assert_close(grown[name], feature)
    # and the new blocks can learn
    model.backbone.bottom_up(image)["res4"].square().mean().backward()
    gradient = dict(model.named_parameters())[f"{BOTTOM_UP}res4.22.conv3.weight"].grad
    assert gradient.abs().sum() > 0


def to_caffe2(name):
    name = re.sub(r"\.norm\.weight$", "_bn_s", re.sub(r"\.norm\.bias$", "_bn_b", name))
    name = re.sub(r"\.weight$", "_w", name)
    branches = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    for ours, theirs in branches.items():
        name = re.sub(rf"^(res\d\.\d+\.){ours}", rf"\g<1>{theirs}", name)
    name = name.replace("stem.conv1_bn", "res_conv1_bn").replace("stem.conv1_w", "conv1_w")
    return name.replace(".", "_")


def test_caffe2_resnet(resnet50, tmp_path):
    state = backbone_state(resnet50)
    blobs = {to_caffe2(n): t.numpy() for n, t in state.items() if "running" not in n}
    blobs |= {"fc1000_w": np.ones((10, 4)), "conv1_w_momentum": np.ones((64, 3, 7, 7))}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs, "cfg": "text"}, protocol=2))
    model = model_of("resnet50_fpn")
    report = load_weights(model, str(path), "resnet50_fpn")
    assert missing_of_the_backbone(report) == []
    assert report.skipped == ["fc1000.weight"]
    assert "fused" in str(report)
    image = torch.randn(1, 3, 64, 64) * 50
    with torch.no_grad():
        expected = resnet50.backbone.bottom_up(image)["res5"]
        torch.testing.assert_close(model.backbone.bottom_up(image)["res5"], expected)


def test_weights_of_another_model_or_of_nowhere_are_refused(resnet50, tmp_path):
    path = save(resnet50.state_dict(), tmp_path / "resnet50.safetensors")
    with pytest.raises(UserError, match="holds no tensor of mobilenetv2_fpn's backbone"):
        load_weights(model_of("mobilenetv2_fpn"), path, "mobilenetv2_fpn")
    with pytest.raises(UserError, match=r"there is no checkpoint at .*nowhere\.pth"):
        load_weights(model_of("mobilenetv2_fpn"), str(tmp_path / "nowhere.pth"), "mobilenetv2_fpn")


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('code ran')",)


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_code_in_a_checkpoint_does_not_run(suffix, tmp_path):
    path = tmp_path / f"evil.{suffix}"
    if suffix == "pkl":
        path.write_bytes(pickle.dumps({"model": {"weight": np.ones(1)}, "extra": Evil()}))
    else:
        torch.save({"model": {"weight": torch.ones(1)}, "extra": Evil()}, path)
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)


LEAN = "MODEL.MOBILENETV2.SEPARABLE_FPN True MODEL.RPN.HEAD_NAME SeparableRPNHead".split()


@torch.no_grad()
def test_a_separable_pyramid_starts_from_a_dense_one(tmp_path):
    dense = model_of("mobilenetv2_fpn")
    state = dense.state_dict()
    for name in ("backbone.fpn_output2", "proposal_generator.rpn_head.conv"):  # filters that separate exactly
        channels = state[f"{name}.weight"].shape[1]
        state[f"{name}.weight"].copy_(
            torch.randn(channels, channels, 1, 1) * torch.randn(channels, 1, 3, 3)[None, :, 0]
        )
    lean = model_of("mobilenetv2_fpn", *LEAN)
    report = load_weights(lean, save(state, tmp_path / "dense.safetensors"), "mobilenetv2_fpn")
    assert (report.missing, report.skipped) == ([], [])
    images = torch.rand(1, 3, 64, 64)
    [p2, *_], [other, *_] = dense.backbone(images).values(), lean.backbone(images).values()
    torch.testing.assert_close(other, p2, rtol=1e-3, atol=1e-3 * float(p2.abs().max()))
    features = [torch.randn(1, p2.shape[1], 8, 8)] * 5
    heads = (model.proposal_generator.rpn_head(features)[0][0] for model in (dense, lean))
    torch.testing.assert_close(*heads, rtol=1e-3, atol=1e-3)
    again = model_of("mobilenetv2_fpn", *LEAN)
    path = save(lean.state_dict(), tmp_path / "lean.safetensors")
    assert load_weights(again, path, "mobilenetv2_fpn").missing == []
    assert all(torch.equal(again.state_dict()[n], tensor) for n, tensor in lean.state_dict().items())


def test_numpy_arrays_in_a_pth_are_read(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": {"a": np.arange(3, dtype=np.float32)}, "lr": np.float64(0.1)}, path)
    assert torch.equal(read_checkpoint(path)["a"], torch.arange(3.0))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.pth", b"PK\x03\x04 and then nothing", "cannot be read"),
        ("cut.safetensors", b"\xff" * 20, "cannot be read"),
        ("cut.pkl", pickle.dumps({"model": np.ones(9)})[:40], "cannot be read"),
        ("page.pth", b"<!DOCTYPE html><p>Sign in</p>", "cannot be read"),
        ("empty.pkl", b"", "cannot be read"),
        ("words.pkl", pickle.dumps({"model": {"a": "b"}}), "holds no named tensors"),
        ("list.pkl", pickle.dumps([1, 2]), "holds no named tensors"),
        ("model.onnx", b"", "the name must end with .safetensors, .pth, .pkl"),
    ],
)
def test_broken_checkpoint_is_one_sentence(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_checkpoint(tmp_path / name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
