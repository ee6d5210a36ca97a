"""Encode and decode by steps of few shapes: padding never affects the result, nothing breaks the graph."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from opensnac import SNAC, Engine, kernels
from opensnac.engine import whole
from opensnac.engine.span import DeviceSpan, Span
from opensnac.engine.stack import LayerStack
from opensnac.engine.whole import GraphRunner, bucket_size
from opensnac.errors import BackendError, CodesError
from opensnac.streaming.pool import DecoderPool

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]


def pair_of(model: SNAC, device: str = "cpu") -> tuple[Engine, Engine]:
    """Engines in float64, where rounding flips no code: in pieces, and in steps of few shapes."""
    same = {"backend": "torch", "dtype": torch.float64, "device": device}
    return model.freeze(**same, graphs=False), model.freeze(**same, graphs=True)


def audio_of(samples: int, batch: int, device: str = "cpu") -> torch.Tensor:
    return 0.3 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(0)).to(device)


def graph_runner_of(engine: Engine) -> GraphRunner:
    return engine._run.__self__  # type: ignore[attr-defined]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("batch", "samples", "most"), [(1, 1, None), (3, 777, None), (3, 777, 5)])
def test_a_padded_call_equals_the_unpadded_one(
    small: SNAC, batch: int, samples: int, most: int | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, graphs = pair_of(small, device)
    if most is not None:  # groups in a step, so that there are many
        monkeypatch.setattr(whole.Pipeline, "steps_at_once", lambda pipeline, *_: most * pipeline.stack.multiple)
    audio = audio_of(samples, batch, device)
    codes = plain.encode(audio)
    assert all(torch.equal(a, b) for a, b in zip(codes, graphs.encode(audio), strict=True))
    for options in ({"seed": 7, "num_samples": samples}, {"noise": False}):
        torch.testing.assert_close(graphs.decode(codes, **options), plain.decode(codes, **options), atol=1e-6, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_clips_of_unequal_lengths(small: SNAC, device: str) -> None:
    plain, graphs = pair_of(small, device)
    audio, lengths = audio_of(2500, 3, device), [2400, 1, 900]
    codes = plain.encode(audio, lengths)
    assert all(torch.equal(a, b) for a, b in zip(codes, graphs.encode(audio, lengths), strict=True))
    decoded = graphs.decode(codes, lengths=lengths, seed=4)
    torch.testing.assert_close(decoded, plain.decode(codes, lengths=lengths, seed=4), atol=1e-6, rtol=0)
    assert not decoded[1, :, 1:].any()


def test_calls_do_not_depend_on_earlier_ones(tiny: SNAC) -> None:
    """The same step takes a loud batch, then a short clip."""
    plain, graphs = pair_of(tiny)
    loud, short = 3 * audio_of(1000, 3), audio_of(900, 3)
    graphs.encode(loud)
    assert all(torch.equal(a, b) for a, b in zip(plain.encode(short), graphs.encode(short), strict=True))
    assert len(graph_runner_of(graphs)._steps) == 1
    codes = plain.encode(short)
    graphs.decode(plain.encode(loud), seed=1)
    torch.testing.assert_close(graphs.decode(codes, seed=2), plain.decode(codes, seed=2), atol=1e-6, rtol=0)


def test_a_step_made_in_inference_mode_serves_outside(tiny: SNAC) -> None:
    graphs, audio = tiny.freeze(backend="torch", graphs=True), audio_of(300, 1)
    with torch.inference_mode():
        first, pool = graphs.decode(graphs.encode(audio)), DecoderPool(graphs, 1)
    codes = graphs.encode(audio)
    assert torch.equal(graphs.decode(codes), first)
    counts = [tiny.config.frame_multiple // stride for stride in tiny.vq_strides]
    place = pool.open()
    pool.push({place: [code[:, :count] for code, count in zip(codes, counts, strict=True)]})
    assert len(pool.close(place))


def test_shapes_are_few(tiny: SNAC, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [bucket_size(n) for n in range(1, 14)] == [1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 12, 12, 16]
    _, graphs = pair_of(tiny)
    for samples in range(1, 4000, 97):
        graphs.encode(audio_of(samples, 1))
    assert len(graph_runner_of(graphs)._steps) < 10
    monkeypatch.setattr(whole, "MAX_RECORDED", 2)
    graphs.encode(audio_of(9000, 1))
    graphs.encode(audio_of(20000, 1))
    assert graphs.encode(audio_of(100, 1))[0].shape == (1, 1)


def test_a_first_decode_needs_no_compiler_and_encode_and_decode_are_one_graph_each() -> None:
    """By the tracer alone, which raises at the first break; OPENSNAC_TEST_INDUCTOR=1 generates code too (minutes)."""
    compiler = "inductor" if os.environ.get("OPENSNAC_TEST_INDUCTOR") == "1" else "eager"
    script = Path(__file__).parent / "compiled_whole.py"
    done = subprocess.run([sys.executable, script, compiler], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"one graph each by {compiler}")


def test_positions_on_the_device_equal_those_on_the_cpu(small: SNAC, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams at different positions, and a batch, pushed as on a GPU."""
    engine = small.freeze(backend="torch")
    stack, multiple = engine.decoder_stack(), small.config.frame_multiple
    latent = torch.randn(3, 6 * multiple, small.latent_dim, generator=torch.Generator().manual_seed(0))
    ends = [4 * multiple * small.hop_length, None, None]

    def heard(stack: LayerStack, seeds: list[int | None]) -> list[torch.Tensor]:
        state = stack.start(ends, seeds, engine.zeros(3, small.latent_dim))
        state.pushed = [0, 2**33 * multiple * small.hop_length, 0]
        return [stack.push(piece, state) for piece in latent.split(2 * multiple, dim=1)]

    for seeds in ([1, 2**40, None], [None, None, None]):
        expected = heard(stack, seeds)
        with monkeypatch.context() as patch:
            patch.setattr(Span, "on_device", lambda span, device: DeviceSpan.of(span, device))
            for a, b in zip(heard(stack, seeds), expected, strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_triton_s_layers_equal_pytorch_s() -> None:
    """Streams at different positions, with contexts, ends and noise, in Triton's interpreter."""
    pytest.importorskip("triton", reason="pip install triton")
    script = Path(__file__).parent / "triton_layers.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done"


def test_pieces_are_as_long_as_the_device_allows(tiny: SNAC, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny.freeze(backend="torch", device="meta")._encoding
    group = tiny.config.frame_multiple * tiny.hop_length
    monkeypatch.setattr(whole, "memory_of", lambda device: 64 * 4 * 4 * 10 * group)  # 4 channels of 4 bytes a sample
    assert pipeline.steps_at_once(1, 24000) == 10 * group
    assert pipeline.steps_at_once(5, 24000) == 2 * group
    assert pipeline.steps_at_once(1000, 24000) == group
    assert tiny.freeze(backend="torch")._encoding.steps_at_once(1000, 24000) // group * group == 48000 // group * group


def test_values_unchecked_on_a_gpu_are_harmless(tiny: SNAC) -> None:
    """Values that would need a GPU synchronisation are not read; invalid ones do not reach the GPU."""
    engine = tiny.freeze(backend="torch")
    codes = [torch.full((1, 8 // stride), 10**6) for stride in tiny.vq_strides]
    with pytest.raises(CodesError, match="expected 0 to 63"):
        engine.decode(codes)
    last = [torch.full_like(code, 63) for code in codes]
    assert torch.equal(engine.decode(codes, check=False), engine.decode(last))
    assert engine.encode(torch.full((1, 1, 100), torch.nan), check=False)[0].shape == (1, 1)
    with pytest.raises(CodesError, match="expected 0 to 63"):
        tiny.freeze(backend="torch", device="meta").decode([code.numpy() for code in codes])  # seen before it is sent


@pytest.mark.skipif(kernels.level() is None, reason="the kernels are not there or are switched off")
def test_the_kernels_have_no_graphs(tiny: SNAC) -> None:
    with pytest.raises(BackendError, match="expected backend 'torch', got 'c'"):
        tiny.freeze(graphs=True)
