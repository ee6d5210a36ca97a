"""The exactness guarantee: a whole recording, any pieces, any batch and any stream give the same result."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import configs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opensnac import SNAC, kernels
from opensnac.engine import stack as stacks
from opensnac.engine.layers import Upsample
from opensnac.engine.stack import last_input
from opensnac.errors import AudioError, CodesError, OpensnacError
from opensnac.model.layers import Signal
from opensnac.streaming.streams import State, StreamDecoder, StreamEncoder

TOLERANCE = 1e-5
MODELS = {}


def model_of(name: str) -> SNAC:
    if name not in MODELS:
        MODELS[name] = configs.model_of(configs.SMALL[name])
    return MODELS[name]


def audio_of(samples: int, batch: int = 1) -> torch.Tensor:
    return 0.3 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(samples))


def cuts(data: st.DataObject, total: int) -> list[int]:
    """Random lengths, some of them 0 or 1, that add up to `total`."""
    inner = data.draw(st.lists(st.integers(0, total), max_size=6))
    bounds = [0, *sorted(inner), total]
    return [b - a for a, b in itertools.pairwise(bounds)]


def joined(pieces: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    return [torch.cat(scale, dim=1) for scale in zip(*pieces, strict=True)]


def groups_of(model: SNAC, codes: list[torch.Tensor], start: int, stop: int) -> list[torch.Tensor]:
    """Groups of frames [start, stop) of a recording's codes."""
    first, last = start * model.config.frame_multiple, stop * model.config.frame_multiple
    return [code[:, first // s : last // s] for code, s in zip(codes, model.config.vq_strides, strict=True)]


def stream_encode(encoder: StreamEncoder, audio: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
    state = encoder.start()
    pieces = [encoder.push(part, state)[0] for part in audio.split(lengths, dim=2) if part.shape[2]]
    return joined([*pieces, encoder.flush(state)[0]])


def stream_decode(decoder: StreamDecoder, codes: list[torch.Tensor], groups: list[int]) -> torch.Tensor:
    state, pieces = decoder.start(seed=3), []
    per_group = [codes_of.shape[1] // codes[0].shape[1] for codes_of in codes]
    start = 0
    for count in filter(None, groups):
        cut = [c[:, start * n : (start + count) * n] for c, n in zip(codes, per_group, strict=True)]
        pieces.append(decoder.push(cut, state)[0])
        start += count
    return torch.cat([*pieces, decoder.flush(state)[0]], dim=1)


@pytest.mark.parametrize("name", configs.SMALL)
@settings(max_examples=8)
@given(data=st.data(), samples=st.integers(1, 2500))
def test_a_stream_equals_the_whole(name: str, data: st.DataObject, samples: int) -> None:
    model = model_of(name)
    audio = audio_of(samples)
    whole = model.encode(audio)
    streamed = stream_encode(StreamEncoder(model), audio, cuts(data, samples))
    assert all(torch.equal(a, b) for a, b in zip(whole, streamed, strict=True))
    decoded = stream_decode(StreamDecoder(model), whole, cuts(data, whole[0].shape[1]))
    torch.testing.assert_close(decoded[None], model.decode(whole, seed=3), atol=TOLERANCE, rtol=0)


@pytest.mark.skipif(kernels.level() is None, reason="no C compiler, or the kernels are switched off")
@settings(max_examples=6)
@given(data=st.data(), samples=st.integers(1, 2500))
def test_with_the_kernels_not_a_bit_differs(data: st.DataObject, samples: int) -> None:
    if "vector" not in MODELS:
        MODELS["vector"] = configs.model_of(configs.TINY | {"encoder_dim": 16, "decoder_dim": 256})
    model = MODELS["vector"]
    codes = model.encode(audio_of(samples))
    whole = model.decode(codes, seed=3)
    streamed = stream_decode(StreamDecoder(model), codes, cuts(data, codes[0].shape[1]))
    assert torch.equal(streamed[None], whole)
    batch = [code.expand(3, -1) for code in codes]
    assert torch.equal(model.decode(batch, seed=3), whole.expand(3, -1, -1))


@pytest.mark.skipif(kernels.level() is None, reason="no C compiler, or the kernels are switched off")
@pytest.mark.parametrize("name", configs.SMALL)
@pytest.mark.parametrize(("cache", "steps"), [(2000, 1), (20_000, 7)])
def test_parts_that_fit_the_cache_change_nothing(
    name: str, cache: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, audio = model_of(name).freeze(backend="c"), audio_of(4000, 2)
    codes = engine.encode(audio)
    decoded = engine.decode(codes, seed=3)
    monkeypatch.setattr(stacks, "MIN_STEPS", steps)
    for stack in (engine.encoder_stack(), engine.decoder_stack()):
        monkeypatch.setattr(stack, "_cache_bytes", cache)
    assert all(torch.equal(a, b) for a, b in zip(codes, engine.encode(audio), strict=True))
    torch.testing.assert_close(engine.decode(codes, seed=3), decoded, atol=TOLERANCE, rtol=0)


def test_unneeded_steps_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention processes whole windows; the first one before a signal and those beyond its end are skipped."""
    model = configs.model_of(configs.TINY | {"encoder_dim": 8, "attn_window_size": 32, "decoder_dim": 64})
    engine = model.freeze(backend="torch")
    layers = engine.decoder_stack().layers
    layers = layers[layers.index(next(layer for layer in layers if isinstance(layer, Upsample))) :]
    frames, worked_on = 1600, []  # more than a piece
    codes = engine.encode(audio_of(frames * model.hop_length))

    def apply(layer: Upsample, x: Signal) -> Signal:
        worked_on.extend([x.shape[1] - 1] * (layer is layers[0]))
        return take(layer, x)

    take = Upsample.apply
    monkeypatch.setattr(Upsample, "apply", apply)
    engine.decode(codes)
    assert len(worked_on) == 3
    assert sum(worked_on) == last_input(layers, frames * model.hop_length - 1) + 1 < frames + 32


@pytest.mark.parametrize("name", configs.SMALL)
@settings(max_examples=8)
@given(lengths=st.lists(st.integers(1, 2000), min_size=1, max_size=4))
def test_a_batch_of_unequal_lengths_equals_single_runs(name: str, lengths: list[int]) -> None:
    model = model_of(name)
    audio = audio_of(max(lengths), len(lengths))  # noise beyond a clip's end, which must not affect the result
    codes = model.encode(audio, lengths)
    decoded = model.decode(codes, lengths=lengths, seed=3)
    for i, length in enumerate(lengths):
        alone = model.encode(audio[i : i + 1, :, :length])
        for a, b in zip(alone, codes, strict=True):
            assert torch.equal(a[0], b[i, : a.shape[1]])
            assert not b[i, a.shape[1] :].any()
        expected = model.decode(alone, length, seed=3)
        torch.testing.assert_close(decoded[i : i + 1, :, :length], expected, atol=TOLERANCE, rtol=0)
        assert not decoded[i, :, length:].any()


@pytest.mark.parametrize("name", configs.SMALL)
def test_streams_at_different_positions_share_a_batch(name: str, tmp_path: Path) -> None:
    """Begun at different times, joined, split, saved and loaded on the way: each equals a single stream."""
    model = model_of(name)
    decoder = StreamDecoder(model)
    samples = model.config.frame_multiple * model.hop_length
    codes = [model.encode(audio_of(n * samples)) for n in (9, 7)]

    ahead, behind = decoder.start(seed=1), decoder.start(seed=2)
    heard = [
        decoder.push(groups_of(model, codes[0], 0, 3), ahead),
        decoder.push(groups_of(model, codes[1], 0, 1), behind),
    ]
    ahead.save(tmp_path / "state")
    both = State.join([State.load(tmp_path / "state"), behind])
    for step in range(6):
        parts = [
            torch.cat(pair)
            for pair in zip(
                groups_of(model, codes[0], 3 + step, 4 + step),
                groups_of(model, codes[1], 1 + step, 2 + step),
                strict=True,
            )
        ]
        for i, audio in enumerate(decoder.push(parts, both)):
            heard[i].append(audio)
    for i, state in enumerate(both.split()):
        heard[i] += decoder.flush(state)
        expected = model.decode(codes[i], seed=i + 1)
        torch.testing.assert_close(torch.cat(heard[i], dim=1)[None], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", configs.SMALL)
def test_a_state_of_another_process_continues_or_is_refused(name: str) -> None:
    model = model_of(name)
    encoder, decoder, audio = StreamEncoder(model), StreamDecoder(model), audio_of(4000)
    state = encoder.start()
    pieces = [encoder.push(audio[..., :2500], state)[0]]
    state = encoder.resume(State.from_bytes(state.to_bytes()))
    pieces += [encoder.push(audio[..., 2500:], state)[0], encoder.flush(state)[0]]
    assert all(map(torch.equal, joined(pieces), model.encode(audio)))

    state = decoder.start(seed=5)
    decoder.push(model.encode(audio), state)
    for change in (
        {"pushed": [state.pushed[0] + 1]},
        {"pushed": [2**60]},
        {"given": [state.given[0] - 1]},
        {"seeds": [2**63]},
        {"lengths": [7]},
        {"tails": state.tails[1:]},
        {"tails": [tail.double() for tail in state.tails]},
        {"tails": [*state.tails[:-1], state.tails[-1] * torch.nan]},
        {"waiting": state.waiting.new_zeros(1, 1000, state.waiting.shape[2])},
        {"waiting": state.waiting.new_zeros(1, 0, 1)},
    ):
        with pytest.raises(OpensnacError, match="^state: expected"):
            decoder.resume(dataclasses.replace(state, **change))
        with pytest.raises(OpensnacError, match="^state: expected"):
            encoder.resume(dataclasses.replace(state, **change))


def test_invalid_states_are_refused() -> None:
    written = StreamDecoder(model_of("tiny")).start().to_bytes()
    for wrong in (b"", written[:-1], written.replace(b"pushed", b"rushed"), written[8:], b"\xff" * 100):
        with pytest.raises(OpensnacError, match="state"):
            State.from_bytes(wrong)


@pytest.mark.parametrize("name", configs.SMALL)
def test_codes_come_when_they_are_determined_and_not_before(name: str) -> None:
    """The last sample of the look-ahead completes the group; by its gradient it is the last that matters."""
    model = configs.model_of(configs.SMALL[name])
    encoder, frames = StreamEncoder(model), model.config.frame_multiple
    group = frames * model.hop_length
    state, audio = encoder.start(), audio_of(3 * group + encoder.exact_look_ahead)
    counts = [int(encoder.push(part, state)[0][-1].shape[1]) for part in (audio[..., :-1], audio[..., -1:])]
    assert counts == [2 * frames, frames]

    decoder = StreamDecoder(model)
    x = torch.randn(1, 1, 12 * group, dtype=torch.float64, requires_grad=True)
    model.double().encoder(x)[..., :frames].square().sum().backward()
    newest = int(torch.nonzero(x.grad)[-1, 2])
    assert newest - (group - 1) == encoder.exact_look_ahead

    latent = torch.randn(1, model.latent_dim, 12 * frames, dtype=torch.float64, requires_grad=True)
    heard = 10 * frames * model.hop_length - decoder.exact_look_ahead  # determined after ten groups
    for samples, needed in ((heard, 10 * frames), (heard + 1, 10 * frames + 1)):
        latent.grad = None
        model.decoder(latent)[..., :samples].square().sum().backward()
        last = int(torch.nonzero(latent.grad)[:, 2].max())
        assert last >= needed - 1
        assert last_input(decoder.engine.decoder_stack().layers, samples - 1) == last


def test_published_look_ahead() -> None:
    model = SNAC(**configs.SPEECH_24KHZ | {"encoder_dim": 2, "decoder_dim": 16})
    assert StreamEncoder(model).exact_look_ahead == 4757
    assert StreamDecoder(model).exact_look_ahead == 4757


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", configs.SMALL)
def test_less_look_ahead_gives_all_output_sooner(name: str, share: float) -> None:
    """Nothing is missing or repeated; the last part, where the assumption that silence follows is true, is exact."""
    model = model_of(name)
    group = model.config.frame_multiple * model.hop_length
    audio = audio_of(12 * group)
    exact = model.encode(audio)
    encoder, decoder = StreamEncoder(model), StreamDecoder(model)
    encoder = StreamEncoder(model, int(share * encoder.exact_look_ahead))
    state = encoder.start()
    (first,) = encoder.push(audio[..., : group + encoder.look_ahead], state)
    assert first[0].shape[1] == model.config.frame_multiple // model.config.vq_strides[0]
    codes = stream_encode(encoder, audio, [1] * 3 + [group] * 11 + [group - 3])
    assert [c.shape for c in codes] == [c.shape for c in exact]

    decoder = StreamDecoder(model, int(share * decoder.exact_look_ahead))
    state = decoder.start(seed=3)
    (heard,) = decoder.push(groups_of(model, exact, 0, 1), state)
    assert heard.shape == (1, max(0, group - decoder.look_ahead))
    coarse = model.config.coarse_stride // model.config.vq_strides[0]
    decoded = stream_decode(decoder, exact, [coarse] * (exact[0].shape[1] // coarse))
    whole = model.decode(exact, seed=3)[0]
    assert decoded.shape == whole.shape
    torch.testing.assert_close(
        decoded[:, -decoder.look_ahead - 1 :], whole[:, -decoder.look_ahead - 1 :], atol=TOLERANCE, rtol=0
    )


def test_misuse_is_reported() -> None:
    model = model_of("tiny")
    encoder, decoder = StreamEncoder(model), StreamDecoder(model)
    with pytest.raises(OpensnacError, match="look_ahead: expected 0 to .*, got -1"):
        StreamEncoder(model, -1)
    with pytest.raises(AudioError, match="ended before its first sample"):
        encoder.flush(encoder.start())
    with pytest.raises(OpensnacError, match="expected samples or codes of 1 streams, got 2"):
        encoder.push(audio_of(10, 2), encoder.start())
    with pytest.raises(AudioError, match="expected shape"):
        encoder.push(torch.zeros(10), encoder.start())
    with pytest.raises(CodesError, match="got no codes"):
        decoder.flush(decoder.start())
    state = encoder.start()
    encoder.push(audio_of(10), state)
    encoder.flush(state)
    with pytest.raises(OpensnacError, match="has ended"):
        encoder.push(audio_of(10), state)
    begun = encoder.start()
    encoder.push(audio_of(3), begun)
    with pytest.raises(OpensnacError, match="equally much buffered input"):
        State.join([begun, encoder.start()])


def test_num_samples_cuts_the_end() -> None:
    model = model_of("tiny")
    codes = model.encode(audio_of(5000))
    decoder = StreamDecoder(model)
    state = decoder.start()
    audio = torch.cat([*decoder.push(codes, state), *decoder.flush(state, 5000)], dim=1)
    torch.testing.assert_close(audio[None], model.decode(codes, 5000), atol=TOLERANCE, rtol=0)
