"""Fine-tune Detectron2's Mask R-CNN on a small data set.

::

    photos + annotations
        │   data          import, check
        ▼
    data set (COCO JSON, train / val / test)
        │   training      from initial weights (checkpoints), one of four networks (backbones, configs)
        ▼
    run folder ──────── evaluation   AP, curves, the worst photos
        │   export
        ▼
    TorchServe archive (.mar), or one small checkpoint (.safetensors)

Archives contain this file and ``finetune.backbones``, so it imports nothing.
"""
