"""Tokenizing: the codes equal those of `opensnac encode`, files do not depend on workers, broken ones are reported."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from recordings_of import TINY, children, files, sing

from opensnac import SNAC, bitstream
from opensnac.corpus import Corpus, work
from opensnac.corpus.check import check_corpus
from opensnac.corpus.levels import Loudness
from opensnac.corpus.loading import Loaded
from opensnac.corpus.places import Place
from opensnac.corpus.plan import Plan, make_plan
from opensnac.corpus.readers import Tokens
from opensnac.corpus.reading import Found, Loader, ReaderDied, Readers
from opensnac.corpus.settings import ORPHEUS_OFFSET, Settings
from opensnac.corpus.sources import Entry
from opensnac.corpus.stats import write_stats
from opensnac.corpus.store import Store
from opensnac.corpus.tokenize import Totals, tokenize
from opensnac.corpus.work import Job, Worker
from opensnac.errors import ConfigError, OpensnacError
from opensnac.recordings.jobs import UsageError
from opensnac.recordings.transcode import encode_file

Make = Callable[..., Settings]


def make(out: Path | str, settings: Settings, **options: object) -> tuple[Corpus, Totals]:
    totals = tokenize(str(out), settings, **{"workers": 0} | options)  # type: ignore[arg-type]
    return Corpus(str(out)), totals


_model = cache(SNAC.from_pretrained)


def encoded(path: Path, model_folder: Path, mono: bool = False) -> bitstream.Recording:
    """The codes of a file from `opensnac encode`."""
    file = io.BytesIO()
    encode_file(path, file, _model(model_folder), mono=mono)
    file.seek(0)
    return bitstream.read(file)


@pytest.mark.parametrize(
    ("form", "mono"), [("parquet", False), ("webdataset", False), ("bin", False), ("parquet", True)]
)
def test_rows_hold_the_codes_of_encode(
    talks: Path, here: Path, settings: Make, model_folder: Path, form: str, mono: bool, long_one: None
) -> None:
    corpus, totals = make("out", settings(talks, format=form, mono=mono))
    assert (totals.recordings, totals.rows, totals.failed) == (10, 10 if mono else 11, 0)
    for row in (corpus[n] for n in range(len(corpus))):
        stream = encoded(talks / row.facts["id"].partition("#")[0], model_folder, mono)
        assert row.facts["source"] == str(talks / row.facts["id"].partition("#")[0])
        assert (row.facts["num_samples"], row.facts["sampling_rate"]) == (
            stream.num_samples,
            stream.header.original_rate,
        )
        for ours, theirs in zip(corpus.codes(row), stream.codes, strict=True):
            assert np.array_equal(ours, theirs[row.facts["channel"]])
    assert check_corpus("out", sample=10).problems == []


def test_channels_that_cancel_are_mixed_as_encode_does(
    tmp_path: Path, here: Path, settings: Make, model_folder: Path
) -> None:
    folder = tmp_path / "cancelling"
    folder.mkdir()
    one = 0.2 * np.random.default_rng(0).standard_normal(12_000)
    soundfile.write(folder / "a.wav", np.stack([one, -one], axis=1), 24_000)
    corpus, _ = make("out", settings(folder, mono=True))
    stream = encoded(folder / "a.wav", model_folder, mono=True)
    for ours, theirs in zip(corpus.codes(corpus[0]), stream.codes, strict=True):
        assert np.array_equal(ours, theirs[0])
    assert corpus[0].facts["peak"] == pytest.approx(np.abs(one).max(), abs=1e-3)  # one channel, not silence


def test_readers_do_not_change_the_files_and_their_deaths_are_reported(
    talks: Path, here: Path, settings: Make, monkeypatch: pytest.MonkeyPatch, forks: object
) -> None:
    own = settings(talks, shard_megabytes=1.0)
    make("one", own)
    monkeypatch.setitem(work.WINDOW_SECONDS, "cpu", 0.1)
    said: list[object] = []

    def on(event: str, value: object) -> None:
        if event == "died":
            said.append(value)
        elif event == "done" and not said:
            for reader in children():
                os.kill(reader, signal.SIGKILL)

    make("two", own, readers=1, on=on)
    assert said == ["a reader died at shard 0; the shard is read again"]
    assert files(here / "one") == files(here / "two")


def test_a_reader_killed_while_it_sends_is_noticed(talks: Path, forks: object) -> None:
    """Half of its message has arrived; the rest never will."""
    config = SNAC(**TINY).config
    readers = Readers(Loader(Settings((str(talks),)), config), 1)
    found = readers.read([Entry("1", Place(str(talks / "anna/1.wav")))] * 9)
    assert isinstance(next(found), Loaded)
    pool = readers._pool
    for reader in pool._processes:
        os.kill(reader, signal.SIGSTOP)
    os.write(pool._result_queue._writer.fileno(), struct.pack("!i", 1000) + b"half")
    for reader in pool._processes:
        os.kill(reader, signal.SIGKILL)
    with pytest.raises(ReaderDied):
        list(found)


def test_a_shard_that_kills_readers_is_read_without_them(
    talks: Path, here: Path, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Readers, entries: object) -> Iterator[Found]:
        raise ReaderDied
        yield

    said: list[object] = []
    monkeypatch.setattr(Readers, "read", die)
    on = {"on": lambda event, value: said.append(value) if event == "died" else None}
    _, totals = make("out", settings(talks, shard_megabytes=1.0), readers=2, **on)
    assert (len(said), totals.rows) == (2, 11)


@pytest.mark.parametrize("form", ["parquet", "bin"])
def test_finished_work_is_not_repeated(talks: Path, here: Path, settings: Make, form: str) -> None:
    own = settings(talks, format=form)
    make("whole", own)
    plan = make_plan(Store("out"), replace(own, fingerprint=Corpus("whole").facts["fingerprint"]))
    worker = Worker(Job("out"))
    for shard in range(0, plan.shards, 2):
        worker.make(shard)
    (here / "out/data" / f"{plan.name(1)}.parquet").write_bytes(b"of no record: not whole")
    (here / "out/data" / ".x.0123abcd.part").write_bytes(b"half")
    made = []
    make("out", own, on=lambda event, value: made.append(value.shard) if event == "shard" else None)
    assert made == list(range(1, plan.shards, 2))
    assert files(here / "out") == files(here / "whole")


def test_a_finished_corpus_is_left_as_it_is(talks: Path, here: Path, settings: Make) -> None:
    make("out", settings(talks))
    before = files(here / "out")
    make("out", settings(talks), workers=5)
    assert files(here / "out") == before
    with pytest.raises(
        UsageError, match="out: expected an empty folder or one of the same command, got one of `opensnac"
    ):
        make("out", settings(talks, mono=True))


def test_two_runs_exclude_each_other(talks: Path, here: Path, settings: Make) -> None:
    with (
        Store("out").locked(),
        pytest.raises(UsageError, match="out: expected no other run to write here, got one"),
    ):
        make("out", settings(talks))


@pytest.mark.parametrize("form", ["parquet", "bin"])
def test_segments_are_parts_of_the_whole(
    talks: Path, here: Path, settings: Make, model_folder: Path, form: str, long_one: None
) -> None:
    corpus, _ = make("out", settings(talks, segment=0.2, format=form))
    rows = [corpus[n] for n in range(len(corpus))]
    for name in ("anna/2.flac", "anna/deep/4.wav", "cleo.wav", "bert/4.wav"):
        own = [row for row in rows if row.facts["id"].startswith(f"{name}@")]
        stream = encoded(talks / name, model_folder)
        joined = [np.concatenate(scale) for scale in zip(*map(corpus.codes, own), strict=True)]
        assert all(np.array_equal(ours, theirs[0]) for ours, theirs in zip(joined, stream.codes, strict=True))
        assert max(row.facts["seconds"] for row in own) <= 0.2
        assert [row.facts["start"] for row in own] == pytest.approx([0.192 * n for n in range(len(own))])
        assert sum(row.facts["seconds"] for row in own) == pytest.approx(stream.duration, abs=len(own) / 8000)
    assert check_corpus("out", sample=10).problems == []


def test_levels_are_those_of_each_segment(here: Path, settings: Make) -> None:
    samples = np.concatenate([np.full(1536, 0.5), np.zeros(1536), np.full(1536, 1.0)])
    soundfile.write("a.wav", samples, 8000)
    corpus, _ = make("out", settings("a.wav", segment=0.192))
    rows = [corpus[n].facts for n in range(3)]
    assert [row["peak"] for row in rows] == pytest.approx([0.5, 0.0, 1.0], abs=1e-4)
    assert [row["level_db"] for row in rows] == pytest.approx([-6.02, -120, 0], abs=0.01)
    assert [row["clipped"] for row in rows] == [0, 0, 1]


def test_long_and_short_are_left_out(talks: Path, here: Path, settings: Make, long_one: None) -> None:
    corpus, totals = make("out", settings(talks, min_seconds=0.35, max_seconds=0.65))
    assert [corpus[n].facts["id"] for n in range(len(corpus))] == ["anna/1.wav", "bert/2.ogg", "cleo.wav", "dora.wav"]
    assert (totals.left_out, totals.failed) == (6, 0)


@pytest.mark.parametrize("together", [True, False])
def test_silence_is_trimmed_where_asked_for(
    here: Path, settings: Make, model_folder: Path, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not together:
        monkeypatch.setattr("opensnac.corpus.loading.LONGEST_SECONDS", 0.1)
    heard = soundfile.read(sing(here / "heard.wav", 0.5))[0]
    silence = np.zeros(4000)
    soundfile.write("talks.wav", np.concatenate([silence, heard, silence]), 8000)
    soundfile.write("cut.wav", np.concatenate([silence[:800], heard, silence[:800]]), 8000)
    corpus, _ = make("out", settings("talks.wav", trim_silence=-50.0))
    assert corpus[0].facts["start"] == pytest.approx(0.4)
    assert corpus[0].facts["num_samples"] == 5600
    stream = encoded(here / "cut.wav", model_folder)
    assert all(np.array_equal(a, b[0]) for a, b in zip(corpus.codes(corpus[0]), stream.codes, strict=True))


def test_silence_alone_is_a_failure_where_it_is_trimmed(here: Path, settings: Make) -> None:
    soundfile.write("a.wav", np.zeros(4000), 8000)
    corpus, totals = make("out", settings("a.wav", trim_silence=-50.0))
    assert (len(corpus), totals.failed) == (0, 1)
    assert pq.read_table("out/failed.parquet").to_pylist()[0]["reason"] == "expected a sound above -50 dB, got silence"


@pytest.mark.parametrize("rate", [44100, 48000])
def test_loudness_is_that_of_the_standard(here: Path, settings: Make, rate: int) -> None:
    pyloudnorm = pytest.importorskip("pyloudnorm")
    samples = soundfile.read(sing(here / "a.wav", 3.0, rate))[0]
    loudness = Loudness(rate, 1)
    for block in np.array_split(samples[None], 7, axis=1):
        loudness.add(block)
    assert loudness.lufs() == pytest.approx(pyloudnorm.Meter(rate).integrated_loudness(samples), abs=0.1)
    corpus, _ = make("out", settings("a.wav", loudness=-30.0))
    before = 20 * np.log10(np.sqrt(np.mean(samples**2)))
    assert corpus[0].facts["level_db"] - before == pytest.approx(-30 - loudness.lufs(), abs=0.02)


def test_repeated_frames_are_dropped_as_orpheus_does(here: Path, settings: Make, talks: Path) -> None:
    whole, _ = make("whole", settings(talks, tokens="tree"))
    corpus, _ = make("out", settings(talks, tokens="tree", drop_repeated_frames=True))

    def remove_duplicate_frames(tokens: list[int]) -> list[int]:  # the recipe's own loop
        result = tokens[:7]
        for i in range(7, len(tokens), 7):
            if tokens[i] != result[-7]:
                result.extend(tokens[i : i + 7])
        return result

    dropped = 0
    for n in range(len(corpus)):
        expected = remove_duplicate_frames(whole.flat(whole[n]).tolist())
        assert corpus.flat(corpus[n]).tolist() == expected
        dropped += whole[n].num_codes - len(expected)
    assert dropped > 0
    assert check_corpus("out").problems == []


def test_broken_recordings_are_reported_and_the_rest_is_done(broken: Path, here: Path, settings: Make) -> None:
    corpus, totals = make("out", settings("broken"))
    assert [corpus[n].facts["id"] for n in range(len(corpus))] == ["a.wav", "f.wav"]
    assert totals.failed == 4
    failed = {row["id"]: row["reason"] for row in pq.read_table("out/failed.parquet").to_pylist()}
    assert sorted(failed) == ["b.wav", "c.flac", "d.wav", "e.wav"]
    assert failed["d.wav"].startswith("expected finite samples, got NaN or infinity near 0")
    assert check_corpus("out").problems == []


@pytest.mark.parametrize("form", ["parquet", "webdataset", "bin"])
def test_shards_that_are_lost_are_made_again(talks: Path, here: Path, settings: Make, form: str) -> None:
    own = settings(talks, format=form)
    make("out", own)
    before = files(here / "out")
    lost, short = ("tokens.bin", "index.parquet") if form == "bin" else sorted(n for n in before if "data/" in n)[1:3]
    made: list[object] = []

    def on(event: str, value: object) -> None:
        if event in ("again", "shard"):
            made.append(value if event == "again" else value.shard)  # type: ignore[attr-defined]

    (here / "out" / lost).unlink()
    (here / "out" / short).write_bytes(b"half")
    problems = {problem.partition(":")[0] for problem in check_corpus("out").problems}
    assert problems == {f"out/{lost}", f"out/{short}"}
    make("out", own, on=on)
    shards = list(range(len(Corpus("out").facts["shards"]))) if form == "bin" else [1, 2]
    assert made == [(0, 0, len(shards)), *shards]
    assert files(here / "out") == before
    (here / "out/corpus.json").write_text("{")
    with pytest.raises(OpensnacError, match="out/corpus.json: expected JSON, got .* remove it and give the command"):
        make("out", own)


def test_an_empty_corpus_has_statistics(talks: Path, here: Path, settings: Make) -> None:
    make("out", settings(talks, min_seconds=60.0))
    assert "<dt>rows</dt><dd>0</dd>" in Path(write_stats("out")).read_text()


@pytest.mark.parametrize("form", ["parquet", "bin"])
def test_failures_are_retried(broken: Path, here: Path, settings: Make, form: str) -> None:
    own = settings("broken", format=form, shard_megabytes=0.005)
    make("out", own)
    before = files(here / "out")
    told: list[object] = []

    def on(event: str, value: object) -> None:
        if event in ("again", "shard"):
            told.append(value if event == "again" else value.shard)  # type: ignore[attr-defined]

    assert make("out", own, on=on)[1].failed == 4
    assert (told, files(here / "out")) == ([(4, 0, 0)], before)
    sing(broken / "b.wav", 0.2, seed=7)
    told.clear()
    corpus, totals = make("out", own, on=on)
    assert told == [(4, 1, 0), 0]
    assert ([corpus[n].facts["id"] for n in range(3)], totals.failed) == (["a.wav", "b.wav", "f.wav"], 3)
    assert check_corpus("out").problems == []
    for name in ("c.flac", "d.wav", "e.wav"):
        sing(broken / name, 0.2)
    assert make("out", own)[1] == Totals(6, 6, pytest.approx(1.4), sum(map(_codes, make("out", own)[0])), 0, 0)
    assert not (here / "out/failed.parquet").exists()
    assert not (here / "out/work").exists()


def _codes(row: Tokens) -> int:
    return row.num_codes


def test_a_full_disk_stops_the_run_without_partial_files(
    talks: Path, here: Path, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("whole", settings(talks))
    written = 0
    write = pq.ParquetWriter.write_table

    def full(self: pq.ParquetWriter, *arguments: object, **more: object) -> None:
        nonlocal written
        written += 1
        if written > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, *arguments, **more)

    make_plan(Store("out"), replace(settings(talks), fingerprint=Corpus("whole").facts["fingerprint"]))
    with monkeypatch.context() as patched:
        patched.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(OSError, match="No space left on device; finished shards are kept; run") as told:
            make("out", settings(talks))
        assert told.value.filename.startswith("out/data/")
    assert not [name for name in files(here / "out") if name.endswith(".part")]
    assert len(list((here / "out/data").iterdir())) == 4
    make("out", settings(talks))
    assert files(here / "out") == files(here / "whole")


def test_an_object_store_gets_the_same_files(talks: Path, here: Path, settings: Make) -> None:
    for form in ("parquet", "bin"):
        make(f"disk-{form}", settings(talks, format=form))
        make(f"memory://store/{form}", settings(talks, format=form))
        fsspec.filesystem("memory").get(f"/store/{form}", str(here / "copy" / form), recursive=True)
        assert files(here / "copy" / form) == files(here / f"disk-{form}")
    assert len(Corpus("memory://store/parquet")) == 11
    assert check_corpus("memory://store/parquet").problems == []


def test_columns_pass_through_and_licences_are_counted(talks: Path, here: Path, settings: Make) -> None:
    rows = [
        {"path": str(talks / "anna/1.wav"), "text": "one", "age": 30, "seconds": 9.9, "licence": "CC0"},
        {"path": str(talks / "dora.wav"), "text": None, "age": 1.5, "licence": None},
    ]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus, _ = make("out", settings("a.jsonl", licence="CC-BY-4.0"))
    own = {name: corpus[0].facts[name] for name in ("text", "age", "manifest_seconds", "licence", "seconds")}
    assert own == {"text": "one", "age": 30.0, "manifest_seconds": 9.9, "licence": "CC0", "seconds": 0.5}
    assert [corpus[1].facts[name] for name in ("text", "age", "manifest_seconds")] == [None, 1.5, None]
    card = Path("out/README.md").read_text()
    assert "CC-BY-4.0 (0.00 h), CC0 (0.00 h)" in card
    assert "--licence CC-BY-4.0" in card
    assert corpus.facts["fingerprint"] in card


def test_flat_tokens_are_those_of_the_layout(talks: Path, here: Path, settings: Make, model_folder: Path) -> None:
    layout_free, _ = make("codes", settings(talks))
    corpus, _ = make("out", settings(talks, tokens="tree:1000"))
    assert pq.read_schema(next((here / "out/data").iterdir())).field("tokens").type == pa.list_(pa.int32())
    flat = corpus.layout.flatten([torch.from_numpy(code)[None] for code in layout_free.codes(layout_free[3])])
    assert corpus.flat(corpus[3]).tolist() == flat[0].tolist()
    assert corpus.facts["vocabulary"] == [1000, 1000 + 7 * 64]


def test_invalid_settings_are_refused(settings: Make, talks: Path, here: Path) -> None:
    for changes, said in (
        ({"format": "zip"}, "format: expected parquet, webdataset, bin, got 'zip'"),
        ({"tokens": "tree:-1"}, "tokens: expected tree, tree:OFFSET or orpheus, got 'tree:-1'"),
        ({"format": "webdataset", "tokens": "tree"}, "format webdataset: expected all codes"),
        ({"min_seconds": 3.0, "max_seconds": 2.0}, "max-seconds: expected at least min-seconds 3.0, got 2.0"),
    ):
        with pytest.raises(ConfigError, match=said):
            settings(talks, **changes)
    with pytest.raises(ConfigError, match="tokens orpheus: expected a model of strides 4, 2, 1 with 4096 codes each"):
        make("out", settings(talks, tokens="orpheus"))
    assert ORPHEUS_OFFSET == 128266
    assert not (here / "out").exists()


def test_another_model_is_refused(talks: Path, here: Path, settings: Make, model_folder: Path) -> None:
    shutil.copytree(model_folder, here / "model")
    own = replace(settings(talks), model="model")
    make_plan(Store("out"), replace(own, fingerprint="0" * 64))
    with pytest.raises(UsageError, match="same command"):
        make("out", own)
    with pytest.raises(OpensnacError, match="model: expected the weights 0000000000000000 of the plan in out"):
        Worker(Job("out"))


def test_check_finds_changes(talks: Path, here: Path, settings: Make) -> None:
    shutil.copytree(talks, "talks")
    make("out", settings("talks"))
    sing(here / "talks/dora.wav", 0.5, seed=99)
    (here / "talks/cleo.wav").unlink()
    problems = "\n".join(check_corpus("out", sample=10).problems)
    assert "row dora.wav: expected the codes of talks/dora.wav, got others; was the recording changed?" in problems
    assert "cleo.wav: expected a readable recording, as it was when encoded" in problems
    shard = next((here / "out/data").iterdir())
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    (problem,) = check_corpus("out").problems
    assert "remove it; the command that made the corpus writes it again" in problem


def test_a_plan_reads_one_shard_at_a_time(talks: Path, here: Path, settings: Make) -> None:
    plan = make_plan(Store("out"), settings(talks))
    assert plan.starts[-1] == plan.recordings == 10
    assert [len(plan.entries(n)) for n in range(plan.shards)] == np.diff(plan.starts).tolist()
    again = Plan(Store("out"))
    assert [again.name(n) for n in range(again.shards)] == [plan.name(n) for n in range(plan.shards)]
