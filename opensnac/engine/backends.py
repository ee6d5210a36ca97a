"""What an engine computes with: PyTorch on any device, with Triton's operators on a GPU, or C kernels on a CPU."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opensnac import kernels
from opensnac.engine.layers import Layer
from opensnac.engine.scales import Scale
from opensnac.errors import BackendError

CACHE_BYTES = 16 << 20  # of activations that go through the C kernels layer by layer
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
        """The function that copies each weight to `device` in the backend's type."""
        return lambda weight: weight.detach().to(device, self.dtype, copy=True).contiguous()

    def prepare(self, layers: Sequence[Layer]) -> list[Layer]:
        """The layers in the form that this backend runs."""
        return [*layers]

    def prepare_scales(self, scales: Sequence[Scale]) -> list[Scale]:
        """The quantiser's scales in the form that this backend runs."""
        return [*scales]


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
        from opensnac.engine.compiled import to_c

        return to_c(layers, bfloat16=self.dtype == torch.bfloat16)

    def prepare_scales(self, scales: Sequence[Scale]) -> list[Scale]:
        from opensnac.engine.compiled import scale_to_c

        return [scale_to_c(scale) for scale in scales]


def choose(name: str | None, device: torch.device, dtype: torch.dtype) -> TorchBackend:
    """The backend called `name`, or the fastest available for a device and a type. BackendError if there is none.

    On a CPU the kernels compute float32 and bfloat16; where the CPU has no bfloat16 products they use float32 and
    warn.
    """
    if dtype not in TYPES:
        raise BackendError(f"dtype: expected one of {', '.join(map(str, TYPES))}, got {dtype}")
    kernels_fit = device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)
    if name is None:
        name = "c" if kernels_fit and _have_kernels() else "torch"
    if name == "torch":
        return TorchBackend(dtype)
    if name != "c":
        raise BackendError(f"backend: expected 'c' or 'torch', got {name!r}")
    if not kernels_fit:
        raise BackendError(f"the c backend: expected float32 or bfloat16 on cpu, got {dtype} on {device}; use 'torch'")
    if kernels.level() is None:
        raise BackendError(
            f"backend: expected C kernels, got none: {kernels.why_none() or 'OPENSNAC_KERNELS is 0'}; use 'torch'"
        )
    if dtype == torch.bfloat16 and not kernels.has_bfloat16():
        _warn(f"the kernels for this CPU ({kernels.level()}) have no bfloat16 products and compute in float32")
        dtype = torch.float32
    return KernelBackend(dtype)


def _have_kernels() -> bool:
    """Whether the kernels can be used; warns once where they are missing and were not switched off."""
    if (reason := kernels.why_none()) is not None:
        _warn(f"{reason}: PyTorch is used instead, several times slower on a CPU (docs/kernels.md)")
    return kernels.level() is not None


@functools.cache
def _warn(text: str) -> None:
    """Once per process."""
    warnings.warn(text, RuntimeWarning, stacklevel=2)
