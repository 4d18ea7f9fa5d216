"""Make OpenVINO's intermediate representation of an archive's trunk: ``python -m handler.build.convert FOLDER``.

``maskrcnn export`` runs this on the staged archive. Input and output are channels_last: the CPU's convolutions work in
it, and so does :mod:`handler.model.roi_align`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from handler.archive import open_archive
from handler.model.engines import IR_NAME
from handler.model.engines.openvino_engine import from_torch, import_openvino
from handler.model.engines.torch_engine import Trunk
from handler.model.predictor import build_model


class ChannelsLastTrunk(nn.Module):
    """:class:`Trunk` from (N, H, W, 3) to maps (N, H, W, C)."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(output.permute(0, 2, 3, 1) for output in self.trunk(images.permute(0, 3, 1, 2)))


@torch.inference_mode()
def convert(folder: Path) -> Path:
    """Write ``openvino/trunk.xml`` and ``.bin`` into an unpacked archive; return the path of the first.

    Batch, height and width stay dynamic. The heads are converted when an archive is loaded.
    """
    trunk = ChannelsLastTrunk(Trunk(build_model(open_archive(folder))))
    model = from_torch(trunk, (1, 64, 96, 3))
    model.reshape([-1, -1, -1, 3])
    path = folder / IR_NAME
    path.parent.mkdir(exist_ok=True)
    import_openvino().save_model(model, path, compress_to_fp16=False)
    return path


if __name__ == "__main__":
    print(convert(Path(sys.argv[1])))
