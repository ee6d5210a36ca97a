"""Layers by small C kernels, where a CPU and a C compiler are at hand.

Snake and depthwise convolution, forward and backward, serve training; products with weights arranged beforehand,
whole residual units and the search for codebook entries serve inference. The sources are compiled on first use and
kept under the user's cache folder; without a compiler, on other devices and types, and inside torch.compile the same
functions run as plain PyTorch. `OPENSNAC_KERNELS=0` switches the kernels off.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

SOURCES = sorted(Path(__file__).parent.glob("*.[ch]"))
FLAGS = [
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fPIC",
    "-shared",
    "-fopenmp",
    "-nodefaultlibs",
    "-lc",
]
TAPS = 7
LANES = 16  # channels the kernels work on at once
COLUMNS = 32  # of a product that are worked on at once
MOST_UNITS = 8  # in a row
LEAST_STRETCH = 512  # steps of a row of units that are worth a job of their own
_ENDLESS = 2**62


def _openmp_library() -> str:
    """The OpenMP that PyTorch runs on, so that both share one set of threads; else the system's."""
    bundled = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return str(bundled[0]) if bundled else "-lgomp"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return platform.processor()


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be had."""
    if os.environ.get("OPENSNAC_KERNELS") == "0" or os.name == "nt":
        return None
    try:
        command = _compile_command()
        identity = "\n".join((*(source.read_text() for source in SOURCES), *command, _processor()))
        path = _cache_folder() / f"kernels-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
        if not path.exists():
            _compile(command, path)
        loaded = ctypes.CDLL(str(path))
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError):
        return None  # no compiler, no place to keep the library, or one that does not load: PyTorch does it
    loaded.tiles.restype = ctypes.c_int64
    return loaded


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "opensnac"


def _compile_command() -> list[str]:
    openmp = _openmp_library()
    found_at = [f"-Wl,-rpath,{Path(openmp).parent}"] if Path(openmp).is_absolute() else []
    return [
        *shlex.split(os.environ.get("CC", "cc")),
        *FLAGS,
        *(str(source) for source in SOURCES if source.suffix == ".c"),
        openmp,
        *found_at,
    ]


def _compile(command: list[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        output = Path(folder) / path.name
        subprocess.run([*command, "-o", str(output)], check=True, capture_output=True, timeout=120)
        os.replace(output, path)


def _usable(x: Tensor, *parameters: Tensor) -> bool:
    channels = x.shape[-1]
    plain = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in (x, *parameters))
    fits = channels % LANES == 0 and all(parameter.shape[-1] == channels for parameter in parameters)
    return plain and fits and not torch.compiler.is_compiling() and library() is not None


def _call(name: str, *arguments: Tensor | int | ctypes.Array[ctypes.c_int64] | None) -> None:
    """Run a kernel: tensors and tables go as pointers, whole numbers as 64 bits."""
    getattr(library(), name)(*map(_c_value, arguments))


def _c_value(argument: Tensor | int | ctypes.Array[ctypes.c_int64] | None) -> Any:
    return argument if isinstance(argument, ctypes.Array) else ctypes.c_int64(_word(argument))


def _word(argument: Tensor | int | None) -> int:
    """64 bits: a whole number, or where a tensor lies."""
    return argument if isinstance(argument, int) else 0 if argument is None else argument.data_ptr()


def _is_half(weight: Tensor) -> int:
    return int(weight.dtype == torch.bfloat16)


def _tiles(rows: int) -> int:
    return int(library().tiles(ctypes.c_int64(rows)))  # type: ignore[union-attr]


def infers(x: Tensor) -> bool:
    """Whether the kernels without gradients can work on x."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
    return plain and not torch.compiler.is_compiling() and library() is not None


def arranged(matrix: Float[Tensor, "columns depth"], reduced: bool = False) -> Float[Tensor, "panels depth 32"]:
    """The matrix of a product in the order that `linear` reads it in, filled up with zeros.

    If it is to be `reduced`, in bfloat16, where the processor multiplies such and the shape allows.
    """
    columns, depth = matrix.shape
    panels = torch.nn.functional.pad(matrix, (0, 0, 0, -columns % COLUMNS)).unflatten(0, (-1, COLUMNS))
    if reduced and depth % 2 == 0 and has_bfloat16():
        pairs = panels.unflatten(2, (-1, 2)).transpose(1, 2)
        return pairs.to(torch.bfloat16).contiguous().view(-1, depth, COLUMNS)
    return panels.transpose(1, 2).contiguous()


def has_bfloat16() -> bool:
    """Whether the processor multiplies numbers in bfloat16."""
    found = library()
    return found is not None and bool(found.has_bfloat16())


