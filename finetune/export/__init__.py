"""Export: TorchServe archives and published checkpoints."""
