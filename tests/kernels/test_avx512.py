"""The checks of test_as_documented.py on the kernels for AVX-512, with and without bfloat16, on any x86-64.

Without AVX-512 its intrinsics are emulated by those of AVX2 (avx512.h). The agreement of the levels on real audio is
checked here too.
"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
import standin
import test_as_documented
import torch
from page import documented
from test_as_documented import (  # noqa: F401  (collected here once more)
    _seed,
    assert_near,
    double,
    random_unit,
    test_linear,
    test_nearest,
    test_noise,
    test_noise_is_pinned,
    test_single,
    test_snake_and_depthwise,
    test_units_without_samples,
)

from opensnac import SNAC, Engine, kernels
from opensnac.kernels import library
from opensnac.recordings import audio

EXAMPLE = Path(__file__).parents[2] / "examples/lj_speech.flac"


@pytest.fixture(scope="module")
def level(tmp_path_factory: pytest.TempPathFactory) -> library.Library:
    """The level itself where the processor runs it, else its stand-in."""
    here = library.loaded()
    if here is not None and here.level == "avx512bf16":
        return here
    if platform.machine() != "x86_64" or here is None:
        pytest.skip("not an x86-64 processor with AVX2")
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing: apt-get install gcc")
    return standin.build(tmp_path_factory.mktemp("avx512"))


@pytest.fixture(autouse=True)
def avx512(level: library.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "loaded", lambda: level)
    monkeypatch.setattr(kernels, "loaded", lambda: level)


@pytest.mark.parametrize(("channels", "noisy"), [(16, False), (48, True)])
def test_units(channels: int, noisy: bool) -> None:
    test_as_documented.test_units(1, channels, (1, 3, 9), noisy, 1300)


def cut(tensor: torch.Tensor) -> torch.Tensor:
    """To what bfloat16 holds."""
    return tensor.bfloat16().float()


@pytest.mark.parametrize(("rows", "columns", "depth"), [(1, 16, 2), (40, 96, 64), (33, 40, 1100)])
def test_linear_in_bfloat16(rows: int, columns: int, depth: int) -> None:
    """Factors are cut, to the nearest, even where there are two; products and sums are not."""
    x, matrix, bias = torch.randn(2, rows, depth), torch.randn(columns, depth), torch.randn(columns)
    packed = kernels.packed(matrix, bfloat16=True)
    assert packed.dtype == torch.bfloat16
    truth = documented.linear(double(cut(x)), double(cut(matrix)), double(bias))
    for given in (x, x.bfloat16()):
        assert_near(kernels.linear(given, packed, columns, bias), truth)


@pytest.mark.parametrize("narrow", [False, True])
def test_units_in_bfloat16(narrow: bool) -> None:
    """Near what the page says, and no nearer than bfloat16 can be."""
    channels, steps = 48, 900
    drawn = [random_unit(channels, dilation) for dilation in (1, 3, 9)]
    matrices = [torch.from_numpy(plain.matrix).float() for _, plain in drawn]
    units = [
        kernels.Unit(u.alpha, u.taps, u.taps_bias, u.beta, kernels.packed(m, bfloat16=True), u.bias, u.dilation)
        for (u, _), m in zip(drawn, matrices, strict=True)
    ]
    x, alpha = torch.randn(1, steps, channels), 0.3 + 2 * torch.rand(channels)
    row = kernels.UnitStack(units, alpha=alpha, bfloat16=narrow)
    late = sum(row.keeps) // 2
    ours = test_as_documented.in_pieces(row, x, None, None, [steps])[:, late:]
    assert ours.dtype == (torch.bfloat16 if narrow else torch.float32)
    truth = documented.units(double(x), [plain for _, plain in drawn], alpha=double(alpha))[:, : steps - late]
    error = np.abs(double(ours.float()) - truth).max() / np.abs(truth).max()
    assert 1e-4 < error < 1e-2


@pytest.fixture(scope="module")
def recording() -> torch.Tensor:
    samples, rate = audio.read(EXAMPLE)
    return torch.from_numpy(samples[None, :1, rate : 7 * rate // 4].copy())


def engines(monkeypatch: pytest.MonkeyPatch, level: library.Library, **options) -> tuple[Engine, Engine]:
    """The tiny model by PyTorch, and by this level."""
    model = SNAC.from_pretrained("speech_24khz_tiny")
    return model.freeze(backend="torch"), model.freeze(backend="c", **options)


def test_levels_agree_on_real_audio(recording: torch.Tensor, level, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, ours = engines(monkeypatch, level)
    codes = plain.encode(recording)
    assert all(torch.equal(a, b) for a, b in zip(codes, ours.encode(recording), strict=True))
    torch.testing.assert_close(ours.decode(codes, seed=3), plain.decode(codes, seed=3), atol=1e-5, rtol=0)


def test_bfloat16_on_real_audio(recording: torch.Tensor, level, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most codes stay; decoding errs 35 dB below the sound, and where codes were the same only there."""
    plain, ours = engines(monkeypatch, level, dtype=torch.bfloat16)
    assert ours.dtype == torch.bfloat16
    codes, others = plain.encode(recording), ours.encode(recording)
    same = torch.cat([(a == b).flatten() for a, b in zip(codes, others, strict=True)]).float().mean()
    assert 0.5 < same < 1
    exact = plain.decode(codes, seed=3)
    error = (ours.decode(codes, seed=3) - exact).square().mean() / exact.square().mean()
    assert error < 10**-3.5