def linear(
    x: Float[Tensor, "batch time channels"],
    weight: Float[Tensor, "panels depth 32"],
    columns: int,
    bias: Float[Tensor, " columns"] | None = None,
    *,
    rows: int | None = None,
    step: int = 1,
    scale: Float[Tensor, "_clips rows"] | None = None,
    add: Float[Tensor, "batch rows columns"] | None = None,
) -> Float[Tensor, "batch rows columns"]:
    """(a W + bias) * scale + add, where row i of a is the `depth` values from time step i * `step` on.

    So a convolution of neighbouring steps is one product on overlapping rows, without a copy.
    """
    (batch, time, channels), depth = x.shape, weight.shape[1]
    rows, missing = time if rows is None else rows, -columns % LANES
    assert (rows - 1) * step * channels + depth <= time * channels
    if missing:  # whole vectors are written
        bias = None if bias is None else torch.nn.functional.pad(bias, (0, missing))
        add = None if add is None else torch.nn.functional.pad(add, (0, missing))
    y = x.new_empty(batch, rows, columns + missing, dtype=torch.float32)
    x = x.contiguous() if weight.dtype == x.dtype else x.to(weight.dtype, memory_format=torch.contiguous_format)
    scale = None if scale is None else scale.to(y.dtype).contiguous()
    add = None if add is None else add.contiguous()
    every_clip = rows if scale is not None and scale.shape[0] > 1 else 0
    rows_of_x = (x, time * channels, step * channels)
    rows_of_add = (add, rows * y.shape[2], y.shape[2])
    factors = (weight, _is_half(weight), bias, scale, every_clip)
    _call("linear", *rows_of_x, *factors, *rows_of_add, y, batch, rows, depth, y.shape[2])
    return y[..., :columns] if missing else y


