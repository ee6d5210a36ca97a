"""Unusual names, folders and concurrent runs: nothing is lost silently, nothing overwritten by accident."""

from __future__ import annotations

import json
import os
import threading
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest
from commands import record, refuse, run, say_into, succeed, tree


def test_names_with_any_character_get_distinct_outputs(here: Path, model: list[str]) -> None:
    names = ["new\nline", "-dash", "dot.", " space ", "caf\u00e9", "cafe\u0301", "%s", "a;b", "*"]
    for name in names:
        record(here / "in" / f"{name}.wav", 500)
    succeed("encode", "in", "-o", "out", *model)
    assert tree(here / "out") == sorted(f"{name}.snac" for name in names)
    succeed("decode", "out", "-o", "back", *model)
    assert tree(here / "back") == sorted(f"{name}.wav" for name in names)
    assert len(succeed("info", "out", "--json").stdout.splitlines()) == len(names)
    (here / "-dash.wav").write_bytes((here / "in/-dash.wav").read_bytes())
    succeed("encode", *model, "--", "-dash.wav")


@pytest.mark.parametrize(("rate", "channels"), [(11025, 1), (192_000, 2), (1000, 1), (768_000, 1), (44100, 8)])
def test_any_rate_and_channels_round_trip(here: Path, model: list[str], rate: int, channels: int) -> None:
    record(here / "a.wav", 1501, rate, channels)
    succeed("encode", "a.wav", *model)
    facts = json.loads(succeed("info", "a.snac", "--json").stdout)
    assert (facts["original_rate"], facts["channels"], facts["num_samples"]) == (rate, channels, 1501)


@pytest.mark.parametrize("rate", [1, 999, 768_001])
def test_a_rate_that_no_recording_has_is_named(here: Path, model: list[str], rate: int) -> None:
    record(here / "a.wav", 1501, rate)
    assert f"a.wav: expected a rate of 1000 to 768000 Hz, got {rate} Hz" in refuse(1, "encode", "a.wav", *model)


def test_an_output_folder_inside_the_inputs_is_not_an_input(here: Path, model: list[str]) -> None:
    record(here / "in/a.wav")
    for _ in range(2):
        succeed("encode", "in", "-o", "in/out", "--force", *model)
    assert tree(here / "in") == ["a.wav", "out/a.snac"]


def test_an_output_that_is_a_link_is_written_through(here: Path, model: list[str]) -> None:
    record(here / "a.wav")
    (here / "elsewhere").mkdir()
    (here / "a.snac").symlink_to("elsewhere/b.snac")
    succeed("encode", "a.wav", *model)
    assert (here / "a.snac").is_symlink()
    assert (here / "elsewhere/b.snac").stat().st_size > 50
    assert "a.snac: exists; --force replaces it" in refuse(1, "encode", "a.wav", *model)


def test_devices_and_pipes_in_folders_are_left_out_and_pipes_by_name_are_read(here: Path, model: list[str]) -> None:
    content = record(here / "in/a.wav").read_bytes()
    os.mkfifo(here / "in/pipe.wav")
    (here / "in/zero.wav").symlink_to("/dev/zero")
    said = run("encode", "in", *model)
    assert said.exit_code == 0
    assert said.stderr == "opensnac: left out, not a regular file: in/pipe.wav, in/zero.wav\n"
    assert "in/zero.wav: expected audio, got an empty file" in refuse(1, "encode", "in/zero.wav", *model)
    writer = threading.Thread(target=(here / "in/pipe.wav").write_bytes, args=(content,))
    writer.start()
    succeed("encode", "in/pipe.wav", *model)
    writer.join()
    assert (here / "in/pipe.snac").read_bytes() == (here / "in/a.snac").read_bytes()


def test_a_file_that_vanishes_is_a_failure(here: Path, model: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from opensnac.recordings import transcode

    for name in ("a", "b", "c"):
        record(here / f"in/{name}.wav")
    encode_file = transcode.encode_file

    def and_remove_the_next(source: Path, *arguments: object, **options: object) -> object:
        (here / "in/b.wav").unlink(missing_ok=True)
        return encode_file(source, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(transcode, "encode_file", and_remove_the_next)
    result = run("encode", "in", "-o", "out", *model)
    assert result.exit_code == 1
    assert "in/b.wav: cannot be read: No such file or directory" in result.stderr
    assert tree(here / "out") == ["a.snac", "c.snac"]


def test_two_runs_on_one_folder_write_complete_files(here: Path, model: list[str], forks: BaseContext) -> None:
    for number in range(6):
        record(here / f"in/{number}.wav", 20_000)
    words = ["opensnac", "encode", "in", "-o", "out", *model]
    both = [forks.Process(target=say_into, args=(here / f"{number}.txt", words)) for number in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=120)
    assert tree(here / "out") == [f"{number}.snac" for number in range(6)]
    succeed("info", "out")
    for number, process in enumerate(both):
        said = (here / f"{number}.txt").read_text()
        failed = sum("exists; --force replaces it" in line for line in said.splitlines())
        assert process.exitcode == (failed > 0)
        assert "Traceback" not in said
