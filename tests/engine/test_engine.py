"""Engines: backends, types, refusals; and a step as a graph of operators."""

from __future__ import annotations

import itertools
import threading

import configs
import numpy as np
import pytest
import torch

from opensnac import SNAC, kernels
from opensnac.engine import backends
from opensnac.engine.codec import SNAC as FULL_NAME
from opensnac.engine.span import DeviceSpan
from opensnac.errors import BackendError, OpensnacError

KERNELS = pytest.mark.skipif(kernels.level() is None, reason="the kernels are not there or are switched off")
WIDE = configs.TINY | {"encoder_dim": 16, "decoder_dim": 256}
SHALLOW = [  # every kind of layer, once
    configs.ODD_ATTENTION | {"encoder_dim": 32, "encoder_rates": [3], "decoder_rates": [3]},
    configs.ODD_STRIDES | {"encoder_rates": [3], "decoder_rates": [3]},
]


def audio_of(samples: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(seed))


@KERNELS
@pytest.mark.parametrize("config", [WIDE, configs.ODD_ATTENTION, configs.ODD_STRIDES], ids=["wide", "attention", "odd"])
def test_backends_agree(config: configs.Config) -> None:
    model = configs.model_of(config)
    plain, fast = model.freeze(backend="torch"), model.freeze(backend="c")
    assert (plain.backend.name, fast.backend.name) == ("torch", "c")
    audio = audio_of(20_000, 2)
    codes = plain.encode(audio)
    same = [(a == b).float().mean() for a, b in zip(codes, fast.encode(audio), strict=True)]
    assert min(same) > 0.999
    torch.testing.assert_close(plain.decode(codes, seed=4), fast.decode(codes, seed=4), atol=1e-5, rtol=0)


def test_the_engine_is_the_model(small: SNAC) -> None:
    audio = audio_of(4000, 2)
    quantized = small.quantize(small.latent(audio))
    engine = small.freeze(backend="torch")
    codes = engine.encode(audio)
    assert all(torch.equal(a, b) for a, b in zip(codes, quantized.codes, strict=True))
    decoded = small.decode_latent(small.from_codes(codes), seed=5)
    torch.testing.assert_close(engine.decode(codes, seed=5), decoded.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_come_close(dtype: torch.dtype) -> None:
    model = configs.model_of(WIDE)
    exact, other = model.freeze(backend="torch"), model.freeze(backend="torch", dtype=dtype)
    audio = audio_of(6000)
    codes = exact.encode(audio)
    decoded = other.decode(codes)
    assert decoded.dtype == torch.float32
    error = (decoded - exact.decode(codes)).square().mean() / exact.decode(codes).square().mean()
    assert error < {torch.float16: 1e-4, torch.bfloat16: 1e-2, torch.float64: 1e-9}[dtype]
    same = torch.cat([(a == b).flatten() for a, b in zip(codes, other.encode(audio), strict=True)]).float().mean()
    assert same > {torch.float16: 0.8, torch.bfloat16: 0.4, torch.float64: 0.999}[dtype]


@pytest.mark.filterwarnings("ignore:the kernels for this processor")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_types_keep_their_type(dtype: torch.dtype) -> None:
    model = configs.model_of(configs.TINY).to(dtype)
    audio = audio_of(2000).to(dtype)
    decoded = model.decode(model.encode(audio), 2000)
    assert decoded.dtype == dtype
    assert torch.isfinite(decoded).all()


def test_unavailable_backends_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = configs.model_of(configs.TINY)
    with pytest.raises(BackendError, match="backend: expected 'c' or 'torch', got 'cuda'"):
        model.freeze(backend="cuda")
    with pytest.raises(BackendError, match=r"dtype: expected one of torch.float32.*, got torch.int8"):
        model.freeze(dtype=torch.int8)
    with pytest.raises(BackendError, match=r"the c backend: expected float32 or bfloat16 on cpu, got torch.float64"):
        model.freeze(backend="c", dtype=torch.float64)
    monkeypatch.setattr(kernels, "level", lambda: None)
    with pytest.raises(BackendError, match="expected C kernels, got none"):
        model.freeze(backend="c")


def test_missing_kernels_are_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backends._warn.cache_clear()
    monkeypatch.setattr(kernels, "level", lambda: None)
    monkeypatch.setattr(kernels, "why_none", lambda: "not built")
    model = configs.model_of(configs.TINY)
    with pytest.warns(RuntimeWarning, match="not built: PyTorch is used instead"):
        engine = model.freeze(device="cpu")
    assert engine.backend == model.freeze(device="cpu").backend == backends.TorchBackend(torch.float32)  # in silence
    backends._warn.cache_clear()


def test_unavailable_bfloat16_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "level", lambda: "avx2")
    monkeypatch.setattr(kernels, "has_bfloat16", lambda: False)
    backends._warn.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"CPU \(avx2\) have no bfloat16 products and compute in float32"):
        backend = backends.choose(None, torch.device("cpu"), torch.bfloat16)
    assert (backend.name, backend.dtype) == ("c", torch.float32)
    assert backends.choose("torch", torch.device("cpu"), torch.bfloat16).dtype == torch.bfloat16  # in silence
    backends._warn.cache_clear()


