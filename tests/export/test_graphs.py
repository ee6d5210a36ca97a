"""ONNX graphs equal the model, for whole signals and in chunks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import configs
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS
from onnx import TensorProto

from opensnac import SNAC
from opensnac.engine.engine import Engine
from opensnac.errors import ModelError
from opensnac.export import graph, models, noise
from opensnac.export.weights import Weights
from opensnac.model.noise import position_noise

ENDLESS = 2**62
Arrays = list[np.ndarray]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # not that an input has a default
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def named(codes: Arrays) -> dict[str, np.ndarray]:
    return {f"audio_codes.{i}": scale for i, scale in enumerate(codes)}


@pytest.fixture(scope="module", params=LAYOUTS)
def model(request: pytest.FixtureRequest) -> SNAC:
    return configs.model_of(LAYOUTS[request.param])


@pytest.fixture
def engine(model: SNAC) -> Engine:
    return model.freeze(backend="torch")


@pytest.fixture
def weights(model: SNAC) -> Weights:
    return Weights.of(model)


def signals(engine: Engine, samples: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(samples).uniform(-0.5, 0.5, (count, 1, samples)).astype(np.float32)


def test_whole_signals(engine: Engine, weights: Weights) -> None:
    encode, decode = session(models.encoder_model(weights)), session(models.decoder_model(weights))
    group = engine.config.frame_multiple * engine.hop_length
    for samples, seed in ((1, 0), (group + 3, -(2**33) - 5)):
        audio = signals(engine, samples)
        codes = encode.run(None, {"input_values": audio})
        wanted = engine.encode(audio)
        assert all(np.array_equal(a, b) for a, b in zip(codes, wanted, strict=True))
        given = {"seed": np.array([seed])} if seed and engine.config.noise else {}
        (heard,) = decode.run(None, named(codes) | given)
        assert_close(heard, engine.decode(wanted, seed=seed))


def test_a_seed_for_each_signal(tiny: SNAC) -> None:
    decode = session(models.decoder_model(Weights.of(tiny)))
    codes = [scale.numpy() for scale in tiny.encode(signals(tiny.freeze(), 1000))]
    (heard,) = decode.run(None, named(codes) | {"seed": np.array([3, -4])})
    for i, seed in enumerate((3, -4)):
        alone = tiny.decode([torch.from_numpy(scale[i : i + 1]) for scale in codes], seed=seed)
        assert_close(heard[i : i + 1], alone)


def test_without_noise(tiny: SNAC) -> None:
    decode = session(models.decoder_model(Weights.of(tiny), noise=False))
    codes = [scale.numpy() for scale in tiny.encode(signals(tiny.freeze(), 1000))]
    (heard,) = decode.run(None, named(codes))
    quiet, noisy = (tiny.decode([*map(torch.from_numpy, codes)], noise=choice) for choice in (False, True))
    assert_close(heard, quiet)
    assert (quiet - noisy).abs().max() > 0.01
    assert not {"seed", "noise_gain"} & {value.name for value in decode.get_overridable_initializers()}


def test_pieces_of_any_size(engine: Engine, weights: Weights) -> None:
    """Run as docs/export.md describes: two signals with different starts and lengths."""
    config, group = engine.config, engine.config.frame_multiple * engine.hop_length
    made = [models.encoder_stream(weights), models.decoder_stream(weights)]
    lengths = [2 * group, 3 * group]
    audio = signals(engine, 3 * group)
    audio[0, :, lengths[0] :] = 0
    wanted = engine.encode(audio, lengths)

    def pieces_of_audio(first: int, begin: int, end: int) -> dict[str, np.ndarray]:
        padded = np.pad(audio, ((0, 0), (0, 0), (-first, end)))
        return {"input_values": padded[..., begin - first : end - first]}

    codes = streamed(made[0], lengths, pieces_of_audio, [config.hop_length * stride for stride in config.vq_strides])
    for i, length in enumerate(lengths):
        for scale, want, stride in zip(codes, wanted, config.vq_strides, strict=True):
            assert np.array_equal(scale[i], want[i, : length // config.hop_length // stride])

    def pieces_of_codes(first: int, begin: int, end: int) -> dict[str, np.ndarray]:
        ticks = [config.hop_length * stride for stride in config.vq_strides]
        padded = [np.pad(scale.numpy(), ((0, 0), (0, end // tick))) for scale, tick in zip(wanted, ticks, strict=True)]
        return named([scale[:, begin // tick : end // tick] for scale, tick in zip(padded, ticks, strict=True)])

    extra = {"seed": np.array([5, 5]), "noise_gain": np.ones(2, np.float32)} if config.noise else {}
    (heard,) = streamed(made[1], lengths, pieces_of_codes, [1], extra)
    decoded = engine.decode(wanted, lengths=lengths, seed=5)
    for i, length in enumerate(lengths):
        assert_close(heard[i][0], decoded[i, 0, :length])


def streamed(model, lengths, take, ticks, extra=None) -> list[Arrays]:
    """The results of a stream's graph for each output and signal, in chunks of one, two and three groups."""
    run, facts = session(model), graph.metadata_of(model)
    first, group, late = facts["first_sample"], facts["group_samples"], facts["look_ahead"]
    state = np.zeros((len(lengths), facts["state_size"]), np.float32)
    outputs: list[list[Arrays]] = [[[] for _ in lengths] for _ in ticks]
    position = first
    for groups in piece_sizes():
        if position - late >= max(lengths):
            break
        end = position + groups * group
        known = [length if end > length else ENDLESS for length in lengths]
        places = {"position": np.full(len(lengths), position), "length": np.array(known)}
        *given, state = run.run(None, take(first, position, end) | {"state": state} | places | (extra or {}))
        begin = position - late
        for tick, kept, output in zip(ticks, outputs, given, strict=True):
            for i, length in enumerate(lengths):
                wanted = slice(max(0, -begin) // tick, max(0, length - begin) // tick)
                kept[i].append(output[i, ..., wanted])
        position = end
    return [[np.concatenate(parts, axis=-1) for parts in kept] for kept in outputs]


def piece_sizes() -> Iterator[int]:
    while True:
        yield from (1, 2, 1, 3)


@pytest.mark.parametrize(("stored", "least"), [("fp16", 50), ("int8", 20)])
def test_smaller_weights_decode_almost_the_same(tiny: SNAC, stored: str, least: float) -> None:
    weights = Weights.of(tiny)
    codes = named([scale.numpy() for scale in tiny.encode(signals(tiny.freeze(), 3000))])
    plain, small = models.decoder_model(weights), models.decoder_model(weights, stored)
    (exact,), (close,) = session(plain).run(None, codes), session(small).run(None, codes)
    assert 10 * np.log10(np.square(exact).sum() / np.square(exact - close).sum()) > least
    assert small.ByteSize() < plain.ByteSize()


def test_weights_that_float16_cannot_hold(tiny: SNAC) -> None:
    weights = Weights.of(tiny)
    arrays = weights.arrays | {"decoder.model.1.weight": weights["decoder.model.1.weight"] + np.float32(1e6)}
    weights = dataclasses.replace(weights, arrays=arrays)
    with pytest.raises(ModelError, match="in the range of float16, got 1e\\+06; export this model with fp32"):
        models.decoder_model(weights, "fp16")


def test_a_snake_of_alpha_zero() -> None:
    model = configs.model_of(configs.TINY)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("alpha"):
                value[0, 0] = 0
    codes = model.encode(signals(model.freeze(), 1000))
    (heard,) = session(models.decoder_model(Weights.of(model))).run(None, named([scale.numpy() for scale in codes]))
    assert_close(heard, model.decode(codes))


@settings(max_examples=50)
@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**62), st.integers(0, 5))
def test_noise_is_the_models(seed: int, start: int, number: int) -> None:
    positions = start + np.arange(16)
    (drawn,) = NOISE[number].run(None, {"seed": np.array([[seed]]), "position": positions[None]})
    wanted = position_noise(torch.tensor([seed]), number, torch.from_numpy(positions))
    np.testing.assert_allclose(drawn, wanted, atol=3e-6)


def noise_session(number: int) -> onnxruntime.InferenceSession:
    written = graph.Graph()
    seed = written.input("seed", TensorProto.INT64, ["batch", 1])
    position = written.input("position", TensorProto.INT64, ["batch", "steps"])
    drawn = noise.gaussian(written, noise.noise_key(written, seed, number), position)
    written.output(drawn, "noise", TensorProto.FLOAT, ["batch", "steps"])
    return session(written.model("noise", {}))


NOISE = [noise_session(number) for number in range(6)]


def test_weights_of_another_shape(tiny: SNAC) -> None:
    weights = Weights.of(tiny)
    arrays = weights.arrays | {"decoder.model.1.weight": weights["decoder.model.1.weight"][:, 1:]}
    with pytest.raises(ModelError, match="decoder.model.1.weight: expected 32 input channels"):
        models.decoder_model(dataclasses.replace(weights, arrays=arrays))


def assert_close(heard: np.ndarray, wanted: torch.Tensor) -> None:
    assert heard.shape == wanted.shape
    np.testing.assert_allclose(heard, wanted, atol=1e-5)
