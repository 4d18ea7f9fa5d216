"""Fine-tune Detectron2's Mask R-CNN on a small data set. The command line is ``python -m finetune``."""