def test_float64_is_the_same_in_any_batch() -> None:
    """Codes are selected in float64 too, so that a different order of sums flips none."""
    engine = configs.model_of(WIDE).freeze(backend="torch", dtype=torch.float64)
    assert engine._scales[0].directions.dtype == torch.float64
    audio = audio_of(4000, 5)
    together = engine.encode(audio)
    for n, clip in enumerate(audio.split(1)):
        assert all(torch.equal(a[n : n + 1], b) for a, b in zip(together, engine.encode(clip), strict=True))


def test_threads_share_an_engine() -> None:
    model = configs.model_of(configs.TINY)
    audio = [audio_of(3000, seed=n) for n in range(4)]
    expected = [model.decode(model.encode(clip), seed=2) for clip in audio]
    fresh, found = configs.model_of(configs.TINY), {}

    def work(n: int) -> None:
        found[n] = fresh.decode(fresh.encode(audio[n]), seed=2)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[n], expected[n]) for n in range(4))


def test_numpy_arrays_are_taken(tiny: SNAC) -> None:
    audio = audio_of(2000)
    codes = tiny.encode(audio)
    for dtype in (np.float32, np.float64):
        assert all(torch.equal(a, b) for a, b in zip(codes, tiny.encode(audio.numpy().astype(dtype)), strict=True))
    arrays = [code.numpy().astype(np.uint16) for code in codes]
    assert torch.equal(tiny.decode(arrays), tiny.decode(codes))
    with pytest.raises(OpensnacError, match="expected torch.float32.*got torch.int16"):
        tiny.encode(np.zeros((1, 1, 100), np.int16))


def test_fewer_scales_give_a_coarser_latent(tiny: SNAC) -> None:
    codes = tiny.encode(audio_of(4000))
    whole = tiny.from_codes(codes).detach()
    coarse = [tiny.from_codes(codes[:n]) for n in (1, 2, 3)]
    assert torch.equal(coarse[-1], whole)
    errors = [float((each.detach() - whole).square().mean()) for each in coarse]
    assert errors == sorted(errors, reverse=True)
    assert tiny.decode_latent(coarse[0]).shape == (1, 1, codes[0].shape[1] * 4 * tiny.hop_length)
    latent = tiny.latent(audio_of(4000))
    latent.square().sum().backward()
    assert all(p.grad is not None for p in tiny.encoder.parameters())
    tiny.zero_grad(set_to_none=True)


