"""The configuration refuses impossible values and derives every rate."""

from __future__ import annotations

import subprocess
import sys

import pytest

from opensnac.config import HUB_KEYS, CodecConfig
from opensnac.errors import ConfigError

SPEECH = CodecConfig(
    sampling_rate=24000,
    encoder_dim=48,
    encoder_rates=(2, 4, 8, 8),
    decoder_dim=1024,
    decoder_rates=(8, 8, 4, 2),
    attn_window_size=None,
    vq_strides=(4, 2, 1),
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codebooksize": 4}, "'codebooksize'"),
        ({"sampling_rate": 0}, "sampling_rate: expected an integer of at least 1, got 0"),
        ({"sampling_rate": 24000.0}, "sampling_rate: expected .*, got 24000.0"),
        ({"vq_strides": []}, "vq_strides: expected"),
        ({"vq_strides": [4, 0]}, "vq_strides entry: expected .*, got 0"),
        ({"encoder_rates": [2, 4]}, "got 8 from .* and 512 from"),
        ({"latent_dim": 700}, "latent_dim: expected 768, .* got 700"),
        ({"decoder_dim": 1000}, "decoder_dim: expected a multiple of 16, .* got 1000"),
        ({"attn_window_size": 32, "encoder_dim": 50}, "latent_dim: expected a multiple of 64 with attention, got 800"),
        ({"noise": 1}, "noise: expected true or false, got 1"),
    ],
)
def test_impossible_values_are_named(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CodecConfig.from_dict(SPEECH.to_dict() | {"latent_dim": None} | change)


def test_round_trip_and_rates() -> None:
    assert CodecConfig.from_dict(SPEECH.to_dict()) == SPEECH
    assert SPEECH.to_dict()["latent_dim"] is None
    assert (SPEECH.hop_length, SPEECH.frame_multiple, SPEECH.bits_per_code) == (512, 4, 12)
    assert [SPEECH.num_frames(n) for n in (1, 2048, 2049)] == [4, 4, 8]


def test_importing_opensnac_is_light() -> None:
    code = "import sys, opensnac; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("key", sorted(HUB_KEYS))
def test_keys_that_hubs_add_are_ignored(key: str) -> None:
    with_it = CodecConfig.from_dict(SPEECH.to_dict() | {key: ["anything"]})
    assert with_it == CodecConfig.from_dict(SPEECH.to_dict())
    assert key not in with_it.to_dict()


@pytest.mark.parametrize("key", ["model_typo", "_unknown", "sample_rate", "Architectures"])
def test_other_unknown_keys_stay_errors(key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        CodecConfig.from_dict(SPEECH.to_dict() | {key: 1})
