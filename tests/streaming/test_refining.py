"""Refined codes: nearer to the original, whatever the pieces and the batch, in the form of plain ones."""

from __future__ import annotations

import itertools
from pathlib import Path

import configs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opensnac import SNAC
from opensnac.errors import AudioError, BackendError, OpensnacError
from opensnac.recordings import audio as files
from opensnac.recordings.model_cache import ModelCache
from opensnac.recordings.transcode import decode_file, encode_file
from opensnac.streaming import RefiningEncoder, refining
from opensnac.streaming.refining import distance

SPEECH = Path(__file__).parents[2] / "examples" / "thorsten.flac"


def audio_of(samples: int, batch: int = 1) -> torch.Tensor:
    return 0.3 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(samples))


@pytest.fixture(scope="module", params=configs.SMALL)
def encoder(request: pytest.FixtureRequest) -> RefiningEncoder:
    """Of a small model, with windows of a few groups of frames."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refining, "WINDOW_SECONDS", 0.0)
        return RefiningEncoder(configs.model_of(configs.SMALL[request.param]), rounds=2)


@settings(max_examples=4)
@given(data=st.data())
def test_any_pieces_and_any_batch_give_the_same_codes(encoder: RefiningEncoder, data: st.DataObject) -> None:
    samples = data.draw(st.integers(1, 3 * encoder.window + encoder.look_ahead))
    audio = audio_of(samples, batch=2)
    whole = encoder.encode(audio)
    assert [c.shape for c in whole] == [c.shape for c in encoder.engine.encode(audio)]
    for clip in range(2):
        alone = encoder.start()
        bounds = [0, *sorted(data.draw(st.lists(st.integers(0, samples), max_size=4))), samples]
        pieces = [
            encoder.push(audio[clip : clip + 1, :, a:b], alone)[0] for a, b in itertools.pairwise(bounds) if b > a
        ]
        assert alone.audio.shape[2] < encoder.window + 2 * encoder.look_ahead, "what is coded is forgotten"
        pieces.append(encoder.flush(alone)[0])
        for together, *parts in zip(whole, *pieces, strict=True):
            assert torch.equal(together[clip : clip + 1], torch.cat(parts, dim=1))


@pytest.fixture(scope="module")
def model() -> SNAC:
    return SNAC.from_pretrained("speech_24khz_tiny")


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    samples, _ = files.read(SPEECH)
    return torch.from_numpy(samples)[None, :, :60_000]


def test_refined_speech_is_nearer_to_the_original(model: SNAC, speech: torch.Tensor) -> None:
    encoder = RefiningEncoder(model, 4)
    decoded = [model.decode(codes, 60_000) for codes in (model.encode(speech), encoder.encode(speech))]
    plain, refined = (float(distance(each, speech, 24_000)) for each in decoded)
    assert refined < 0.98 * plain


def test_a_window_is_never_farther_from_the_original(
    model: SNAC, speech: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refining, "STEP", 30.0)  # so long that no round helps
    some = speech[..., : 12 * 2048]
    plain, refined = model.encode(some), RefiningEncoder(model, 2).encode(some)
    assert all(torch.equal(a, b) for a, b in zip(plain, refined, strict=True))


def test_the_model_is_left_alone(model: SNAC, speech: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refining, "WINDOW_SECONDS", 0.0)
    before, some = model.fingerprint, speech[..., :20_000]
    plain = RefiningEncoder(model, 1).encode(some)
    with torch.inference_mode():
        codes = RefiningEncoder(model, 1).encode(some)
    assert all(torch.equal(a, b) for a, b in zip(plain, codes, strict=True))
    assert model.fingerprint == before
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not codes[0].requires_grad


def test_what_cannot_be_refined_is_refused(model: SNAC) -> None:
    with pytest.raises(OpensnacError, match="rounds: expected at least 1, got 0"):
        RefiningEncoder(model, 0)
    with pytest.raises(OpensnacError, match="expected a SNAC, which has gradients, got Engine"):
        RefiningEncoder(model.freeze(), 1)  # type: ignore[arg-type]
    encoder = RefiningEncoder(model, 1)
    with pytest.raises(AudioError, match="before its first sample"):
        encoder.flush(encoder.start())
    with pytest.raises(AudioError, match="finite"):
        encoder.push(torch.full((1, 1, 9), torch.nan), encoder.start())
    with pytest.raises(OpensnacError, match="expected samples of 2 streams, got 1"):
        encoder.push(torch.zeros(1, 1, 9), encoder.start(2))
    state = encoder.start()
    encoder.push(torch.zeros(1, 1, 9), state)
    encoder.flush(state)
    for late in (lambda: encoder.flush(state), lambda: encoder.push(torch.zeros(1, 1, 9), state)):
        with pytest.raises(OpensnacError, match="has ended"):
            late()
    for options in ({"reduced": True}, {"runtime": "onnx"}):
        with pytest.raises(BackendError, match="refined codes"):
            ModelCache(rounds=1, **options)  # type: ignore[arg-type]


def test_files_of_refined_codes_are_as_any_other(tmp_path: Path) -> None:
    samples, rate = files.read(SPEECH)
    files.write(tmp_path / "in.wav", samples[:, :30_000], rate)
    cache = ModelCache("speech_24khz_tiny", rounds=2)
    for name, model in (("refined", cache.get()), ("plain", SNAC.from_pretrained("speech_24khz_tiny"))):
        encode_file(tmp_path / "in.wav", tmp_path / f"{name}.snac", model)
        decode_file(tmp_path / f"{name}.snac", tmp_path / f"{name}.wav", ModelCache())
    sizes = {name: (tmp_path / f"{name}.snac").stat().st_size for name in ("refined", "plain")}
    assert sizes["refined"] == sizes["plain"]
    original, refined, plain = (
        torch.from_numpy(files.read(tmp_path / f"{name}.wav")[0])[None] for name in ("in", "refined", "plain")
    )
    assert distance(refined, original, rate) < 0.99 * distance(plain, original, rate)