def test_direct_calls_of_parts_are_channels_first_or_refused(tiny: SNAC) -> None:
    samples = tiny.hop_length * 4
    assert tiny.encoder(torch.zeros(1, 1, samples)).shape == (1, tiny.latent_dim, 4)
    with pytest.raises(OpensnacError, match=r"expected shape \(batch, 1, samples\) with samples a multiple of 32"):
        tiny.encoder(torch.zeros(1, samples, 1))
    with pytest.raises(OpensnacError, match=r"expected shape \(batch, 32, frames\)"):
        tiny.decoder(torch.zeros(1, 4, tiny.latent_dim))
    with pytest.raises(OpensnacError, match="frames a multiple of 4"):
        tiny.quantizer(torch.zeros(1, tiny.latent_dim, 6))


def test_the_names_of_the_reference_exist(tiny: SNAC) -> None:
    assert FULL_NAME is SNAC
    assert (tiny.sampling_rate, tiny.codebook_size, tiny.vq_strides) == (24000, 64, (4, 2, 1))
    assert tiny.preprocess(torch.zeros(1, 1, 100)).shape == (1, 1, 128)


def test_tracing_is_refused(tiny: SNAC) -> None:
    with (
        pytest.raises(OpensnacError, match=r"torch.jit.trace .*use torch.export"),
        pytest.warns(DeprecationWarning, match="trace"),
    ):
        torch.jit.trace(lambda x: tiny.encode(x)[0], audio_of(1000))


class Encoding(torch.nn.Module):
    def __init__(self, model: SNAC) -> None:
        super().__init__()
        self.model = model

    def forward(self, audio: torch.Tensor) -> list[torch.Tensor]:
        return self.model.encode(audio)


class Decoding(Encoding):
    def forward(self, codes: list[torch.Tensor]) -> torch.Tensor:
        return self.model.decode(codes, seed=3)


@pytest.mark.parametrize("config", SHALLOW, ids=["attention", "odd"])
def test_encode_and_decode_are_exported(config: configs.Config) -> None:
    model = configs.model_of(config)
    audio = audio_of(8 * model.config.frame_multiple * model.hop_length)
    codes = model.encode(audio)
    encoding = torch.export.export(Encoding(model), (audio,)).module()
    assert all(torch.equal(a, b) for a, b in zip(encoding(audio), codes, strict=True))
    decoding = torch.export.export(Decoding(model), (codes,)).module()
    torch.testing.assert_close(decoding(codes), model.decode(codes, seed=3), atol=1e-5, rtol=0)


def test_a_step_of_tensors_equals_a_push(small: SNAC) -> None:
    """Streams at different positions, some with noise, some at an end: one step that reads no value back."""
    engine = small.freeze(backend="torch")
    stack = engine.decoder_stack()
    multiple = small.config.frame_multiple
    latent = torch.randn(3, 4 * multiple, small.latent_dim, generator=torch.Generator().manual_seed(0))
    lengths = [None, 3 * multiple * small.hop_length, None]
    state = stack.start(lengths, [1, 2, None], engine.zeros(3, small.latent_dim))
    tails = [tail.clone() for tail in state.tails]
    counts = torch.zeros(3, dtype=torch.int64)
    known = torch.tensor([2**62 if length is None else length for length in lengths])
    for piece in latent.split(multiple, dim=1):
        expected = stack.push(piece, state)
        found, tails = stack.step(
            piece, tails, DeviceSpan(counts, known, torch.tensor([1, 2, 0]), torch.tensor([1, 1, 0]))
        )
        counts = counts + multiple * small.hop_length
        for i, first in enumerate(stack.first_step(state)):
            first -= multiple * small.hop_length  # where this piece's output begins
            heard = slice(max(0, -first), None if lengths[i] is None else max(0, lengths[i] - first))
            torch.testing.assert_close(found[i, heard], expected[i, heard], atol=1e-5, rtol=0)
    assert all(torch.isfinite(tail).all() for tail in itertools.chain(tails, state.tails))
