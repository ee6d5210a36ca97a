"""Errors: exit codes, one clear line for each, no files lost."""

from __future__ import annotations

import io
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from commands import TINY, record, refuse, run, succeed, tree, wav_bytes

from opensnac import SNAC
from opensnac.recordings.jobs import Job, Report
from opensnac.recordings.jobs import run as run_jobs


def test_existing_outputs_are_kept_unless_forced_and_others_go_on(here: Path, model: list[str]) -> None:
    record(here / "a.wav")
    record(here / "b.wav")
    (here / "a.snac").write_text("older")
    result = run("encode", "a.wav", "b.wav", *model)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "opensnac: a.snac: exists; --force replaces it",
        "opensnac: 1 of 2 files failed",
    ]
    assert (here / "a.snac").read_text() == "older"
    assert (here / "b.snac").exists()
    succeed("encode", "a.wav", "b.wav", "--force", *model)
    assert (here / "a.snac").read_bytes() == (here / "b.snac").read_bytes()


def test_broken_files_are_listed_and_the_others_done(here: Path, model: list[str]) -> None:
    record(here / "in/good.wav")
    (here / "in/bad.wav").write_text("text")
    (here / "in/empty.wav").touch()
    for jobs in ("1", "2"):
        result = run("encode", "in", "-o", jobs, "--jobs", jobs, *model)
        assert result.exit_code == 1
        *failures, count = result.stderr.splitlines()
        assert sorted(line.split(":")[1] for line in failures) == [" in/bad.wav", " in/empty.wav"]
        assert count == "opensnac: 2 of 3 files failed"
        assert tree(here / jobs) == ["good.snac"]


NAN_WAV = io.BytesIO()
soundfile.write(NAN_WAV, np.float32([0, np.nan, 0]), 8000, "FLOAT", format="WAV")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file (0 bytes)"),
        (b"some text", "not readable as audio"),
        (wav_bytes()[:30], "not readable as audio"),
        (wav_bytes()[:44], "expected at least one sample"),
        (NAN_WAV.getvalue(), "got NaN or infinity"),
    ],
    ids=["empty", "text", "cut header", "no samples", "NaN"],  # bytes as names would hold the time of writing
)
def test_broken_recordings(here: Path, model: list[str], content: bytes, message: str) -> None:
    (here / "a.wav").write_bytes(content)
    said = refuse(1, "encode", "a.wav", *model)
    assert "a.wav: " in said
    assert message in said
    said = refuse(1, "encode", "-", *model, stdin=content)
    assert message in said
    assert tree(here) == ["a.wav"]


def _flip(stream: bytes) -> bytes:
    return stream[:-20] + bytes([stream[-20] ^ 1]) + stream[-19:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda stream: b"", "0 bytes"),
        (lambda stream: b"RIFF" + stream[4:], "apparently a WAV file"),
        (lambda stream: stream[:20], "the stream ends at byte 20"),
        (lambda stream: stream[:-20], "the stream ends at byte"),
        (_flip, "is corrupt"),
        (lambda stream: stream + b"x", "1 byte follows the end"),
    ],
)
@pytest.mark.parametrize("command", ["decode", "info"])
def test_broken_streams(
    here: Path, model: list[str], damage: Callable[[bytes], bytes], message: str, command: str
) -> None:
    stream = succeed("encode", "-", *model, stdin=wav_bytes()).stdout_bytes
    (here / "a.snac").write_bytes(damage(stream))
    said = refuse(1, command, "a.snac", *(model if command == "decode" else ()))
    assert said.startswith("opensnac: a.snac: ")
    assert message in said
    assert tree(here) == ["a.snac"]


def test_salvage_writes_what_precedes_the_damage_and_says_so(here: Path, model: list[str]) -> None:
    record(here / "a.wav", 24000 * 12, 24000)
    succeed("encode", "a.wav", *model)
    (here / "cut.snac").write_bytes((here / "a.snac").read_bytes()[:1000])
    refuse(1, "decode", "cut.snac", *model)
    result = run("decode", "cut.snac", "--salvage", *model)
    assert result.exit_code == 0
    assert result.stderr.startswith("opensnac: cut.snac: only the first 5.5 s were recovered: the stream ends")
    assert soundfile.info("cut.wav").duration == pytest.approx(5.46, abs=0.01)


def test_another_models_file_is_refused_by_both_names(here: Path, model: list[str], folder: Path) -> None:
    other = folder.parent / "other"
    torch.manual_seed(1)
    SNAC(**TINY).save_pretrained(other)
    record(here / "a.wav")
    succeed("encode", "a.wav", *model)
    said = refuse(1, "decode", "a.snac", "-o", "b.wav", "--model", other)
    assert "a.snac: expected the model 'tiny'" in said
    assert "which encoded it, got 'other'" in said


