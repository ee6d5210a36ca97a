"""Which arithmetic an engine runs on: PyTorch's on any device, C kernels on a processor, Triton's on a GPU."""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opensnac import kernels
from opensnac.engine.layers import Layer
from opensnac.engine.scales import Scale
from opensnac.errors import BackendError

CACHE_BYTES = 16 << 20  # of activations that the C kernels pass over layer by layer
TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class TorchBackend:
    """PyTorch's operators, on any device and in any floating-point type."""

    dtype: torch.dtype
    name: str = "torch"
    cache_bytes: int | None = None

    @property
    def signal_dtype(self) -> torch.dtype:
        """Of the activations."""
        return self.dtype

    def place(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """What is done with each weight: a copy, of its own, where it is needed."""
        return lambda weight: weight.detach().to(device, self.dtype, copy=True).contiguous()

    def prepare(self, layers: Sequence[Layer]) -> list[Layer]:
        """The layers as they run here."""
        return [*layers]

    def prepare_scales(self, scales: Sequence[Scale]) -> list[Scale]:
        """The quantiser's scales as they run here."""
        return [*scales]


@dataclass(frozen=True)
class TritonBackend(TorchBackend):
    """PyTorch's operators, but for rows of residual units, which take one kernel of Triton each."""

    name: str = "triton"

    def prepare(self, layers: Sequence[Layer]) -> list[Layer]:
        from opensnac.engine.fused import in_triton

        return in_triton(layers)


@dataclass(frozen=True)
class KernelBackend(TorchBackend):
    """The C kernels: activations in float32, products in `dtype`, float32 or bfloat16."""

    name: str = "c"
    cache_bytes: int | None = CACHE_BYTES

    @property
    def signal_dtype(self) -> torch.dtype:
        return torch.float32

    def place(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        return lambda weight: weight.detach().to(device, torch.float32, copy=True).contiguous()

    def prepare(self, layers: Sequence[Layer]) -> list[Layer]:
        from opensnac.engine.compiled import in_c

        return in_c(layers, bfloat16=self.dtype == torch.bfloat16)

    def prepare_scales(self, scales: Sequence[Scale]) -> list[Scale]:
        from opensnac.engine.compiled import scale_in_c

        return [scale_in_c(scale) for scale in scales]


def choose(name: str | None, device: torch.device, dtype: torch.dtype) -> TorchBackend:
    """The backend called `name`, or the fastest that there is for a device and a type. BackendError if there is none.

    On a processor the kernels compute float32 and bfloat16, the latter in float32 where the processor cannot, which a
    warning says.
    """
    if dtype not in TYPES:
        raise BackendError(f"dtype is {dtype}, expected one of {', '.join(map(str, TYPES))}")
    kernels_fit = device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)
    if name is None:
        name = "c" if kernels_fit and _kernels_there() else "torch"
    if name == "torch":
        return TorchBackend(dtype)
    if name == "triton":
        return _triton(device, dtype)
    if name != "c":
        raise BackendError(f"backend is {name!r}, expected 'c', 'torch' or 'triton'")
    if not kernels_fit:
        raise BackendError(f"the c backend computes float32 or bfloat16 on cpu, not {dtype} on {device}; use 'torch'")
    if kernels.level() is None:
        raise BackendError(f"the C kernels are not there: {kernels.why_none() or 'OPENSNAC_KERNELS is 0'}")
    if dtype == torch.bfloat16 and not kernels.has_bfloat16():
        _warn(
            f"the kernels for this processor ({kernels.level()}) do not multiply in bfloat16: they compute in float32"
        )
        dtype = torch.float32
    return KernelBackend(dtype)


def _triton(device: torch.device, dtype: torch.dtype) -> TritonBackend:
    """Triton's, on a GPU, or anywhere in its interpreter."""
    if dtype == torch.float64:
        raise BackendError("the triton backend sums in float32, expected float32, float16 or bfloat16, got float64")
    if importlib.util.find_spec("triton") is None:
        raise BackendError("the triton backend needs the package triton, which is not installed; use 'torch'")
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise BackendError(f"the triton backend needs a GPU, got {device}; use 'torch'")
    return TritonBackend(dtype)


def _kernels_there() -> bool:
    """Whether the kernels can be used; a word, once, where they are missing without having been switched off."""
    if (reason := kernels.why_none()) is not None:
        _warn(f"{reason}: PyTorch does the work, several times slower on a CPU (docs/kernels.md)")
    return kernels.level() is not None


@functools.cache
def _warn(text: str) -> None:
    """Once a process."""
    warnings.warn(text, RuntimeWarning, stacklevel=2)
