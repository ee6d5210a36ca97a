"""A tiny model, and a small corpus of recordings of every kind but broken ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from recordings_of import TINY, sing

from opensnac import SNAC
from opensnac.corpus.settings import Settings


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    SNAC(**TINY).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten recordings: rates, channels, formats and folders differ."""
    folder = tmp_path_factory.mktemp("corpus") / "talks"
    for n, (name, seconds, rate, channels) in enumerate(
        [
            ("anna/1.wav", 0.5, 8000, 1),
            ("anna/2.flac", 0.7, 8000, 1),
            ("anna/3.wav", 0.31, 16000, 1),
            ("anna/deep/4.wav", 0.31, 11025, 1),
            ("bert/1.wav", 0.9, 8000, 2),
            ("bert/2.ogg", 0.4, 16000, 1),
            ("bert/3.wav", 1.2, 8000, 1),
            ("bert/4.wav", 0.01, 8000, 1),
            ("cleo.wav", 0.6, 44100, 1),
            ("dora.wav", 0.5, 8000, 1),
        ]
    ):
        sing(folder / name, seconds, rate, channels, seed=n)
    (folder / ".hidden.wav").write_bytes(b"not looked at")
    (folder / "notes.txt").write_text("not looked at")
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """One thread, as in a worker: several would wait for each other on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def settings(model_folder: Path) -> Callable[..., Settings]:
    def make(*inputs: Path | str, **changes: object) -> Settings:
        shards = {"shard_megabytes": 0.03} | changes
        return Settings(inputs=tuple(map(str, inputs)), model=str(model_folder), **shards)  # type: ignore[arg-type]

    return make


@pytest.fixture
def long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat recordings from half a second on as long."""
    monkeypatch.setattr("opensnac.corpus.loading.LONGEST_SECONDS", 0.5)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with two good recordings among five that are not."""
    folder = tmp_path / "broken"
    sing(folder / "a.wav", 0.3)
    sing(folder / "f.wav", 0.3, seed=1)
    (folder / "b.wav").write_bytes(b"")
    (folder / "c.flac").write_bytes(b"fLaC and nothing else")
    soundfile.write(folder / "d.wav", np.array([0.1, np.nan], np.float32), 8000, subtype="FLOAT")
    soundfile.write(folder / "e.wav", np.zeros(0, np.float32), 8000)
    return folder
