"""Laws of SNAC.encode and decode: lengths, batches, pieces, noise, folding, and errors for bad input."""

from __future__ import annotations

import configs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opensnac import SNAC
from opensnac.engine import whole as run_whole
from opensnac.errors import AudioError, CodesError, ConfigError

TOLERANCE = 1e-5


def noise_audio(model: SNAC, samples: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=15)
@given(samples=st.integers(1, 1000))
def test_lengths(tiny: SNAC, samples: int) -> None:
    codes = tiny.encode(noise_audio(tiny, samples))
    frames = tiny.config.num_frames(samples)
    assert [code.shape for code in codes] == [(1, frames // stride) for stride in tiny.config.vq_strides]
    assert tiny.decode(codes).shape == (1, 1, frames * tiny.hop_length)
    assert tiny.decode(codes, samples).shape == (1, 1, samples)
    assert tiny(noise_audio(tiny, samples))[0].shape == (1, 1, samples)


@torch.inference_mode()
def test_a_batch_equals_single_runs(small: SNAC) -> None:
    audio = noise_audio(small, 5000, batch=3)
    together = small.encode(audio)
    decoded = small.decode(together, seed=5)
    for i in range(3):
        alone = small.encode(audio[i : i + 1])
        assert all(torch.equal(a[0], b[i]) for a, b in zip(alone, together, strict=True))
        torch.testing.assert_close(small.decode(alone, seed=5)[0], decoded[i], atol=TOLERANCE, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("piece_seconds", [0.01, 0.03, 0.1])
def test_pieces_equal_the_whole(small: SNAC, piece_seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = noise_audio(small, small.config.sampling_rate // 4 + 77)
    monkeypatch.setattr(run_whole, "CPU_PIECE_SECONDS", 1e6)
    whole = small.encode(audio)
    whole_audio = small.decode(whole, seed=9)
    monkeypatch.setattr(run_whole, "CPU_PIECE_SECONDS", piece_seconds)
    pieces = small.encode(audio)
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))
    torch.testing.assert_close(small.decode(whole, seed=9), whole_audio, atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def test_noise_depends_only_on_the_seed_and_can_be_switched_off(tiny: SNAC) -> None:
    codes = tiny.encode(noise_audio(tiny, 2000))
    first = tiny.decode(codes, seed=1)
    torch.manual_seed(123)
    assert torch.equal(first, tiny.decode(codes, seed=1))
    assert not torch.allclose(first, tiny.decode(codes, seed=2), atol=1e-4)
    silent = tiny.decode(codes, noise=False)
    assert torch.equal(silent, tiny.decode(codes, noise=False, seed=7))
    assert not torch.allclose(first, silent, atol=1e-4)


@torch.inference_mode()
def test_folded_weights_give_the_same(small: SNAC) -> None:
    folded = SNAC(**small.config.to_dict()).eval()
    folded.load_state_dict(small.state_dict())
    fingerprint = folded.fingerprint
    folded.fold_weight_norm()
    assert folded.fingerprint == fingerprint == small.fingerprint
    assert not any("parametrizations" in name for name in folded.state_dict())
    audio = noise_audio(small, 4000)
    codes = small.encode(audio)
    assert all(torch.equal(a, b) for a, b in zip(codes, folded.encode(audio), strict=True))
    torch.testing.assert_close(folded.decode(codes), small.decode(codes), atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def test_silence_and_one_sample(tiny: SNAC) -> None:
    for audio in (torch.zeros(1, 1, 5000), torch.ones(1, 1, 1)):
        decoded = tiny.decode(tiny.encode(audio), audio.shape[-1])
        assert decoded.shape == audio.shape
        assert torch.isfinite(decoded).all()


def test_properties() -> None:
    with torch.device("meta"):
        model, music = SNAC(**configs.SPEECH_24KHZ), SNAC(**configs.MUSIC_32KHZ)
    assert sum(p.numel() for p in model.parameters()) == 19_842_914
    assert model.hop_length == 512
    assert model.frame_rate == 46.875
    assert model.code_rates == (11.71875, 23.4375, 46.875)
    assert model.bits_per_second == 984.375
    assert model.latent_dim == 768
    assert sum(p.numel() for p in music.parameters()) == 54_546_338
    assert music.bits_per_second == 1875


def test_decode_is_the_same_in_training_mode_and_keeps_no_graph(tiny: SNAC) -> None:
    model = SNAC.from_config(tiny.config)
    codes = model.eval().encode(noise_audio(model, 1000))
    decoded = model.decode(codes, seed=3)
    assert not decoded.requires_grad
    assert torch.equal(model.train().decode(codes, seed=3), decoded)


def test_codes_of_any_integer_type(tiny: SNAC) -> None:
    codes = tiny.encode(noise_audio(tiny, 1000))
    for dtype in (torch.int16, torch.int32, torch.uint8):
        assert torch.equal(tiny.decode([code.to(dtype) for code in codes]), tiny.decode(codes))


def test_training_noise_is_drawn_afresh(tiny: SNAC) -> None:
    model = SNAC(**tiny.config.to_dict()).train()
    audio = noise_audio(model, 1000)
    assert not torch.equal(model(audio)[0], model(audio)[0])


BAD_AUDIO = {
    "one dimension": (torch.zeros(100), r"got \(100,\).*audio\[None, None\]"),
    "two dimensions": (torch.zeros(1, 100), r"got \(1, 100\).*audio\[:, None\]"),
    "stereo": (torch.zeros(1, 2, 100), r"2 channels.*reshape"),
    "integers": (torch.zeros(1, 1, 100, dtype=torch.int16), r"torch.int16.*32768"),
    "doubles": (torch.zeros(1, 1, 100, dtype=torch.float64), r"expected torch.float32.*got torch.float64"),
    "no samples": (torch.zeros(1, 1, 0), r"at least one clip of one sample, got shape \(1, 1, 0\)"),
    "no clips": (torch.zeros(0, 1, 10), r"at least one clip"),
    "NaN": (torch.full((1, 1, 10), float("nan")), "got NaN or infinity"),
    "infinite": (torch.full((1, 1, 10), float("inf")), "got NaN or infinity"),
    "a list": ([0.0, 0.1], "got list"),
    "another device": (torch.zeros(1, 1, 10, device="meta"), r"device cpu, got meta: use .to\('cpu'\)"),
}


@pytest.mark.parametrize("case", BAD_AUDIO)
def test_bad_audio_is_named(tiny: SNAC, case: str) -> None:
    audio, message = BAD_AUDIO[case]
    for method in (tiny.encode, tiny):
        with pytest.raises(AudioError, match=message):
            method(audio)


def good_codes() -> list[torch.Tensor]:
    return [torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64)] + [
        torch.zeros(1, 8, dtype=torch.int64)
    ]


def changed(scale: int, code: object) -> list:
    codes: list = good_codes()
    codes[scale] = code
    return codes


BAD_CODES = {
    "a tensor": (torch.zeros(3, 1, 2, dtype=torch.int64), "expected a list of 3.*got Tensor"),
    "two scales": (good_codes()[:2], "expected a list of 3.*got 2 tensors"),
    "floats": (changed(1, torch.zeros(1, 4)), "scale 1: expected an integer tensor.*got shape .*torch.float32"),
    "flat": (changed(0, torch.zeros(2, dtype=torch.int64)), r"scale 0: .*got shape \(2,\)"),
    "numbers": (changed(0, [0, 1]), "scale 0: .*got list"),
    "too large": (changed(2, torch.full((1, 8), 64)), "scale 2: expected 0 to 63, got 64 to 64"),
    "negative": (changed(2, torch.full((1, 8), -1)), "scale 2: expected 0 to 63, got -1"),
    "unequal lengths": (changed(2, torch.zeros(1, 7, dtype=torch.int64)), r"\(1, 2\), \(1, 4\), \(1, 7\)"),
    "unequal batches": (changed(1, torch.zeros(2, 4, dtype=torch.int64)), r"\(1, 2\), \(2, 4\), \(1, 8\)"),
    "another device": (
        changed(1, torch.zeros(1, 4, dtype=torch.int64, device="meta")),
        "scale 1: .* device cpu, got meta",
    ),
    "empty": (changed(0, torch.zeros(1, 0, dtype=torch.int64)), "scale 0: expected at least one frame"),
}


@pytest.mark.parametrize("case", BAD_CODES)
def test_bad_codes_are_named(tiny: SNAC, case: str) -> None:
    codes, message = BAD_CODES[case]
    with pytest.raises(CodesError, match=message):
        tiny.decode(codes)


def test_good_codes_pass_and_bad_num_samples_is_named(tiny: SNAC) -> None:
    assert tiny.decode(good_codes(), 256).shape == (1, 1, 256)
    for wrong in (257, -1):
        with pytest.raises(CodesError, match=f"num_samples: expected 0 to 256, .* 8 frames of 32, got {wrong}"):
            tiny.decode(good_codes(), wrong)


def test_codes_of_partial_windows_are_refused() -> None:
    model = SNAC(**configs.ODD_ATTENTION).eval()
    codes = [torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64)]
    with pytest.raises(CodesError, match="multiple of 6"):
        model.decode(codes)


def test_unknown_keys_are_named() -> None:
    with pytest.raises(ConfigError, match="'sample_rate'"):
        SNAC(**configs.TINY, sample_rate=24000)
