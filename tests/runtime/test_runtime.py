"""The codec on ONNX Runtime: the same codes, files and guarantees as PyTorch's, and clear errors for bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import configs
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from opensnac import SNAC, cli
from opensnac.errors import AudioError, BackendError, CodesError, ModelError, OpensnacError
from opensnac.export import folder
from opensnac.export.weights import Weights
from opensnac.recordings import audio, transcode
from opensnac.recordings.model_cache import ModelCache
from opensnac.runtime import Codec
from opensnac.runtime.graphs import Model

ROOT = Path(__file__).parents[2]
MODEL = "speech_24khz_tiny"
RECORDING = ROOT / "examples" / "lj_speech.flac"


def codec_of(model: SNAC) -> Codec:
    weights = Weights.of(model)
    return Codec(Model(weights.name, weights.fingerprint, weights.config, weights, "fp32"), threads=1)


@pytest.fixture(scope="module", params=configs.SMALL)
def pair(request: pytest.FixtureRequest) -> tuple[SNAC, Codec]:
    model = configs.model_of(configs.SMALL[request.param])
    return model, codec_of(model)


@pytest.fixture(scope="module")
def codec(tiny: SNAC) -> Codec:
    return codec_of(tiny)


def noise(samples: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(samples).uniform(-0.5, 0.5, (count, 1, samples)).astype(np.float32)


@pytest.mark.parametrize("samples", [1, 999, 8001])
def test_codes_and_audio_are_pytorchs(pair: tuple[SNAC, Codec], samples: int) -> None:
    model, codec = pair
    audio = noise(samples, 2)
    codes, wanted = codec.encode(audio), model.encode(audio)
    assert all(np.array_equal(a, b) for a, b in zip(codes, wanted, strict=True))
    heard = codec.decode(codes, samples, seed=-3)
    np.testing.assert_allclose(heard, model.decode(wanted, samples, seed=-3), atol=1e-5)
    np.testing.assert_allclose(codec.decode(codes, noise=False), model.decode(wanted, noise=False), atol=1e-5)
    assert heard.dtype == np.float32


@settings(max_examples=15)
@given(st.data())
def test_a_stream_gives_what_the_whole_gives(codec: Codec, data: st.DataObject) -> None:
    audio = noise(data.draw(st.integers(1, 2500), "samples"), 2)
    whole = codec.encode(audio)
    encoder, parts = codec.stream_encoder(2), []
    for piece in cut(data, audio.shape[2]):
        parts.append(encoder.push(audio[:, 0, piece]))
    parts.append(encoder.flush())
    codes = [np.concatenate(scale, axis=1) for scale in zip(*parts, strict=True)]
    assert all(np.array_equal(a, b) for a, b in zip(codes, whole, strict=True))

    stride = codec.config.coarse_stride
    decoder, heard = codec.stream_decoder(2, seed=9), []
    for piece in cut(data, codes[0].shape[1] * codec.config.vq_strides[0] // stride):
        if piece.stop > piece.start:
            frames = slice(piece.start * stride, piece.stop * stride)
            taken = [
                scale[:, frames.start // s : frames.stop // s]
                for scale, s in zip(codes, codec.config.vq_strides, strict=True)
            ]
            heard.append(decoder.push(taken))
    heard.append(decoder.flush(audio.shape[2]))
    wanted = codec.decode(codes, audio.shape[2], seed=9)
    np.testing.assert_allclose(np.concatenate(heard, axis=1), wanted[:, 0], atol=1e-6)


def cut(data: st.DataObject, length: int) -> list[slice]:
    places = sorted(data.draw(st.lists(st.integers(0, length), max_size=5), "cuts"))
    return [slice(start, stop) for start, stop in zip([0, *places], [*places, length], strict=True)]


def test_codes_come_as_soon_as_they_are_determined(codec: Codec) -> None:
    encoder = codec.stream_encoder()
    group = codec.config.frame_multiple * codec.config.hop_length
    before = encoder.push(noise(group + encoder.look_ahead - 1)[:, 0])
    assert before[0].shape[1] == 0
    assert encoder.push(noise(1)[:, 0])[0].shape[1] == codec.config.frame_multiple // codec.config.vq_strides[0]


@pytest.mark.parametrize("stored", ["fp32", "fp16"])
def test_an_exported_folder_runs(tiny: SNAC, codec: Codec, tmp_path: Path, stored: str) -> None:
    folder.export(Weights.of(tiny), tmp_path / "out", [stored], stream=True)
    exported = Codec.from_pretrained(tmp_path / "out", weights=stored, threads=1)
    assert (exported.name, exported.fingerprint, exported.config) == (codec.name, codec.fingerprint, codec.config)
    audio = noise(3000)
    codes, wanted = exported.encode(audio), codec.encode(audio)
    if stored == "fp32":
        assert all(np.array_equal(a, b) for a, b in zip(codes, wanted, strict=True))
    np.testing.assert_allclose(exported.decode(wanted), codec.decode(wanted), atol=1e-5 if stored == "fp32" else 0.02)


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (np.zeros(100, np.float32), "expected shape \\(batch, 1, samples\\), got \\(100,\\)"),
        (np.zeros((1, 2, 100), np.float32), "got \\(1, 2, 100\\)"),
        (np.zeros((1, 1, 0), np.float32), "ended before its first sample"),
        (np.zeros((1, 1, 10), np.int16), "expected floating-point.*got int16"),
        (np.full((1, 1, 10), np.nan, np.float32), "got NaN or infinity"),
        ([0.0], "expected an array.*got list"),
    ],
)
def test_invalid_audio(codec: Codec, audio: object, words: str) -> None:
    with pytest.raises(AudioError, match=words):
        codec.encode(audio)  # type: ignore[arg-type]


def test_codes_that_do_not_fit(codec: Codec) -> None:
    good = codec.encode(noise(500))
    bad = {
        "expected a list of 3.*got 2 arrays": good[:2],
        "scale 1: expected 0 to 63, got 64 to 64": [good[0], np.full_like(good[1], 64), good[2]],
        "scale 0: expected 0 to 63, got -1 to -1": [np.full_like(good[0], -1), *good[1:]],
        "expected an integer array.*got shape .*float64": [scale.astype(float) for scale in good],
        "expected \\(batch, frames / stride\\)": [good[0], good[1], good[2][:, 1:]],
        "expected at least one frame": [scale[:, :0] for scale in good],
    }
    for words, codes in bad.items():
        with pytest.raises(CodesError, match=words):
            codec.decode(codes)
    with pytest.raises(CodesError, match="num_samples: expected 0 to .*, got 99999"):
        codec.decode(good, 99999)


def test_misuse_of_streams(codec: Codec) -> None:
    encoder, decoder = codec.stream_encoder(2), codec.stream_decoder()
    with pytest.raises(OpensnacError, match="expected samples or codes of 2 streams, got 1"):
        encoder.push(noise(5)[:, 0])
    with pytest.raises(AudioError, match="before its first sample"):
        encoder.flush()
    with pytest.raises(CodesError, match="got no codes"):
        decoder.flush()
    decoder.push(codec.encode(noise(500)))
    decoder.flush()
    with pytest.raises(OpensnacError, match="the stream has ended"):
        decoder.flush()


def test_missing_models(tiny: SNAC, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="got 'nothing'"):
        Codec.from_pretrained("nothing")
    folder.export(Weights.of(tiny), tmp_path / "whole")
    with pytest.raises(ModelError, match="encoder_stream.onnx: no such file; write it with opensnac export --stream"):
        Codec.from_pretrained(tmp_path / "whole").encode(noise(5))
    (tmp_path / "whole/onnx/encoder_stream.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="encoder_stream.onnx cannot be loaded by ONNX Runtime"):
        Codec.from_pretrained(tmp_path / "whole").encode(noise(5))
    (tmp_path / "whole/onnx/encoder_model.onnx").replace(tmp_path / "whole/onnx/encoder_stream.onnx")
    with pytest.raises(ModelError, match="encoder_stream: expected a streaming graph"):
        Codec.from_pretrained(tmp_path / "whole").encode(noise(5))
    (tmp_path / "whole/opensnac.json").write_text("{}")
    with pytest.raises(ModelError, match="opensnac.json: expected a file from opensnac export"):
        Codec.from_pretrained(tmp_path / "whole")


def test_weights_that_do_not_fit(tiny: SNAC, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"encoder_dim": 8}))
    with pytest.raises(ModelError, match="expected .* of shape .*, got"):
        Codec.from_pretrained(tmp_path).encode(noise(5))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="model.safetensors: expected readable weights"):
        Codec.from_pretrained(tmp_path)


def test_without_pytorch_files_are_the_same(tmp_path: Path) -> None:
    """In processes where PyTorch cannot be imported, as where it is not installed (.ci/package has such a place)."""
    samples, rate = audio.read(RECORDING)
    soundfile.write(tmp_path / "a.wav", samples[0, :rate], rate)
    without("encode", tmp_path / "a.wav", "-o", tmp_path / "without.snac", "--model", MODEL)
    engine = SNAC.from_pretrained(MODEL).freeze()
    transcode.encode_file(tmp_path / "a.wav", tmp_path / "with.snac", engine)
    assert (tmp_path / "without.snac").read_bytes() == (tmp_path / "with.snac").read_bytes()

    without("decode", tmp_path / "with.snac", "-o", tmp_path / "without.wav")
    transcode.decode_file(tmp_path / "with.snac", tmp_path / "with.wav", engine)
    heard, wanted = (soundfile.read(tmp_path / name, dtype="int16")[0] for name in ("without.wav", "with.wav"))
    assert np.abs(heard.astype(int) - wanted).max() <= 1
    assert np.abs(wanted).max() > 1000


def test_features_that_need_pytorch_say_so() -> None:
    done = without("encode", RECORDING, "-o", "-", "--runtime", "torch", code=1)
    assert done.stderr == "opensnac: torch is not installed; run: pip install opensnac\n"
    done = without("encode", RECORDING, "-o", "-", "--reduced", code=1)
    assert "expected float32 on cpu, got products in bfloat16" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reduced": True}, "expected float32 on cpu, got products in bfloat16"),
        ({"device": "cuda"}, "expected float32 on cpu, got device 'cuda'"),
        ({"runtime": "mlx"}, "runtime: expected torch or onnx, got 'mlx'"),
    ],
)
def test_unsupported_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(BackendError, match=words):
        ModelCache(**{"runtime": "onnx"} | options)  # type: ignore[arg-type]


def test_batches_are_for_pytorch(tmp_path: Path) -> None:
    arguments = ["encode", str(RECORDING), "-o", str(tmp_path / "a.snac"), "--runtime", "onnx", "--together", "5"]
    done = CliRunner().invoke(cli.app, arguments)
    assert (done.exit_code, [*tmp_path.iterdir()]) == (1, [])
    assert "--together: expected runtime torch, got onnx" in done.stderr


def without(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The command, in a process where PyTorch cannot be imported."""
    program = "import sys; sys.modules['torch'] = None; from opensnac.cli import main; main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done
