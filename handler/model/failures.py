"""What an error of the network says about memory and the GPU."""

from __future__ import annotations

import gc

NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)
HARMLESS = (
    "_STATUS_NOT_SUPPORTED",
    "_STATUS_BAD_PARAM",
    "_STATUS_INVALID_VALUE",
    "invalid configuration argument",
)
"""A call that CUDA refused; the next one works. One image must not be able to end a worker with it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, CUDA's (``torch.OutOfMemoryError``), or PyTorch's on the CPU."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(words in text for words in NO_MEMORY))
    )


def is_broken_gpu(error: BaseException) -> bool:
    """Whether every later CUDA call of this process will fail as well: a device assert, an illegal access, ECC.

    Such an error is a ``torch.AcceleratorError``, or a ``RuntimeError`` with the words of CUDA, cuBLAS or cuDNN.
    """
    if is_out_of_memory(error) or any(words in str(error) for words in HARMLESS):
        return False
    words = ("CUDA error", "CUBLAS_STATUS_", "CUDNN_STATUS_", "cuDNN error")
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def release_memory() -> None:
    """Free what a failed batch left in caches."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