def single(
    x: Float[Tensor, "batch time channels"], weight: Float[Tensor, " depth"], bias: Float[Tensor, " 1"]
) -> Float[Tensor, "batch rows 1"]:
    """As `linear` on overlapping rows one time step apart, with one column."""
    x, (batch, time, channels), depth = x.contiguous(), x.shape, len(weight)
    y = x.new_empty(batch, time - depth // channels + 1, 1)
    _call("single", x, time * channels, channels, weight, bias, y, batch, y.shape[1], depth)
    return y


@dataclass(frozen=True)
class Unit:
    """x + pointwise(snake(depthwise(snake(x)))) as the kernel takes it, and where it stands in its signals."""

    alpha: Float[Tensor, " channels"]
    taps: Float[Tensor, "taps channels"]
    taps_bias: Float[Tensor, " channels"]
    beta: Float[Tensor, " channels"]
    weight: Float[Tensor, "panels channels 32"]
    bias: Float[Tensor, " channels"]
    dilation: int
    tail: Float[Tensor, "batch keep channels"] | None  # its input before what comes now; None stands for zeros
    start: list[int]  # position, in each clip, of the first step that comes now

    @property
    def keep(self) -> int:
        """Steps of its input that it needs besides those it gives."""
        return (TAPS - 1) * self.dilation


def units(
    x: Float[Tensor, "batch time channels"],
    row: Sequence[Unit],
    lengths: Sequence[int | None],
    *,
    noise: tuple[Float[Tensor, "panels channels 32"], Float[Tensor, "_clips time"]] | None = None,
    alpha: Float[Tensor, " channels"] | None = None,
    room: int = 0,
    reduced: bool = False,
) -> tuple[Float[Tensor, "batch room+time channels"], list[Float[Tensor, "batch _keep channels"]]]:
    """x after noise, if any, a row of residual units, and Snake, if any; and the units' new tails.

    What comes out is late by half of what the units keep. A unit's input is zero before position 0 of a clip and from
    its length on, None for one that goes on. `noise` is the matrix it goes through and what is drawn at each step.
    In front of the output is `room` for steps that the caller fills in; after a Snake it may be `reduced` to bfloat16.
    """
    assert 0 < len(row) <= MOST_UNITS
    x, (batch, time, channels) = x.contiguous(), x.shape
    y = x.new_empty(batch, room + time, channels, dtype=torch.bfloat16 if reduced else x.dtype)
    tails = [x.new_empty(batch, unit.keep, channels) for unit in row]
    starts = torch.tensor([unit.start for unit in row])
    ends = torch.tensor([_ENDLESS if length is None else length for length in lengths])
    before = [None if unit.tail is None else unit.tail.contiguous() for unit in row]
    fields = [
        value
        for unit, tail, new_tail, start in zip(row, before, tails, starts, strict=True)
        for value in (unit.alpha, unit.taps, unit.taps_bias, unit.beta, unit.weight, unit.bias, tail, new_tail, start)
        + (unit.dilation,)
    ]
    table = (ctypes.c_int64 * len(fields))(*map(_word, fields))
    matrix, e = noise or (None, None)
    e = None if e is None else e.contiguous()
    every_clip = time if e is not None and e.shape[0] > 1 else 0
    parts = _stretches(time, sum(unit.keep for unit in row), -(-torch.get_num_threads() // batch))
    noisy = (matrix, e, every_clip)
    out = (y[:, room:], int(reduced), (room + time) * channels)
    _call("units", table, len(row), *noisy, alpha, _is_half(row[0].weight), ends, x, *out, *x.shape, parts)
    return y, tails


def _stretches(time: int, early: int, threads: int) -> int:
    """Into how many stretches a clip of `time` steps goes for `threads` threads; they begin `early` steps early."""
    ample = time // threads >= 2 * LEAST_STRETCH  # then two a thread, so that others take over from one held up
    return max(1, min((1 + ample) * threads, time // max(early, 1)))


def nearest(
    vectors: Float[Tensor, "*shape dim"], entries: Float[Tensor, "size dim"], grouped: Float[Tensor, "groups dim 16"]
) -> Int[Tensor, "*shape"]:
    """For each vector the entry with the largest product; `grouped` are the entries as the kernel reads them."""
    vectors = vectors.contiguous()
    index = torch.empty(vectors.shape[:-1], dtype=torch.int64)
    _call("nearest", vectors, grouped, index, index.numel(), *entries.shape[::-1])
    return index


def grouped_entries(entries: Float[Tensor, "size dim"]) -> Float[Tensor, "groups dim 16"]:
    """Codebook entries in the order that `nearest` reads them in, filled up with zeros."""
    padded = torch.nn.functional.pad(entries, (0, 0, 0, -entries.shape[0] % LANES))
    return padded.unflatten(0, (-1, LANES)).transpose(1, 2).contiguous()


def noise(key: int, start: int, steps: int) -> Float[Tensor, " steps"]:
    """N(0, 1) values at positions start .. start + steps - 1 (those before 0 as at 0) of the noise called `key`."""
    values = torch.empty(steps)
    _call("noise", key, start, values, steps)
    return values


def snake(x: Float[Tensor, "batch time channels"], alpha: Float[Tensor, " channels"]) -> Tensor:
    """x + sin^2(alpha x) / alpha."""
    if _usable(x, alpha):
        return _Snake.apply(x.contiguous(), alpha.contiguous())
    return x + torch.sin(alpha * x).square() * (1 / (alpha + 1e-9))


def depthwise(
    x: Float[Tensor, "batch time channels"],
    taps: Float[Tensor, "taps channels"],
    bias: Float[Tensor, " channels"],
    dilation: int,
) -> Tensor:
    """Each channel convolved with its own seven taps, `dilation` steps apart, centred, zeros outside."""
    if _usable(x, taps, bias):
        return _Depthwise.apply(x.contiguous(), taps.contiguous(), bias.contiguous(), dilation)
    time, reach = x.shape[1], dilation * (TAPS // 2)
    padded = torch.nn.functional.pad(x, (0, 0, reach, reach))
    y = bias + padded[:, :time] * taps[0]
    for k in range(1, TAPS):
        y = y + padded[:, k * dilation : k * dilation + time] * taps[k]
    return y


class _Snake(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(x, alpha)
        y = torch.empty_like(x)
        _call("snake_forward", x, alpha, y, x.numel() // alpha.numel(), alpha.numel())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, alpha = ctx.saved_tensors
        rows, channels = x.numel() // alpha.numel(), alpha.numel()
        dx, partial = torch.empty_like(x), x.new_empty(_tiles(rows), channels)
        _call("snake_backward", x, alpha, dy.contiguous(), dx, partial, rows, channels)
        return dx, partial.sum(0)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, bias: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, taps)
        ctx.dilation = dilation
        y = torch.empty_like(x)
        _call("depthwise_forward", x, taps, bias, y, *x.shape, dilation)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, taps = ctx.saved_tensors
        batch, time, channels = x.shape
        dy, dx = dy.contiguous(), torch.empty_like(x)
        _call("depthwise_forward", dy, taps.flip(0), None, dx, batch, time, channels, ctx.dilation)
        partial = x.new_empty(batch * _tiles(time), TAPS + 1, channels)
        _call("depthwise_weight_gradient", x, dy, partial, batch, time, channels, ctx.dilation)
        gradient = partial.sum(0)
        return dx, gradient[:TAPS], gradient[TAPS], None


# -- shim until the new kernels arrive
packed = arranged
_Old = Unit


def level():
    return None if library() is None else "native"


def switched_off():
    return os.environ.get("OPENSNAC_KERNELS") == "0"


packed_entries = grouped_entries
_nearest = nearest


def nearest(vectors, packed, size):
    return _nearest(vectors, torch.empty(size, vectors.shape[-1]), packed)


_noise = noise


def noise(keys, starts, steps):
    return torch.stack([_noise(k, s, steps) for k, s in zip(keys, starts)])


@dataclass(frozen=True)
class Unit:
    alpha: Tensor
    taps: Tensor
    taps_bias: Tensor
    beta: Tensor
    weight: Tensor
    bias: Tensor
    dilation: int


class UnitRow:
    def __init__(self, units, noise=None, alpha=None, bfloat16=False):
        self.units, self.noise, self.alpha, self.b = units, noise, alpha, bfloat16

    def __call__(self, x, tails, starts, lengths, noise=None, room=0):
        row = [
            _Old(u.alpha, u.taps, u.taps_bias, u.beta, u.weight, u.bias, u.dilation, t, s)
            for u, t, s in zip(self.units, tails, starts)
        ]
        n = None if noise is None or self.noise is None else (self.noise, noise)
        return units(x, row, lengths, noise=n, alpha=self.alpha, room=room, reduced=self.b)
