"""Where published checkpoints lie, and how they get here: downloaded once, checked, kept in a cache."""

import hashlib
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from finetune.download import cache_folder, download
from finetune.errors import UserError

_ZOO = "https://dl.fbaipublicfiles.com/detectron2/"
_DROPBOX = "https://www.dropbox.com/s/"

# (backbone, what --weights says) → URL
PUBLISHED = {
    ("resnet50_fpn", "coco"): _ZOO
    + "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl",
    ("resnet101_fpn", "coco"): _ZOO
    + "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x/138205316/model_final_a3ec72.pkl",
    # a Faster R-CNN with an FPN of 128 channels: its backbone and box head's second layer fit
    (
        "mobilenetv2_fpn",
        "coco",
    ): "https://dl.dropbox.com/s/q4iceofvlcu207c/faster_mobilenetv2_FPNLite_ms_3x.pth",
    ("vovnet19_fpn", "coco"): _DROPBOX + "h1khv9l7quakvz0/mask_V_19_eSE_FPNLite_ms_3x.pth?dl=1",
    ("resnet50_fpn", "imagenet"): _ZOO + "ImageNetPretrained/MSRA/R-50.pkl",
    ("resnet101_fpn", "imagenet"): _ZOO + "ImageNetPretrained/MSRA/R-101.pkl",
    ("mobilenetv2_fpn", "imagenet"): "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
    # VoVNet's authors name this one in the configs of github.com/youngwanLEE/vovnet-detectron2
    ("vovnet19_fpn", "imagenet"): _DROPBOX + "rptgw6stppbiw1u/vovnet19_ese_detectron2.pth?dl=1",
}

# File name → (algorithm, first digits of the digest). PyTorch writes SHA-256's into its file names;
# Detectron2's MODEL_ZOO.md says of its own: "any model on this page contains its md5 prefix in its file
# name".
CHECKSUMS = {
    "mobilenet_v2-b0353104.pth": ("sha256", "b0353104"),
    "model_final_f10217.pkl": ("md5", "f10217"),
    "model_final_a3ec72.pkl": ("md5", "a3ec72"),
}

MAX_BYTES = 4 << 30  # no checkpoint of these models comes near


def fetch(spec: str, backbone: str) -> Path:
    """Return the local file that ``spec`` means, downloaded to the cache if it is not there yet.

    Args:
        spec: ``coco``, ``imagenet``, a URL (``http``, ``https``, ``file`` or ``detectron2``) or a path.
        backbone: a name in ``finetune.backbones.BACKBONES``, on which the meaning of ``coco`` depends.

    Raises:
        UserError: unreachable (the sentence names the file and where to put it), or not the right file.
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
    target = cache_folder() / "weights" / _cache_name(url)
    download(url, target, max_bytes=MAX_BYTES)
    _verify(target, url)
    return target


def _cache_name(url: str) -> str:
    """The URL's file name, behind a tag of the whole URL: everybody's model is called model_final.pth."""
    name = Path(urlsplit(url).path).name or "checkpoint"
    if name in CHECKSUMS or url in PUBLISHED.values():
        return name
    return f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"


def _verify(path: Path, url: str) -> None:
    algorithm, prefix = CHECKSUMS.get(Path(urlsplit(url).path).name, ("sha256", ""))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if not digest.startswith(prefix):
        path.unlink()
        raise UserError(
            f"{url} is not the file it should be ({algorithm} begins with {digest[: len(prefix)]},"
            f" not {prefix}): it was removed, try again"
        )
