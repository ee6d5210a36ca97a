"""Loads the compiled kernels for this CPU and calls them with checked tensors."""

from __future__ import annotations

import ctypes
import functools
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from opensnac.errors import ConfigError, TensorError
from opensnac.processor import VARIABLE, best_level, file_of, why_none

SIZES = ("tiles", "units_scratch", "residual_jobs", "residual_scratch")  # functions that return an integer

Argument = Tensor | int | ctypes.Array[ctypes.c_int64] | None


@dataclass(frozen=True)
class Library:
    """The kernels of one CPU level."""

    level: str
    functions: ctypes.CDLL
    bfloat16: bool  # whether they have bfloat16 products


@functools.cache
def loaded() -> Library | None:
    """The kernels of the best level, or None."""
    level = best_level()
    return None if level is None else opened(level, file_of(level))


def opened(level: str, path: Path) -> Library:
    """The kernels in a file for this CPU."""
    functions = ctypes.CDLL(str(path))
    for name in SIZES:
        getattr(functions, name).restype = ctypes.c_int64
    functions.use_openmp(_gomp_parallel())
    return Library(level, functions, bool(functions.has_bfloat16()))


def _gomp_parallel() -> ctypes.c_void_p | None:
    """GOMP_parallel of PyTorch's OpenMP runtime, or None: both share one thread pool."""
    try:
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, ctypes.c_void_p)
    except (AttributeError, OSError):
        return None


@dataclass
class _Process:
    """Whether this process was forked, and whether it has warned about that."""

    forked: bool = False
    warned: bool = False

    def enter_child(self) -> None:
        """Called in the child after a fork."""
        self.forked, self.warned = True, False


_process = _Process()
os.register_at_fork(after_in_child=_process.enter_child)


def threads() -> int:
    """Number of threads to compute on: PyTorch's for the calling thread.

    OpenMP's threads do not survive a fork, and waiting for them would block forever: a forked process uses one thread.
    """
    if not _process.forked:
        return torch.get_num_threads()
    if not _process.warned and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        message = "this process was forked, and OpenMP's threads do not survive a fork: PyTorch and the kernels use"
        warnings.warn(f"{message} one thread here; start processes with 'spawn' to use more", stacklevel=2)
    _process.warned = True
    return 1


Types = torch.dtype | Sequence[torch.dtype]


def check(name: str, tensor: Tensor, shape: Sequence[int | None], dtype: Types = torch.float32) -> Tensor:
    """The tensor, contiguous; TensorError unless it is one of this type and shape (None: any size) on the CPU."""
    return check_strided(name, tensor, shape, dtype).contiguous()


def check_strided(name: str, tensor: Tensor, shape: Sequence[int | None], dtype: Types = torch.float32) -> Tensor:
    """As `check`, without making the tensor contiguous."""
    dtypes = (dtype,) if isinstance(dtype, torch.dtype) else dtype
    if not isinstance(tensor, Tensor):
        raise TensorError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    fits = len(shape) == tensor.dim() and all(
        want is None or want == have for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not fits or tensor.dtype not in dtypes or tensor.device.type != "cpu" or tensor.layout != torch.strided:
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        types = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        got = f"{str(tensor.dtype).removeprefix('torch.')} ({', '.join(map(str, tensor.shape))}) on {tensor.device}"
        raise TensorError(f"{name}: expected {types} ({sizes}) on cpu, got {got}")
    if tensor.requires_grad and torch.is_grad_enabled():
        raise TensorError(f"{name}: expected a tensor without gradients, got one that requires them; use no_grad")
    return tensor


def call(name: str, *arguments: Argument) -> None:
    """Run a kernel on `threads()` threads: tensors and arrays are passed as pointers, integers as 64 bits."""
    getattr(require_library().functions, name)(ctypes.c_int64(threads()), *map(_c_value, arguments))


def query(name: str, *arguments: Argument) -> int:
    """The integer that a function of the library returns."""
    return int(getattr(require_library().functions, name)(*map(_c_value, arguments)))


def require_library() -> Library:
    """The loaded kernels; ConfigError where there are none."""
    found = loaded()
    if found is None:
        raise ConfigError(f"expected compiled kernels, got none: {why_none() or f'{VARIABLE} is 0'}")
    return found


def _c_value(argument: Argument) -> ctypes.Array[ctypes.c_int64] | ctypes.c_int64:
    return argument if isinstance(argument, ctypes.Array) else ctypes.c_int64(as_word(argument))


def as_word(argument: Argument) -> int:
    """An integer, or the address of a tensor or an array."""
    if isinstance(argument, int):
        return argument
    if isinstance(argument, ctypes.Array):
        return ctypes.addressof(argument)
    return 0 if argument is None else argument.data_ptr()


def word_array(words: Sequence[Argument]) -> ctypes.Array[ctypes.c_int64]:
    """A C struct or array of 64-bit words; does not keep tensors alive."""
    return (ctypes.c_int64 * len(words))(*map(as_word, words))
