"""EnCodec, DAC and Mimi through the code that loads published weights, here tiny random ones from a folder."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opensnac.evaluation.codecs import by_name
from opensnac.evaluation.codecs.transformers import pack, unpack
from opensnac.evaluation.metrics import package_version

RATE = 24_000


def tiny(family: str):
    transformers = pytest.importorskip("transformers", reason="pip install 'opensnac[peers]'")
    if family == "encodec":
        config = transformers.EncodecConfig(
            num_filters=2, hidden_size=8, codebook_size=16, target_bandwidths=[0.3, 0.6], num_lstm_layers=1
        )
        return transformers.EncodecModel(config)
    if family == "dac":
        config = transformers.DacConfig(
            encoder_hidden_size=2, decoder_hidden_size=16, n_codebooks=4, codebook_size=16, codebook_dim=2,
            downsampling_ratios=[2, 4, 5, 8], sampling_rate=RATE,
        )  # fmt: skip
        return transformers.DacModel(config)
    config = transformers.MimiConfig(
        num_filters=2, hidden_size=16, codebook_size=16, codebook_dim=8, vector_quantization_hidden_dimension=8,
        num_quantizers=4, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
        intermediate_size=16, upsample_groups=16,
    )  # fmt: skip
    return transformers.MimiModel(config)


@pytest.fixture(scope="module", params=["encodec", "dac", "mimi"])
def peer(request, tmp_path_factory):
    """Family and a folder of random weights, as `save_pretrained` writes it and the hub holds it."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny(request.param).save_pretrained(folder)
    return request.param, folder


RATES = {"encodec": (0.3, 300), "dac": (0.6, 600), "mimi": (0.1, 100)}  # kb/s asked for, b/s of codes


def test_a_clip_goes_through_packed_codes_and_comes_back(peer, clip):
    family, folder = peer
    kilobits, bits_per_second = RATES[family]
    codec = by_name(f"{family}:{kilobits}@{folder}")
    assert codec.missing() is None
    coded = codec(clip, RATE)
    assert coded.audio.shape == clip.shape
    assert np.isfinite(coded.audio).all()
    frames = coded.codes[0].size
    assert frames == np.ceil(1.2 * codec.frame_rate)
    assert len(coded.codes) == codec.num_codebooks == bits_per_second / codec.frame_rate / 4
    assert coded.num_bytes == np.ceil(frames * len(coded.codes) * 4 / 8)
    assert f"{codec.num_codebooks} codebooks, weights " in codec.version()
    other_rate = codec(np.repeat(clip, 2)[:-1], 2 * RATE)
    assert other_rate.audio.shape == (2 * len(clip) - 1,)


def test_a_rate_between_codebooks_is_refused_with_the_possible_rates(peer):
    family, folder = peer
    assert "expected a multiple of" in by_name(f"{family}:0.47@{folder}").missing()


def test_missing_weights_are_reported(peer, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    family, _ = peer
    assert f"as in {family}:1@FOLDER" in by_name(f"{family}:1@{tmp_path}").missing()


def test_without_the_package_it_says_how_to_install_it():
    if package_version("transformers") is not None:
        pytest.skip("transformers is installed")
    assert by_name("mimi:1.1").missing() == "transformers not installed; run: pip install 'opensnac[peers]'"


@given(st.integers(1, 12).flatmap(lambda bits: st.tuples(st.just(bits), st.integers(0, 2**32), st.integers(1, 40))))
def test_packing_round_trips_at_the_expected_size(case):
    bits, seed, frames = case
    codebooks = -(-8 // bits)  # a frame of at least 8 bits
    codes = np.random.default_rng(seed).integers(0, 2**bits, (codebooks, frames))
    stream = pack(codes, bits)
    assert len(stream) == -(-codebooks * frames * bits // 8)
    assert np.array_equal(unpack(stream, codebooks, bits), codes)
