"""Lyra: missing models are named; with the models (OPENSNAC_LYRA names their folder) rates and alignment are right."""

import os

import numpy as np
import pytest

from opensnac.evaluation.codecs import by_name
from opensnac.evaluation.metrics import METRICS

RATE = 24_000


@pytest.fixture
def models() -> str:
    folder = os.environ.get("OPENSNAC_LYRA")
    if folder is None:
        pytest.skip("OPENSNAC_LYRA names no folder of Lyra v2's models")
    if (reason := by_name(f"lyra:3.2@{folder}").missing()) is not None:
        pytest.skip(reason)
    return folder


def test_missing_models_are_named_with_their_source(tmp_path):
    if "ai-edge-litert" in (reason := by_name("lyra:3.2").missing()):
        pytest.skip(reason)
    assert "fetch soundstream_encoder.tflite, quantizer.tflite, lyragan.tflite from github.com/google/lyra" in reason
    assert "as in lyra:3.2@FOLDER" in reason
    (tmp_path / "quantizer.tflite").write_bytes(b"")
    reason = by_name(f"lyra:3.2@{tmp_path}").missing()
    assert reason.startswith(f"{tmp_path}: soundstream_encoder.tflite, lyragan.tflite not found")


@pytest.mark.parametrize(("kilobits", "packet"), [("3.2", 8), ("6", 15), ("9.2", 23)])
def test_bytes_are_packets_and_audio_is_aligned(models, kilobits, packet, clip):
    coded = by_name(f"lyra:{kilobits}@{models}")(clip, RATE)
    assert coded.num_bytes == 60 * packet  # 1.2 s in frames of 20 ms
    assert coded.audio.shape == clip.shape
    shifts = (-RATE // 100, 0, RATE // 100)
    scores = [METRICS["stoi"].measure(clip, np.roll(coded.audio, shift), RATE) for shift in shifts]
    assert np.argmax(scores) == 1, scores