def test_a_model_that_is_not_there(here: Path, model: list[str]) -> None:
    record(here / "a.wav")
    assert "got 'nowhere'" in refuse(1, "encode", "a.wav", "--model", "nowhere")
    succeed("encode", "a.wav", *model)
    said = refuse(1, "decode", "a.snac", "-o", "b.wav")
    assert "a.snac: expected the model 'tiny'" in said
    assert "give its folder or hub id with --model" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "missing.wav", "a.wav"], "missing.wav: no such file or folder"),
        (["encode", "empty"], "empty: expected files that end in .wav, .flac"),
        (["encode", "a.wav", "a.flac"], "a.wav and a.flac would both become a.snac"),
        (["encode", "a.wav", "a.wav"], "would both become a.snac"),
        (["encode", "a.snac"], "a.snac: is both input and output"),
        (["encode", "a.wav", "a.flac", "-o", "b.snac"], "b.snac: expected a folder for the outputs of several inputs"),
        (["encode", "empty", "-o", "b.snac"], "b.snac: expected a folder for the outputs of several inputs"),
        (["encode", "a.wav", "-o", "b.mp3"], "b.mp3: expected a folder, or a file name that ends in .snac"),
        (["encode", "a.wav", "-o", "a.flac"], "a.flac: expected a folder, or a file name that ends in .snac"),
        (["encode", "a.wav", "-", "-o", "out"], "'-' (standard input or output): expected exactly one input, got 2"),
        (["encode", "empty", "-o", "-"], "empty: expected a file for standard output, got a folder"),
        (["encode", "-", "-o", "out"], "out: expected a file name for standard input, ending in .snac"),
        (
            ["decode", "a.snac", "-o", "b.mp3"],
            "b.mp3: expected a folder, or a file name that ends in .wav or .flac or .ogg",
        ),
        (["decode", "a.snac", "-o", "b.wav", "--format", "ogg"], "b.wav: expected a name that ends in .ogg"),
        (["decode", "a.snac", "--format", "mp3"], "--format: expected wav, flac, ogg or raw, got 'mp3'"),
        (["info", "missing.snac"], "missing.snac: no such file or folder"),
        (["encode", "a.wav", "--refine", "2", "--live"], "--refine: expected without --live, got both"),
        (["encode", "a.wav", "--refine", "2", "--together", "9"], "--refine: expected without --together, got both"),
    ],
)
def test_wrong_use(here: Path, arguments: list[str], message: str) -> None:
    for name in ("a.wav", "a.flac"):
        record(here / name)
    (here / "a.snac").touch()
    (here / "empty").mkdir()
    assert message in refuse(2, *arguments)
    assert tree(here) == ["a.flac", "a.snac", "a.wav"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["decode", "a.snac", "--sample-rate", "fast"],
        ["decode", "a.snac", "--sample-rate", "10"],
        ["encode", "a.wav", "--jobs", "0"],
        ["encode", "a.wav", "--colour"],
        ["encode"],
        ["fly"],
        ["train", "missing.toml"],
        ["evaluate", "missing"],
    ],
)
def test_options_that_cannot_be_understood(here: Path, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert result.stderr


def test_a_terminal_gets_no_bytes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(here / "a.wav")
    monkeypatch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    assert "expected a file or a pipe, got a terminal" in refuse(2, "encode", "a.wav", "-o", "-")


def test_unreadable_files_and_unwritable_folders(here: Path, model: list[str]) -> None:
    record(here / "a.wav")
    (here / "file").touch()
    assert "file: File exists" in refuse(1, "encode", "a.wav", "-o", "file/b.snac", *model)
    said = refuse(1, "decode", "a.wav", "-o", "b.wav", *model)
    assert "a.wav: expected a .snac stream" in said


def test_unexpected_errors_are_one_line(here: Path, model: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("surprise")

    record(here / "a.wav")
    monkeypatch.setattr("opensnac.streaming.streams.StreamEncoder.push", fail)
    said = refuse(1, "encode", "a.wav", *model)
    assert said == "opensnac: a.wav: unexpected ZeroDivisionError: surprise (OPENSNAC_DEBUG=1 shows where)\n"
    monkeypatch.setenv("OPENSNAC_DEBUG", "1")
    assert "Traceback" in run("encode", "a.wav", *model).stderr


def test_an_interrupt_stops_all_and_leaves_nothing(
    here: Path, model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    record(here / "a.wav")
    monkeypatch.setattr("opensnac.bitstream.Writer.close", interrupted)
    said = refuse(130, "encode", "a.wav", *model)
    assert said == "opensnac: interrupted; finished outputs are kept, no partial ones\n"
    assert tree(here) == ["a.wav"]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_stopped_batch_starts_no_more_jobs(workers: int) -> None:
    jobs = [Job(Path(str(number)), None) for number in range(50)]
    begun = []

    def work(job: Job, report: Report) -> None:
        begun.append(job)
        if job is jobs[4]:
            signal.raise_signal(signal.SIGINT)
        for _ in range(20):
            time.sleep(0.002)
            report(0.5)

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, work, workers)
    assert jobs[4] in begun
    assert len(begun) <= 5 + workers
