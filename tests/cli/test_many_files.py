"""Realistic folders: skipped files are reported, finished work is kept, time is linear in the number of files."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest
import soundfile
from commands import record, refuse, run, succeed, tree

from opensnac.cli.reporting import run_jobs
from opensnac.recordings import media
from opensnac.recordings.jobs import Job, LeftOut, Search, find_jobs


def test_other_files_in_a_folder_are_listed(here: Path, model: list[str]) -> None:
    for name in ("in/a.wav", "in/.hidden/d.wav", "in/._e.wav"):
        record(here / name)
    for name in ("notes.txt", "cover.jpg"):
        (here / "in" / name).write_text("no recording")
    (here / "in/broken.wav").symlink_to("nowhere")
    os.mkfifo(here / "in/pipe.wav")
    result = run("encode", "in", *model)
    assert result.exit_code == 0
    assert sorted(result.stderr.splitlines()) == [
        "opensnac: left out, a broken link: in/broken.wav",
        "opensnac: left out, another extension: in/cover.jpg, in/notes.txt",
        "opensnac: left out, hidden: in/._e.wav, in/.hidden",
        "opensnac: left out, not a regular file: in/pipe.wav",
    ]
    assert "2 more" in LeftOut_with(12).lines()[0]


def LeftOut_with(count: int) -> LeftOut:  # noqa: N802
    left_out = LeftOut()
    for number in range(count):
        left_out.add("another extension", Path(str(number)))
    return left_out


def test_without_pyav_its_files_are_left_out_with_its_name(
    here: Path, model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "available", lambda: False)
    record(here / "in/a.wav")
    (here / "in/b.m4a").touch()
    assert "left out, readable after: pip install 'opensnac[media]': in/b.m4a" in run("encode", "in", *model).stderr


def test_a_folder_that_cannot_be_read_is_listed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(here / "in/a.wav")
    (here / "in/locked").mkdir()
    scan = os.scandir

    def refuse_locked(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse_locked)
    left_out = LeftOut()
    assert len(find_jobs(["in"], None, [".wav"], [".snac"], left_out=left_out)) == 1
    assert left_out.lines() == ["left out, cannot be read (Permission denied): in/locked"]


def test_links_to_folders_are_followed_once_and_loops_end(here: Path) -> None:
    record(here / "in/real/a.wav")
    record(here / "elsewhere/b.wav")
    (here / "in/again").symlink_to("real")  # sorts before it, and is the same folder
    (here / "in/real/up").symlink_to("..")
    (here / "in/other").symlink_to(here / "elsewhere")
    found = Search([".wav"])(Path("in"), LeftOut())
    assert found == [Path("in/other/b.wav"), Path("in/real/a.wav")]
    left_out = LeftOut()
    assert Search([".wav"], follow=False)(Path("in"), left_out) == [Path("in/real/a.wav")]
    assert left_out.lines() == ["left out, links that are not followed: in/again, in/other, in/real/up"]


@pytest.mark.parametrize("together", ["0", "10"])
def test_a_repeated_command_encodes_only_what_is_missing(here: Path, model: list[str], together: str) -> None:
    for number in range(4):
        record(here / f"in/{number}.wav", 2000)
    command = ["encode", "in", "-o", "out", "--together", together, "--skip-existing", *model]
    succeed(*command)
    before = {name: (here / "out" / name).stat().st_mtime_ns for name in tree(here / "out")}
    (here / "out/2.snac").unlink()
    result = run(*command)
    assert result.exit_code == 0
    assert result.stderr == "opensnac: 3 of 4 files were already done\n"
    after = {name: (here / "out" / name).stat().st_mtime_ns for name in tree(here / "out")}
    assert {name for name in after if after[name] != before[name]} == {"2.snac"}
    succeed("decode", "out", "-o", "wav", "--skip-existing", *model)
    (here / "wav/1.wav").unlink()
    assert "3 of 4 files were already done" in run("decode", "out", "-o", "wav", "--skip-existing", *model).stderr


def test_an_output_of_other_settings_does_not_count_as_done(here: Path, model: list[str]) -> None:
    record(here / "a.wav", channels=2)
    succeed("encode", "a.wav", *model)
    whole = (here / "a.snac").read_bytes()
    again = ["encode", "a.wav", "--skip-existing"]
    assert "has 2 channels at 16000 Hz by the model 'tiny'" in refuse(1, *again, "--mono", *model)
    assert "by the model 'tiny'" in refuse(1, *again, "--model", "speech_24khz_tiny")
    (here / "a.snac").write_bytes(whole[:-5])
    assert "a.snac: exists and cannot be compared: the stream ends" in refuse(1, *again, *model)
    record(here / "a.wav", 2999, channels=2)
    (here / "a.snac").write_bytes(whole)
    assert "has 3000 samples, not 2999" in refuse(1, *again, *model)
    succeed(*again, "--force", *model)


def test_finished_files_are_not_batched_again(here: Path, model: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from opensnac.recordings.grouping import Batcher

    for number in range(3):
        record(here / f"in/{number}.wav")
    succeed("encode", "in/1.wav", "-o", "out/", *model)
    coded: list[list[Path]] = []
    code = Batcher._code
    monkeypatch.setattr(Batcher, "_code", lambda self, files: coded.append(files) or code(self, files))
    assert "1 of 3 files failed" in run("encode", "in", "-o", "out", "--together", "10", *model).stderr
    assert [[file.name for file in files] for files in coded] == [["0.wav", "2.wav"]]


def test_colliding_outputs_are_listed_with_a_remedy(here: Path, model: list[str]) -> None:
    for name in ("a.wav", "a.mp3", "b.wav", "b.flac", "b.ogg", "c.wav"):
        record(here / "in" / name)
    said = refuse(2, "encode", "in", "-o", "out", *model)
    assert "in/a.mp3 and in/a.wav would both become out/a.snac" in said
    assert "in/b.flac and in/b.ogg and in/b.wav would all become out/b.snac" in said
    assert "--keep-ending" in said
    succeed("encode", "in", "-o", "out", "--keep-ending", *model)
    assert tree(here / "out") == [f"{name}.snac" for name in ("a.mp3", "a.wav", "b.flac", "b.ogg", "b.wav", "c.wav")]
    succeed("decode", "out", "-o", "wav", *model)
    assert "a.mp3.wav" in tree(here / "wav")


def test_names_that_are_not_unicode(here: Path, model: list[str]) -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    record(here / "in/a.wav").rename(here / "in" / f"{name}.wav")
    succeed("encode", "in", *model)
    assert "caf\\xe9.snac" in succeed("info", "in").stdout
    facts = json.loads(succeed("info", "in", "--json").stdout)
    assert os.fsencode(facts["file"]) == b"in/caf\xe9.snac"
    succeed("decode", "in", "-o", "out", "--format", "flac", *model)
    assert soundfile.info(os.fsencode(here / f"out/{name}.flac")).frames == 3000
    (here / "in" / f"{name}.wav").write_text("none")
    assert "caf\\xe9.wav: not readable" in refuse(1, "encode", f"in/{name}.wav", "--force", *model)


def test_names_of_all_lengths(here: Path, model: list[str]) -> None:
    for stem in (250 * "x", 61 * "𝒜"):
        record(here / "in" / f"{stem}.wav")
    succeed("encode", "in", *model)
    assert len(tree(here / "in")) == 4


def test_warnings_are_lines_and_strict_makes_them_failures(here: Path, model: list[str]) -> None:
    content = record(here / "a.wav", 16000).read_bytes()
    (here / "a.wav").write_bytes(content[:20044])
    said = refuse(1, "encode", "a.wav", "--strict", *model)
    assert "a.wav: its header declares 1.000 s, of which 0.375 s are missing" in said
    assert tree(here) == ["a.wav"]
    result = run("encode", "a.wav", *model)
    assert result.exit_code == 0
    assert "a.wav: its header declares 1.000 s, of which 0.375 s are missing" in result.stderr
    assert json.loads(succeed("info", "a.snac", "--json").stdout)["num_samples"] == 10_000


def test_sockets_and_named_pipes_are_refused_as_outputs(here: Path, model: list[str]) -> None:
    record(here / "a.wav")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("a.snac")
        assert "exists and is not a regular file" in refuse(1, "encode", "a.wav", "--force", *model)


def fill(folder: Path, count: int) -> Path:
    """Put that many empty files into 50 folders."""
    for number in range(50):
        (folder / str(number)).mkdir(parents=True)
    for number in range(count):
        (folder / str(number % 50) / f"{number}.wav").touch()
    return folder


def seconds_for(folder: Path, count: int) -> float:
    """Seconds to find jobs among that many files, and to run jobs that only report."""
    start = time.process_time()
    batch = find_jobs([str(folder)], "out", [".wav"], [".snac"], left_out=LeftOut())
    assert len(batch) == count

    def work(job: Job, report) -> None:  # type: ignore[no-untyped-def]
        report(0.5)

    run_jobs(batch, work, workers=2)
    return time.process_time() - start


def test_the_time_grows_with_the_number_of_files_and_no_faster(tmp_path: Path) -> None:
    def least(name: str, count: int) -> float:  # of three runs: a busy machine only adds
        folder = fill(tmp_path / name, count)
        return min(seconds_for(folder, count) for _ in range(3))

    assert least("many", 4_000) < 8 * least("few", 1_000) + 0.2


def test_a_bar_costs_the_same_for_each_report(tmp_path: Path) -> None:
    from opensnac.cli.reporting import _Progress

    class Bar:
        disable = False
        completed = 0.0

        def add_task(self, name: str, total: float) -> int:
            self.total = total
            return 0

        def update(self, task: int, description: str, completed: float) -> None:
            self.completed = completed

    jobs = [Job(record(tmp_path / f"{n}.wav", 100 * (n + 1)), None) for n in range(3)]
    bar = Bar()
    progress = _Progress(bar, jobs)  # type: ignore[arg-type]
    for share in (0, 0.25, 0.5, 1):
        for job in jobs:
            progress.advance(job, share)
    assert bar.completed == pytest.approx(bar.total)
    assert progress._shares == {}
