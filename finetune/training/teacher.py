"""Distillation: a backbone without pretrained weights first imitates a trained model, then learns to detect.

In its first steps the student matches the teacher's feature maps: hints (Romero et al., FitNets, 2015,
arXiv:1412.6550), given for a detector where its heads read the features (Li, Jin & Yan, Mimicking Very Efficient
Network for Object Detection, CVPR 2017). Every pixel then carries a signal, not only those of a few annotated objects,
and the student can take over the teacher's heads.
"""

from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN

from finetune.checkpoints.initial_weights import LoadReport
from finetune.checkpoints.run import Run
from finetune.errors import UserError


class Teacher:
    """A trained model whose feature pyramid has the student's shape: as many channels at every level.

    Args:
        path: a run folder or a published checkpoint.
        student: the model to train; only its shapes are read.

    Raises:
        UserError: there is no such model, or its pyramid has another shape.
    """

    def __init__(self, path: Path, student: GeneralizedRCNN) -> None:
        run = Run.open(path, ["MODEL.DEVICE", student.device.type])
        self.name = run.name
        self.model = run.load_model().requires_grad_(False)
        ours, theirs = student.backbone.output_shape(), self.model.backbone.output_shape()
        if ours != theirs:
            level = next(iter(ours))
            raise UserError(
                f"{path} cannot be the teacher: its pyramid has {theirs[level].channels} channels, the model to train "
                f"has {ours[level].channels}; set MODEL.FPN.OUT_CHANNELS {theirs[level].channels}, or choose another "
                "teacher"
            )

    @torch.no_grad()
    def give_heads(self, student: GeneralizedRCNN, loaded: LoadReport) -> None:
        """Copy pyramid and heads to the student: the tensors of equal shape that no weights file has filled.

        Args:
            loaded: the report on the student's initial weights; updated in place.
        """
        state, known = student.state_dict(), self.model.state_dict()
        given = [
            name
            for name in loaded.missing + loaded.replaced
            if ".bottom_up." not in name and name in known and known[name].shape == state[name].shape
        ]
        for name in given:
            state[name].copy_(known[name])
        loaded.loaded += given
        loaded.missing = [name for name in loaded.missing if name not in given]
        loaded.replaced = [name for name in loaded.replaced if name not in given]
        loaded.notes.append(f"{len(given)} tensors of pyramid and heads copied from the teacher, {self.name}")

    def hints(self, student: GeneralizedRCNN, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The hint loss: squared error over the teacher's variance, averaged over levels; 1 for a constant output.

        Args:
            batch: training inputs; only ``image``, (3, H, W), 0..255, is read.
        """
        images = student.preprocess_image(batch).tensor
        with torch.no_grad():
            wanted = self.model.backbone(images)
        given = student.backbone(images)
        missed = []
        for level in sorted(wanted.keys() - {"p6"}):  # p6 is p5, subsampled
            truth = wanted[level].float()
            spread = truth.var((0, 2, 3)).mean()
            missed.append((given[level].float() - truth).square().mean() / spread)
        return {"loss_hint": torch.stack(missed).mean()}
