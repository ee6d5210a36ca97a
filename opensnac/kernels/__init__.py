"""C kernels for CPUs: matrix products, residual units, codebook search and noise for a trained model.

They are built with the package, once per CPU level (such as avx2), and the best one that runs here is loaded at first
use; `OPENSNAC_KERNELS` selects another, or 0 for none. The functions below need kernels; `level()` is None where there
are none. They take float32 tensors (batch, time, channels) on the CPU, refuse others, and have no gradients.
docs/kernels.md defines what each computes; Snake and depthwise convolution with gradients are in model/operators.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from opensnac.errors import TensorError
from opensnac.kernels.library import (
    call,
    check,
    check_strided,
    loaded,
    query,
    require_library,
    threads,
    word_array,
)
from opensnac.processor import why_none

__all__ = [
    "TAPS",
    "WIDTH",
    "Unit",
    "UnitStack",
    "has_bfloat16",
    "level",
    "linear",
    "nearest",
    "noise",
    "packed",
    "packed_entries",
    "single",
    "symmetric",
    "why_none",
]

TAPS = 7  # of a depthwise convolution
WIDTH = 16  # channels of units and operators come in multiples of it
COLUMNS = 32  # of a product in one panel of packed weights
MIN_STRETCH = 512  # steps of a stack of units that are worth a job
_ENDLESS = 2**62
_CPU = torch.device("cpu")
_FLOATS = (torch.float32, torch.bfloat16)


def level() -> str | None:
    """The CPU level of the kernels in use: avx2, avx512, avx512bf16 or neon; None where there are no kernels."""
    found = loaded()
    return None if found is None else found.level


def has_bfloat16() -> bool:
    """Whether the kernels in use have bfloat16 products."""
    found = loaded()
    return found is not None and found.bfloat16


def _weight_types() -> Sequence[torch.dtype]:
    return _FLOATS if require_library().bfloat16 else _FLOATS[:1]


def packed(matrix: Float[Tensor, "columns depth"], bfloat16: bool = False) -> Float[Tensor, "panels depth 32"]:
    """A matrix in the layout that `linear` reads, zero-padded.

    In bfloat16 if requested, supported by the kernels and the depth is even; else in float32.
    """
    matrix = check_strided("matrix", matrix.detach(), (None, None))
    columns, depth = matrix.shape
    if columns % COLUMNS:
        matrix = F.pad(matrix, (0, 0, 0, -columns % COLUMNS))
    panels = matrix.unflatten(0, (-1, COLUMNS))
    if bfloat16 and depth % 2 == 0 and has_bfloat16():
        pairs = panels.unflatten(2, (-1, 2)).transpose(1, 2)
        return pairs.to(torch.bfloat16).contiguous().view(-1, depth, COLUMNS)
    return panels.transpose(1, 2).clone(memory_format=torch.contiguous_format)


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

    So a convolution of neighbouring steps is one product on overlapping rows, without a copy. With `packed` weights in
    bfloat16, x is converted to bfloat16 unless it is already.
    """
    x = check("x", x, (None, None, None), _FLOATS)
    weight = check("weight", weight, (-(-columns // COLUMNS), None, COLUMNS), _weight_types())
    (batch, time, channels), depth = x.shape, weight.shape[1]
    rows, missing = time if rows is None else rows, -columns % WIDTH
    if x.dtype == torch.bfloat16 != weight.dtype:
        raise TensorError("x: expected float32, the weight's type, got bfloat16")
    if step < 1 or rows < 0 or (rows and (rows - 1) * step * channels + depth > time * channels):
        span = f"{rows} rows of {depth} values, {step} steps of {channels} channels apart"
        raise TensorError(f"x: expected enough steps for {span}, got {time}")
    bias = None if bias is None else check("bias", bias, (columns,))
    add = None if add is None else check("add", add, (batch, rows, columns))
    if missing:  # whole vectors are written
        bias = None if bias is None else F.pad(bias, (0, missing))
        add = None if add is None else F.pad(add, (0, missing))
    scale = None if scale is None else check("scale", scale, (_one_or(batch, scale), rows))
    y = torch.empty(batch, rows, columns + missing, dtype=torch.float32, device=_CPU)
    rows_of_x = (x.to(weight.dtype), time * channels, step * channels)
    factors = (weight, int(weight.dtype == torch.bfloat16), bias, scale, _stride(scale))
    call("linear", *rows_of_x, *factors, add, y, batch, rows, depth, y.shape[2])
    return y[..., :columns] if missing else y


def _one_or(batch: int, tensor: Tensor) -> int:
    """The first dimension of a tensor that is shared by all clips or has an entry for each."""
    return 1 if tensor.shape[:1] == (1,) else batch


def _stride(rows: Tensor | None) -> int:
    """Stride between clips of a (clips, time) tensor; 0 for (1, time), which all share."""
    return 0 if rows is None or rows.shape[0] == 1 else rows.shape[1]


def single(
    x: Float[Tensor, "batch time channels"], weight: Float[Tensor, " depth"], bias: Float[Tensor, " 1"]
) -> Float[Tensor, "batch rows 1"]:
    """As `linear` on overlapping rows one time step apart, with a single column."""
    x, weight = check("x", x, (None, None, None)), check("weight", weight, (None,))
    (batch, time, channels), depth = x.shape, len(weight)
    if depth == 0 or channels == 0 or depth % channels or depth > (time + 1) * channels:
        raise TensorError(
            f"weight: expected whole steps of {channels} channels, at most {time + 1}, got {depth} values"
        )
    y = torch.empty(batch, time - depth // channels + 1, 1, dtype=torch.float32, device=_CPU)
    call("single", x, time * channels, channels, weight, check("bias", bias, (1,)), y, batch, y.shape[1], depth)
    return y


def symmetric(
    a: Float[Tensor, "count size depth"], b: Float[Tensor, "count size depth"]
) -> Float[Tensor, "count size size"]:
    """a @ b.mT, where the caller knows that it is symmetric: computes half of it. `size` is a multiple of 16."""
    a = check("a", a, (None, None, None))
    b = check("b", b, a.shape)
    count, size, depth = a.shape
    if size % WIDTH:
        raise TensorError(f"a: expected a multiple of {WIDTH} rows, got {size}")
    y = torch.empty(count, size, size, dtype=torch.float32, device=_CPU)
    scratch = torch.empty(threads(), depth, COLUMNS, dtype=torch.float32, device=_CPU)
    call("symmetric", a, b, y, count, size, depth, scratch)
    return y


@dataclass(frozen=True)
class Unit:
    """Weights of x + pointwise(snake(depthwise(snake(x)))): alpha is the first Snake's, beta the second one's.

    `weight` is `packed`. For a signal in pieces the unit needs `keep` steps of context.
    """

    alpha: Float[Tensor, " channels"]
    taps: Float[Tensor, "taps channels"]
    taps_bias: Float[Tensor, " channels"]
    beta: Float[Tensor, " channels"]
    weight: Float[Tensor, "panels channels 32"]
    bias: Float[Tensor, " channels"]
    dilation: int

    @property
    def keep(self) -> int:
        """Context: input steps needed besides those that come out."""
        return (TAPS - 1) * self.dilation


class UnitStack:
    """Consecutive residual units, with noise before them (a `packed` matrix) and a Snake after them (alpha), if any.

    With a Snake the output is in bfloat16 if `bfloat16` is set and the kernels support it.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        noise: Float[Tensor, "panels channels 32"] | None = None,
        alpha: Float[Tensor, " channels"] | None = None,
        bfloat16: bool = False,
    ) -> None:
        if not units:
            raise TensorError("units: expected at least one, got none")
        self.channels = channels = len(units[0].alpha)
        if channels % WIDTH or not channels:
            raise TensorError(f"units: expected a multiple of {WIDTH} channels, got {channels}")
        self._weight_type = check("weight", units[0].weight, (None, None, None), _weight_types()).dtype
        self._noise = None if noise is None else self._matrix("noise", noise)
        self._alpha = None if alpha is None else self._vector("alpha", alpha)
        self._output_type = torch.bfloat16 if bfloat16 and alpha is not None and has_bfloat16() else torch.float32
        self.keeps = [unit.keep for unit in units]
        self._fields = [field for i, unit in enumerate(units) for field in self._checked(f"units[{i}]", unit)]
        self._table = word_array(self._fields)  # addresses only: the fields keep the tensors alive
        self._scratch = query("units_scratch", self._table, len(units), channels)

    def _checked(self, name: str, unit: Unit) -> tuple[Tensor | int, ...]:
        """A unit's fields in the C struct's order."""
        if unit.dilation < 1:
            raise TensorError(f"{name}.dilation: expected at least 1, got {unit.dilation}")
        return (
            self._vector(f"{name}.alpha", unit.alpha),
            check(f"{name}.taps", unit.taps.detach(), (TAPS, self.channels)),
            self._vector(f"{name}.taps_bias", unit.taps_bias),
            self._vector(f"{name}.beta", unit.beta),
            self._matrix(f"{name}.weight", unit.weight),
            self._vector(f"{name}.bias", unit.bias),
            unit.dilation,
        )

    def _vector(self, name: str, vector: Tensor) -> Tensor:
        return check(name, vector.detach(), (self.channels,))

    def _matrix(self, name: str, matrix: Tensor) -> Tensor:
        shape = (-(-self.channels // COLUMNS), self.channels, COLUMNS)
        return check(name, matrix.detach(), shape, self._weight_type)

    def __call__(
        self,
        x: Float[Tensor, "batch time channels"],
        tails: Sequence[Float[Tensor, "batch _keep channels"]],
        starts: Int[Tensor, "units batch"] | Sequence[Sequence[int]],
        lengths: Sequence[int | None],
        noise: Float[Tensor, "_clips time"] | None = None,
        room: int = 0,
    ) -> tuple[Float[Tensor, "batch room+time channels"], list[Float[Tensor, "batch _keep channels"]]]:
        """The output for x, which follows `tails`, the context of each unit; and the units' new tails.

        The output is delayed by half of the units' total context. `starts` are the positions of each unit's first new
        step in each clip: its input is zero before position 0 and from the clip's length on (None: open-ended). `noise`
        is drawn per step. The first `room` steps of the output are left for the caller to fill.
        """
        x = check("x", x, (None, None, self.channels))
        (batch, time, channels), count = x.shape, len(self.keeps)
        if len(tails) != count or len(lengths) != batch or room < 0:
            expected = f"{count} tails, {batch} lengths and no negative room"
            raise TensorError(f"expected {expected}, got {len(tails)}, {len(lengths)} and {room}")
        before = [
            check(f"tails[{i}]", tail, (batch, keep, channels))
            for i, (tail, keep) in enumerate(zip(tails, self.keeps, strict=True))
        ]
        starts = check("starts", _whole_numbers(starts), (count, batch), torch.int64)
        ends = _whole_numbers([_ENDLESS if length is None else length for length in lengths])
        e = None if noise is None else check("noise", noise, (_one_or(batch, noise), time))
        if e is not None and self._noise is None:
            raise TensorError("noise: expected None for units without a noise matrix, got a tensor")
        y = torch.empty(batch, room + time, channels, dtype=self._output_type, device=_CPU)
        new_tails = [torch.empty_like(tail) for tail in before]
        parts = _segments(time, sum(self.keeps), -(-threads() // max(batch, 1)))
        workers = min(threads(), batch * parts)
        scratch = torch.empty(workers, self._scratch, dtype=torch.float32, device=_CPU)
        addresses, new_addresses = word_array(before), word_array(new_tails)
        halves = int(self._weight_type == torch.bfloat16)
        row = (self._table, count, self._noise, self._alpha, halves, e, _stride(e))
        signals = (addresses, new_addresses, starts, ends, x, y[:, room:])
        shapes = (int(y.dtype == torch.bfloat16), (room + time) * channels, batch, time, channels, parts)
        call("units", word_array((*row, *signals, *shapes)), scratch, self._scratch)
        return y, new_tails


def _whole_numbers(values: Tensor | Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
    """As int64 on the CPU; a tensor is returned unchanged."""
    return values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.int64, device=_CPU)


def _segments(time: int, early: int, threads: int) -> int:
    """Number of stretches that a clip of `time` steps is split into; each recomputes `early` steps of context."""
    ample = time // threads >= 2 * MIN_STRETCH  # then two per thread, so that a delayed thread leaves work to others
    return max(1, min((1 + ample) * threads, time // max(early, 1)))


def packed_entries(entries: Float[Tensor, "size dim"]) -> Float[Tensor, "groups dim 16"]:
    """Codebook entries in the layout that `nearest` reads, zero-padded."""
    entries = check("entries", entries.detach(), (None, None))
    padded = F.pad(entries, (0, 0, 0, -entries.shape[0] % WIDTH))
    return padded.unflatten(0, (-1, WIDTH)).transpose(1, 2).contiguous()


def nearest(
    vectors: Float[Tensor, "*shape dim"], packed_entries: Float[Tensor, "groups dim 16"], size: int
) -> Int[Tensor, "*shape"]:
    """For each vector the index of the entry, of `size`, with the largest dot product; of ties the first."""
    if size < 1:
        raise TensorError(f"size: expected at least 1 entry, got {size}")
    vectors = check("vectors", vectors, (None,) * max(vectors.dim(), 1))
    dim = vectors.shape[-1]
    packed_entries = check("packed_entries", packed_entries, (-(-size // WIDTH), dim, WIDTH))
    index = torch.empty(vectors.shape[:-1], dtype=torch.int64, device=_CPU)
    call("nearest", vectors, packed_entries, index, index.numel(), dim, size)
    return index


def noise(keys: Sequence[int], starts: Sequence[int], steps: int) -> Float[Tensor, "rows steps"]:
    """N(0, 1) values at positions start .. start + steps - 1 of each key's sequence; positions below 0 count as 0."""
    if len(keys) != len(starts) or steps < 0:
        raise TensorError(f"expected a start for each of {len(keys)} keys and steps, got {len(starts)} and {steps}")
    values = torch.empty(len(keys), steps, dtype=torch.float32, device=_CPU)
    call("noise", _whole_numbers(keys), _whole_numbers(starts), values, len(keys), steps)
    return values
