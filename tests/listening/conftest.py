"""Synthetic results of an evaluation with two kept clips, and the test built from them."""

import json
from pathlib import Path

import numpy as np
import pytest

from opensnac.listening.build import build
from opensnac.recordings import audio

RATE = 24_000
CODECS = {"opensnac": "opensnac", "lyra:3.2@/models/lyra": "lyra:3.2@lyra"}


@pytest.fixture
def results(tmp_path) -> Path:
    """Noise and tones: 1 s each, the codecs' versions 10 dB lower and higher."""
    folder = tmp_path / "results"
    generator = np.random.default_rng(0)
    kept = []
    for index, label in enumerate(("music", "speech")):
        clip = 0.1 * generator.standard_normal(RATE)
        files = {}
        for codec, gain in (("original", 1), ("opensnac", 0.3), ("lyra:3.2@/models/lyra", 3)):
            files[codec] = f"{index}{codec[:2]}.flac"
            noisy = clip + (codec != "original") * 0.05 * generator.standard_normal(RATE)
            audio.write(folder / "audio" / files[codec], gain * noisy[None] / 2, RATE)
        kept.append({"clip": f"{label}/{index}.wav", "label": label, "files": files})
    codecs = [{"codec": codec, "name": CODECS.get(codec, codec)} for codec in ("original", *CODECS)]
    facts = {"created": "2030-01-01", "command": "opensnac evaluate", "versions": {}, "codecs": codecs, "kept": kept}
    (folder / "results.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def built(results, tmp_path) -> Path:
    build(results, tmp_path / "test")
    return tmp_path / "test"


@pytest.fixture
def key(built) -> dict:
    return json.loads((built / "key.json").read_text())
