"""Batched recordings get the same codes and files as single ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from opensnac import SNAC
from opensnac.cli import app
from opensnac.engine.batches import encode_clips, group_by_length
from opensnac.errors import AudioError, ConfigError
from opensnac.recordings.grouping import Batcher
from opensnac.recordings.model_cache import ModelCache

CONFIG = {
    "sampling_rate": 8000,
    "encoder_dim": 4,
    "encoder_rates": [2, 4],
    "decoder_dim": 16,
    "decoder_rates": [4, 2],
    "attn_window_size": None,
    "codebook_size": 64,
    "vq_strides": [2, 1],
}


@pytest.fixture(scope="module")
def model() -> SNAC:
    torch.manual_seed(0)
    return SNAC(**CONFIG).eval()


@given(lengths=st.lists(st.integers(1, 100_000), max_size=30), at_most=st.integers(1, 200_000))
def test_groups_waste_little_and_are_small(lengths: list[int], at_most: int) -> None:
    groups = group_by_length(lengths, at_most, padding=0.2)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        size = len(group) * max(lengths[i] for i in group)
        assert size <= at_most or len(group) == 1
        assert size - sum(lengths[i] for i in group) <= 0.2 * size


def test_equal_lengths_fill_a_group() -> None:
    assert group_by_length([5] * 7, 15) == [[0, 1, 2], [3, 4, 5], [6]]


def test_batched_clips_get_the_codes_of_single_ones(model: SNAC) -> None:
    clips = [0.3 * torch.randn(1, 1, n) for n in (4000, 1, 3900, 4100, 17, 16, 20_000, 3999)]
    together = dict(encode_clips(model, clips, batch_seconds=2.0))
    for i, clip in enumerate(clips):
        alone = model.encode(clip)
        assert all(torch.equal(a, b) for a, b in zip(alone, together[i], strict=True))
    with pytest.raises(AudioError, match=r"clip 1: expected a tensor \(1, 1, samples\), got \(3, 5\)"):
        list(encode_clips(model, [clips[0], torch.zeros(3, 5)]))


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Short ones of all kinds, one long, one broken."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "recordings"
    (folder / "sub").mkdir(parents=True)
    for n, (seconds, rate, channels) in enumerate([(0.5, 8000, 1), (0.52, 11025, 2), (0.25, 16000, 2), (31, 8000, 1)]):
        samples = 0.2 * generator.standard_normal((round(seconds * rate), channels))
        soundfile.write(folder / "sub" / f"{n}.wav", samples, rate)
        soundfile.write(folder / f"again_{n}.flac", 8 * samples, rate)  # beyond full scale too
    whole = (folder / "again_0.flac").read_bytes()
    (folder / "broken.flac").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.mark.parametrize("mono", [False, True])
def test_batching_a_folder_gives_the_same_files(model: SNAC, recordings: Path, tmp_path: Path, mono: bool) -> None:
    model.save_pretrained(tmp_path / "model")
    written = {}
    for out, together, jobs in (("alone", "0", "1"), ("grouped", "4", "2")):
        options = ["--model", str(tmp_path / "model"), "--together", together, "--jobs", jobs, *["--mono"] * mono]
        result = CliRunner().invoke(app, ["encode", str(recordings), "-o", str(tmp_path / out), *options])
        assert result.exit_code == 1  # the broken one
        assert "broken.flac" in result.output
        assert "1 of 9 files failed" in result.output
        files = sorted((tmp_path / out).rglob("*.snac"))
        written[out] = {str(file.relative_to(tmp_path / out)): file.read_bytes() for file in files}
    assert len(written["alone"]) == 8
    assert written["alone"] == written["grouped"]


def test_only_short_files_are_batched(model: SNAC, recordings: Path) -> None:
    files = sorted(recordings.rglob("*.*"))
    batches = Batcher(model, files, 4.0)
    taken = {file.name for file in files if batches.pop(file) is not None}
    assert taken == {"0.wav", "1.wav", "2.wav", "again_0.flac", "again_1.flac", "again_2.flac"}


def test_without_memory_for_a_batch_clips_are_encoded_singly(
    model: SNAC, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("out of memory")

    engine = model.freeze()
    monkeypatch.setattr(engine, "encode", refuse)
    files = sorted(recordings.rglob("*.wav"))
    batches = Batcher(engine, files, 4.0)
    assert [batches.pop(file) for file in files] == [None] * len(files)


def test_a_missing_device_is_named() -> None:
    with pytest.raises(ConfigError, match="device: expected .*, got 'tpu:9'"):
        ModelCache(device="tpu:9")
