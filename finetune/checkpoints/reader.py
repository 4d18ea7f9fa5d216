"""Read a checkpoint file into named tensors without running any code that it contains."""

import codecs
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from finetune.errors import UserError

# Everything that a pickle of NumPy arrays in containers refers to; none of it can run code. NumPy 2 renamed the
# arrays' module, so both names are listed.
_NUMPY_FUNCTIONS: tuple[Any, ...] = (np.empty(0).__reduce__()[0], np.float32(0).__reduce__()[0])
_CONTAINERS = (set, frozenset, list, dict, tuple)
_ALLOWED: dict[str, Any] = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": codecs.encode,  # how Python 3 writes an array's bytes into an old protocol
    **{f"numpy.{core}.multiarray.{f.__name__}": f for core in ("core", "_core") for f in _NUMPY_FUNCTIONS},
    **{f"{module}.{t.__name__}": t for module in ("builtins", "__builtin__") for t in _CONTAINERS},
}
_WRAPPERS = ("model", "state_dict", "model_state", "blobs")


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles containers and NumPy arrays, and refuses every other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"it contains {module}.{name}") from None


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a ``.safetensors``, ``.pth`` (PyTorch) or ``.pkl`` (Detectron2, Caffe2) file.

    A state dict inside a training checkpoint (``{"model": …, "optimizer": …}``) is unwrapped; Caffe2's momentum
    tensors are skipped. Tensors are on the CPU, in the dtype of the file.

    Raises:
        UserError: the file is missing, has another suffix, is damaged, or holds objects that could run code.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path}: give coco, imagenet, none, a file or a URL")
    readers = {".safetensors": _read_safetensors, ".pth": _read_torch, ".pkl": _read_pickle}
    if path.suffix not in readers:
        raise UserError(f"{path} is no known kind of checkpoint: the name must end with {', '.join(readers)}")
    try:
        content = readers[path.suffix](path)
    # damaged pickles raise almost any exception
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, OSError, ValueError, LookupError,
            AttributeError, TypeError, MemoryError, OverflowError) as error:  # fmt: skip
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{path} cannot be read as a checkpoint ({reason}): fetch or save it again, best as .safetensors"
        ) from None
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = {}
    for name, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            value = torch.from_numpy(np.array(value))  # a copy: pickled arrays may be read-only
        if isinstance(value, torch.Tensor) and not str(name).endswith("_momentum"):
            tensors[str(name).removeprefix("module.")] = value
    if not tensors:
        raise UserError(f"{path} holds no named tensors: it is not a model checkpoint")
    return tensors


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(str(path), "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict


def _read_torch(path: Path) -> Any:
    numpy_names = [(value, name) for name, value in _ALLOWED.items() if name.startswith("numpy")]
    dtypes = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8")]
    with torch.serialization.safe_globals([*numpy_names, *dtypes]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return _ArrayUnpickler(file, encoding="latin1").load()  # latin1: Caffe2's were written by Python 2
