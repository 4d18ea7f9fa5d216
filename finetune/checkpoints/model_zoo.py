"""Published checkpoints: where they are, and how they get into the cache."""

import hashlib
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from finetune.download import cache_folder, download
from finetune.errors import UserError

_ZOO = "https://dl.fbaipublicfiles.com/detectron2/"
_COCO_ZOO = _ZOO + "COCO-InstanceSegmentation/"
_DROPBOX, _DROPBOX_DIRECT = "https://www.dropbox.com/s/", "https://dl.dropbox.com/s/"

PUBLISHED = {
    ("resnet50_fpn", "coco"): _COCO_ZOO + "mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl",
    ("resnet101_fpn", "coco"): _COCO_ZOO + "mask_rcnn_R_101_FPN_3x/138205316/model_final_a3ec72.pkl",
    # a Faster R-CNN whose FPN has 128 channels: only its backbone and the box head's second layer fit
    ("mobilenetv2_fpn", "coco"): _DROPBOX_DIRECT + "q4iceofvlcu207c/faster_mobilenetv2_FPNLite_ms_3x.pth",
    ("vovnet19_fpn", "coco"): _DROPBOX + "h1khv9l7quakvz0/mask_V_19_eSE_FPNLite_ms_3x.pth?dl=1",
    ("resnet50_fpn", "imagenet"): _ZOO + "ImageNetPretrained/MSRA/R-50.pkl",
    ("resnet101_fpn", "imagenet"): _ZOO + "ImageNetPretrained/MSRA/R-101.pkl",
    ("mobilenetv2_fpn", "imagenet"): "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
    # from the configs of github.com/youngwanLEE/vovnet-detectron2, by VoVNet's authors
    ("vovnet19_fpn", "imagenet"): _DROPBOX + "rptgw6stppbiw1u/vovnet19_ese_detectron2.pth?dl=1",
}
"""(backbone, value of ``--weights``) → URL."""

CHECKSUMS = {
    "mobilenet_v2-b0353104.pth": ("sha256", "b0353104"),
    "model_final_f10217.pkl": ("md5", "f10217"),
    "model_final_a3ec72.pkl": ("md5", "a3ec72"),
}
"""File name → (algorithm, leading hex digits). PyTorch puts the SHA-256 into its file names, Detectron2 the MD5: "any
model on this page contains its md5 prefix in its file name" (MODEL_ZOO.md)."""

MAX_BYTES = 4 << 30  # several times the largest checkpoint of these models


def fetch(spec: str, backbone: str) -> Path:
    """Return the local file that ``spec`` means; a download goes to the cache.

    Args:
        spec: ``coco``, ``imagenet``, a URL (``http``, ``https``, ``file`` or ``detectron2``) or a path.
        backbone: a name in ``finetune.backbones.BACKBONES``, on which the meaning of ``coco`` depends.

    Raises:
        UserError: unreachable (the message names the file and where to put it), or not the right file.
    """
    url = PUBLISHED.get((backbone, spec), spec)
    if spec in ("coco", "imagenet") and url == spec:
        raise UserError(f"no {spec} weights are published for {backbone}: choose none, a file or a URL")
    if url.startswith("detectron2://"):
        url = _ZOO + url.removeprefix("detectron2://")
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    if parts.scheme not in ("http", "https"):
        return Path(url)
    name = Path(parts.path).name or "checkpoint"
    checksum = CHECKSUMS.get(name)
    if not checksum and url not in PUBLISHED.values():
        # many models are called model_final.pth: tell them apart by their whole URL
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"
    return download(url, cache_folder() / "weights" / name, max_bytes=MAX_BYTES, checksum=checksum)
