"""Validation clips come from many folders, and scores are also reported by label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from miniature import RATE, entries, values_of, write_corpus

from opensnac.evaluation.metrics import METRICS
from opensnac.training import loop, validation
from opensnac.training.config import Source, TrainConfig
from opensnac.training.sources import Place, Recording, find_recordings
from opensnac.training.validation import find_clips, spread


def recordings(**folders: int) -> list[Recording]:
    return [
        Recording(Place(Path(name) / f"{i}.wav"), RATE, RATE) for name, count in folders.items() for i in range(count)
    ]


def test_every_folder_is_used_before_one_is_used_twice() -> None:
    found = recordings(many=50, few=2, one=1)
    assert [str(recording.place) for recording in spread(found, 6)] == [
        "many/0.wav", "many/16.wav", "many/33.wav", "few/0.wav", "few/1.wav", "one/0.wav",
    ]  # fmt: skip
    assert len(spread(found, 100)) == 53
    assert spread([], 6) == []


def test_with_more_folders_than_clips_they_are_chosen_evenly() -> None:
    found = recordings(**{f"speaker{i:02}": 2 for i in range(21)})
    assert [recording.place.path.parent.name[-2:] for recording in spread(found, 5)] == ["00", "05", "10", "15", "20"]


def test_a_label_is_the_first_folder_below_the_source(tmp_path: Path) -> None:
    for name in ("top.wav", "czech/a.wav", "dutch/anna/b.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, np.zeros(RATE), RATE)
    (tmp_path / "list.csv").write_text("path\nczech/a.wav\ntop.wav\n")
    labels = [recording.label for recording in find_recordings([Source(str(tmp_path))])[0]]
    assert labels == ["czech", "dutch", ""]
    assert [recording.label for recording in find_recordings([Source(str(tmp_path / "list.csv"))])[0]] == ["czech", ""]
    assert [clip.label for clip in find_clips([Source(str(tmp_path / "dutch"))], RATE)] == ["anna"]


@pytest.mark.parametrize("labels", [["a", "b"], ["a"]])
def test_the_log_has_qualities_by_label_where_there_are_several(tmp_path: Path, labels: list[str]) -> None:
    for label in labels:
        write_corpus(tmp_path / "corpus" / label)
    values = values_of(tmp_path / "corpus", 3, quantize_from=1, validate_every=2)
    values["data"]["valid"] = values["data"]["train"]
    out = loop.train(TrainConfig.from_dict(values), tmp_path / "run")
    entry = next(entry for entry in entries(out) if "valid_mel" in entry)
    assert ("valid_by_label" in entry) == (len(labels) > 1)
    if len(labels) > 1:
        assert entry["valid_by_label"]["a"]["mel"] == pytest.approx(entry["valid_mel"], rel=1e-3), (
            "the same clips twice"
        )
        assert entry["valid_by_label"].keys() == set(labels)


def test_validation_and_the_report_share_metrics() -> None:
    """A metric in both is measured by the same function."""
    original, copy = torch.randn(2, 1, 24000, generator=torch.Generator().manual_seed(0)) / 10
    row = validation._quality(copy[None], original[None], 24000)
    assert {"stft_distance", "si_sdr"} <= set(row)
    for name in set(row) & set(METRICS):
        assert row[name] == METRICS[name].measure(original[0].numpy(), copy[0].numpy(), 24000)
