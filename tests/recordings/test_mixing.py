"""Channels that cancel each other are detected and reported."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from opensnac.errors import AudioError
from opensnac.recordings.mixing import mix_down
from opensnac.recordings.preprocessing import Preprocessing, Preprocessor
from opensnac.recordings.remarks import RecordingWarning
from opensnac.recordings.source import Source
from opensnac.training.sources import Place, Recording, read_mono

RATE = 24000
VOICE = (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
OTHER = (0.1 * np.random.default_rng(1).standard_normal(RATE)).astype(np.float32)


def taken(samples: np.ndarray, **preprocessing: bool | float) -> tuple[np.ndarray, list[str]]:
    content = io.BytesIO()
    soundfile.write(content, samples.T, RATE, "FLOAT", format="WAV")
    with Source(content) as source:
        preprocessor = Preprocessor(source, RATE, Preprocessing(**preprocessing))  # type: ignore[arg-type]
        return np.concatenate(list(preprocessor.blocks()), axis=1), list(preprocessor.remarks)


@pytest.mark.parametrize("samples", [[VOICE, VOICE], [VOICE, OTHER], [VOICE, 0 * VOICE], [VOICE, OTHER, VOICE]])
def test_channels_that_do_not_cancel_are_averaged(samples: list[np.ndarray]) -> None:
    stereo = np.stack(samples)
    mono, remarks = taken(stereo, mono=True)
    assert remarks == []
    np.testing.assert_array_equal(mono[0], stereo.mean(axis=0).clip(-1, 1))


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_opposite_phase_takes_the_loudest_channel_with_a_remark(share: float, tmp_path: Path) -> None:
    other = np.where(np.arange(RATE) < share * RATE, -1.1 * VOICE, 1.1 * VOICE)
    stereo = np.stack([VOICE, other]).astype(np.float32)
    mono, (remark,) = taken(stereo, mono=True)
    np.testing.assert_array_equal(mono[0], other.clip(-1, 1).astype(np.float32))
    assert f"{share:.0%} of its energy would be 26 dB lower, so only channel 2 was used" in remark
    with pytest.warns(RecordingWarning, match="name: its channels cancel each other"):
        np.testing.assert_array_equal(mix_down(stereo, RATE, "name"), other.astype(np.float32))
    soundfile.write(tmp_path / "a.wav", stereo.T, RATE, "FLOAT")
    with pytest.warns(RecordingWarning, match=r"a\.wav: its channels cancel"):
        read_mono(Recording(Place(tmp_path / "a.wav"), RATE, RATE), RATE)


class Pipe(io.BytesIO):
    """A source that cannot be read twice."""

    def seekable(self) -> bool:
        return False


def from_a_pipe(stereo: np.ndarray, preprocessing: Preprocessing) -> tuple[np.ndarray, list[str]]:
    content = Pipe((20000 * stereo.T).clip(-32768, 32767).astype("<i2").tobytes())
    with Source(content, raw=(RATE, 2), strict=preprocessing.strict) as source:
        preprocessor = Preprocessor(source, RATE, preprocessing)
        return np.concatenate(list(preprocessor.blocks()), axis=1), list(preprocessor.remarks)


def test_a_pipe_of_opposite_channels_is_reported_as_silent() -> None:
    stereo = np.stack([VOICE, -VOICE])
    samples, (remark,) = from_a_pipe(stereo, Preprocessing(mono=True))
    assert not samples.any()
    assert "its channels cancel each other" in remark
    assert remark.endswith("take one of them with --channel")
    with pytest.raises(AudioError, match="its channels cancel each other"):
        from_a_pipe(stereo, Preprocessing(mono=True, strict=True))
    samples, remarks = from_a_pipe(stereo, Preprocessing(channel=2))
    assert remarks == []
    np.testing.assert_allclose(samples[0], -VOICE * 20000 / 32768, atol=1 / 32768)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_chosen_channel_is_unchanged(number: int) -> None:
    channels = np.random.default_rng(0).uniform(-0.4, 0.4, (3, 5000)).astype(np.float32)
    samples, remarks = taken(channels, channel=number)
    assert remarks == []
    np.testing.assert_array_equal(samples, channels[number - 1 : number])
    louder, _ = taken(channels, channel=number, normalize=True)
    assert np.abs(louder).max() == pytest.approx(10 ** (-1 / 20), rel=1e-5)
    with pytest.raises(AudioError, match="expected a channel from 1 to 3, got 4"):
        taken(channels, channel=4)


@pytest.mark.parametrize(
    ("scale", "part"),
    [
        (1 << 15, "--gain -90.31 converts to ±1"),
        (1 << 23, "--gain -138.47 converts"),
        (10, "use --normalize or --gain"),
    ],
)
def test_samples_beyond_full_scale_are_counted(scale: int, part: str) -> None:
    samples = (scale * 0.9 * VOICE / np.abs(VOICE).max())[None].astype(np.float32)
    _, (remark,) = taken(samples)
    assert remark.startswith(f"its peak is {0.9 * scale:.5g} of full scale: ")
    assert "% of its samples are clipped" in remark
    assert part in remark
    for preprocessing in ({"normalize": True}, {"gain_db": -20 * np.log10(scale)}):
        treated, remarks = taken(samples, **preprocessing)
        assert remarks == []
        peak = 10 ** (-1 / 20) if "normalize" in preprocessing else 0.9
        assert np.abs(treated).max() == pytest.approx(peak, rel=1e-5)


def test_silence_is_not_normalised() -> None:
    treated, remarks = taken(np.zeros((2, 100), np.float32), normalize=True, mono=True)
    assert remarks == []
    assert not treated.any()
