"""A GPU for machines without one: tensors that say ``cuda:0``, compute on the CPU and refuse to mix with CPU tensors.

::

    with pretended_gpu() as gpu:
        predictor = Predictor.load(folder, device="cuda")
        gpu.reset()
        predictor.predict([photo])
    gpu.launches, gpu.syncs

It finds what goes wrong before the first kernel runs: a tensor left on the CPU, a copy nobody meant, a wait inside a
loop. Kernels, cuDNN and NCCL remain unproven. A launch is an operation that writes a tensor on the GPU; a sync is one
after which the host has to wait for its result: a value read, a size that depends on values, a blocking copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("cuda:0")
NO_KERNEL = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach", "lift_fresh"}
SIZE_DEPENDS_ON_VALUES = {"nonzero", "masked_select", "unique_consecutive", "unique_dim", "_unique2", "nms"}
READS = {"_local_scalar_dense", "equal", "is_nonzero"}
MASKED = {"index", "index_put_", "index_put"}  # with a mask these call nonzero
PINNED = {"is_pinned", "_pin_memory"}


class MixedDevices(RuntimeError):
    """An operation got tensors of the GPU and of the CPU, which a real GPU refuses as well."""


class GpuTensor(torch.Tensor):
    """Claims to be on ``cuda:0``; ``values`` holds its numbers on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> GpuTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        tensor.values = values
        return tensor

    def tolist(self) -> Any:  # torch reads the memory itself here, without an operation
        return PretendedGpu.now().read(self)

    def unsqueeze_(self, dim: int) -> torch.Tensor:  # a wrapper cannot change its shape
        return self.unsqueeze(dim)

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __repr__(self, **_: Any) -> str:
        return f"GpuTensor({self.values!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return PretendedGpu.now().run(func, args, kwargs or {})  # reached inside of backward passes


class PretendedGpu(TorchDispatchMode):
    """Runs every operation, and counts those of the GPU.

    Attributes:
        launches, syncs: how often each operation launched a kernel, and made the host wait.
    """

    _now: PretendedGpu | None = None

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    @classmethod
    def now(cls) -> PretendedGpu:
        assert cls._now, "outlived the pretended GPU"
        return cls._now

    def reset(self) -> None:
        self.launches: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()

    def read(self, tensor: GpuTensor) -> Any:
        self.syncs["tolist"] += 1
        return tensor.values.tolist()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func.overloadpacket.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_gpu = [tensor for tensor in given if isinstance(tensor, GpuTensor)]
        copies = name in ("_to_copy", "copy_")
        if on_gpu and not copies:
            strangers = [t for t in given if not isinstance(t, GpuTensor) and t.dim()]
            index = name in MASKED  # which take the indices from the CPU, and copy them
            if strangers and not index:
                raise MixedDevices(
                    f"{func}: {[tuple(t.shape) for t in strangers]} on the CPU, the others on cuda:0"
                )
            self.syncs["index from the CPU"] += len(strangers)
        if name in PINNED:
            return args[0] if name == "_pin_memory" else False
        device = kwargs.pop("device", None)
        kwargs.pop("pin_memory", None)
        to_gpu = bool(on_gpu) if device is None else torch.device(device).type == "cuda"
        if copies:
            to_gpu = to_gpu if name == "_to_copy" else isinstance(args[0], GpuTensor)
        values, settings = tree_map_only(GpuTensor, lambda t: t.values, (args, kwargs))
        result = func(*values, **settings)
        self._count(func, name, given, on_gpu, to_gpu, kwargs)
        if name in READS:
            return result
        return self._wrap(func, args, kwargs, result) if to_gpu else result

    def _count(
        self, func: Any, name: str, given: list[Any], on_gpu: list[Any], to_gpu: bool, kwargs: Any
    ) -> None:
        if not on_gpu and not to_gpu:
            return
        crosses = name in ("_to_copy", "copy_") and given and (len(on_gpu) < len(given) or not to_gpu)
        masks = name in MASKED and any(t.dtype in (torch.bool, torch.uint8) for t in on_gpu[1:])
        blocks = crosses and not kwargs.get("non_blocking")
        if name in READS or name in SIZE_DEPENDS_ON_VALUES or masks or blocks:
            self.syncs[name] += 1
        if not func.is_view and name not in NO_KERNEL and name not in READS:
            self.launches[name] += 1

    def _wrap(self, func: Any, args: Any, kwargs: Any, result: Any) -> Any:
        """``result`` as tensors of the GPU; what was changed in place is returned as the tensor that was given."""
        written = {
            id(tensor.values): tensor
            for tensor in tree_leaves((args, kwargs))
            if isinstance(tensor, GpuTensor)
        }
        return tree_map_only(
            torch.Tensor, lambda t: written[id(t)] if id(t) in written else GpuTensor(t), result
        )


@contextmanager
def pretended_gpu() -> Iterator[PretendedGpu]:
    """Within the block ``cuda`` and ``cuda:0`` can be used in this thread, and nothing else of ``torch.cuda``."""
    torch._C._ensureCUDADeviceGuardSet()
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    gpu = PretendedGpu()
    try:
        with (
            patch.object(PretendedGpu, "_now", gpu),
            patch("torch.cuda._lazy_init"),
            patch("torch.cuda.is_available", lambda: True),
            patch("torch.cuda.synchronize", lambda device=None: gpu.syncs.update(["synchronize"])),
            torch.backends.cudnn.flags(enabled=False),  # torch calls it by its own names, unknown to a CPU
            # a wrapper cannot be an inference tensor
            patch.object(torch.inference_mode, "__new__", lambda cls, mode=True: torch.no_grad()),
            patch.object(torch.inference_mode, "clone", lambda self: torch.no_grad()),
            gpu,
        ):
            yield gpu
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
