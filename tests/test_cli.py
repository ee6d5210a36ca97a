"""What a user types, and what comes: files in their places, exit codes, one clear line for each trouble."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

from opensnac import SNAC, __version__, batch, cli

TINY = {
    "sampling_rate": 24000,
    "encoder_dim": 2,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 16,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": 4096,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small model with random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    SNAC(**TINY).save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(folder: Path) -> list[str]:
    return ["--model", str(folder)]


def run(*arguments: str | Path, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], input=stdin)


def succeed(*arguments: str | Path, stdin: bytes = b"") -> Result:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""  # no bar, no words, where stderr is no terminal
    return result


def refuse(code: int, *arguments: str | Path, stdin: bytes = b"") -> str:
    """Run what must fail with `code`; the one line that it says."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert result.stderr.startswith("opensnac: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def record(path: Path, num_samples: int = 3000, rate: int = 16000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (num_samples, channels))
    soundfile.write(path, samples, rate)
    return path


def wav_bytes() -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.random.default_rng(0).uniform(-0.5, 0.5, 3000), 16000, format="WAV")
    return content.getvalue()


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# What it does


def test_a_recording_goes_there_and_back_beside_itself(here: Path, model: list[str]) -> None:
    record(here / "talk.wav", channels=2)
    succeed("encode", "talk.wav", *model)
    (here / "talk.wav").unlink()
    succeed("decode", "talk.snac", *model)
    assert tree(here) == ["talk.snac", "talk.wav"]
    samples, rate = soundfile.read(here / "talk.wav")
    assert (samples.shape, rate) == ((3000, 2), 16000)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_the_format_is_the_names_or_the_options(here: Path, model: list[str], ending: str) -> None:
    record(here / "a.wav")
    succeed("encode", "a.wav", *model)
    succeed("decode", "a.snac", "-o", f"named.{ending}", "--sample-rate", "8000", *model)
    succeed("decode", "a.snac", "-o", "folder/", "--format", ending, *model)
    named, asked = soundfile.info(f"named.{ending}"), soundfile.info(f"folder/a.{ending}")
    assert named.format == asked.format == ending.upper()
    assert (named.samplerate, named.frames) == (8000, 1500)
    assert (asked.samplerate, asked.frames) == (16000, 3000)


def test_folders_keep_their_tree(here: Path, model: list[str]) -> None:
    for name in ("in/a.wav", "in/deep/er/b.flac", "in/deep/c.mp3", "in/.hidden/d.wav", "in/._e.wav"):
        record(here / name)
    (here / "in/notes.txt").write_text("no recording")
    record(here / "single.ogg")
    succeed("encode", "in", "single.ogg", "-o", "coded", *model)
    assert tree(here / "coded") == ["a.snac", "deep/c.snac", "deep/er/b.snac", "single.snac"]
    succeed("decode", "coded", "-o", "out", "--format", "flac", *model)
    assert tree(here / "out") == ["a.flac", "deep/c.flac", "deep/er/b.flac", "single.flac"]
    succeed("encode", "in", *model)
    assert "in/deep/er/b.snac" in tree(here)


def test_bytes_do_not_depend_on_jobs(here: Path, model: list[str]) -> None:
    for number in range(5):
        record(here / f"in/{number}.wav", 2000 + 700 * number)
    succeed("encode", "in", "-o", "one", *model)
    succeed("encode", "in", "-o", "three", "--jobs", "3", *model)
    assert tree(here / "one") == tree(here / "three") == [f"{number}.snac" for number in range(5)]
    for name in tree(here / "one"):
        assert (here / "one" / name).read_bytes() == (here / "three" / name).read_bytes()


def test_pipes_carry_the_same_bytes_as_files(here: Path, model: list[str]) -> None:
    (here / "a.wav").write_bytes(wav_bytes())
    succeed("encode", "a.wav", *model)
    stream = succeed("encode", "-", "-o", "-", *model, stdin=wav_bytes()).stdout_bytes
    assert stream == (here / "a.snac").read_bytes()
    succeed("decode", "a.snac", "-o", "b.wav", *model)
    piped = succeed("decode", "-", *model, stdin=stream).stdout_bytes
    assert piped == (here / "b.wav").read_bytes()
    succeed("decode", "-", "-o", "c.flac", *model, stdin=stream)
    flac = succeed("decode", "a.snac", "-o", "-", "--format", "flac", *model).stdout_bytes
    assert flac == (here / "c.flac").read_bytes()


def test_raw_samples_go_through_pipes_as_they_come(here: Path, model: list[str]) -> None:
    """A microphone, both ends and a loudspeaker: sound comes out before the sound that goes in has ended."""
    samples = (3000 * np.sin(np.arange(48000) / 20)).astype("<i2").tobytes()
    command = [sys.executable, "-m", "opensnac"]
    encoder = subprocess.Popen(
        [*command, "encode", "-", "--raw", "24000", "--live", *model], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    decoder = subprocess.Popen(
        [*command, "decode", "-", "--format", "raw", *model], stdin=encoder.stdout, stdout=subprocess.PIPE
    )
    assert encoder.stdin is not None
    assert encoder.stdout is not None
    assert decoder.stdout is not None
    encoder.stdout.close()
    encoder.stdin.write(samples[:72000])
    encoder.stdin.flush()
    heard = decoder.stdout.read(2 * 24000)  # 1.5 s went in, the first second comes out, and nothing has ended
    encoder.stdin.write(samples[72000:])
    encoder.stdin.close()
    heard += decoder.stdout.read()
    decoder.stdout.close()
    assert (encoder.wait(), decoder.wait()) == (0, 0)
    (here / "a.raw").write_bytes(samples)
    succeed("encode", "a.raw", "--raw", "24000", *model)
    whole = succeed("decode", "a.snac", "-o", "-", "--format", "raw", *model).stdout_bytes
    assert len(heard) == len(whole) == len(samples)
    difference = np.frombuffer(heard, "<i2").astype(int) - np.frombuffer(whole, "<i2")
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("raw", ["fast", "24000:0", "24000:x", ":2"])
def test_raw_layouts_that_are_none_are_wrong_use(here: Path, model: list[str], raw: str) -> None:
    assert "a rate in Hz was needed" in refuse(2, "encode", "-", "--raw", raw, *model)


def test_raw_input_that_ends_inside_of_a_sample(here: Path, model: list[str]) -> None:
    said = refuse(1, "encode", "-", "-o", "a.snac", "--raw", "24000:2", *model, stdin=bytes(4001))
    assert "ends inside of a sample" in said
    assert not (here / "a.snac").exists()


def test_mono_seed_and_noise_are_passed_on(here: Path, model: list[str]) -> None:
    record(here / "a.wav", channels=2)
    succeed("encode", "a.wav", "--mono", *model)
    outputs = {
        options: succeed("decode", "a.snac", "-o", "-", *options, *model).stdout_bytes
        for options in [(), ("--seed", "0"), ("--seed", "5"), ("--no-noise",)]
    }
    assert soundfile.info(io.BytesIO(outputs[()])).channels == 1
    assert outputs[()] == outputs["--seed", "0"]
    assert len(set(outputs.values())) == 3


def test_info_tells_what_a_file_holds(here: Path, model: list[str]) -> None:
    record(here / "a.wav", 48000, 48000)
    succeed("encode", "a.wav", *model)
    shown = succeed("info", "a.snac").stdout
    for part in (
        "a.snac",
        "tiny",
        "1.000 s, 1 channel, 48000 samples at 48000 Hz",
        "12 (stride 4)",
        "below 4096",
    ):
        assert part in shown
    facts = json.loads(succeed("info", "a.snac", "--json").stdout)
    size = (here / "a.snac").stat().st_size
    assert facts["file"] == "a.snac"
    assert facts["model_name"] == "tiny"
    assert (facts["duration_seconds"], facts["codes_per_scale"]) == (1.0, [12, 24, 48])
    assert facts["file_bits_per_second"] == 8 * size
    piped = succeed("info", "-", "--json", stdin=(here / "a.snac").read_bytes()).stdout
    assert json.loads(piped) == facts | {"file": "standard input"}


def test_info_of_many_files_is_one_line_of_json_each(here: Path, model: list[str]) -> None:
    for name in ("in/a.wav", "in/b.wav"):
        record(here / name)
    succeed("encode", "in", *model)
    lines = succeed("info", "in", "in/a.snac", "--json").stdout.splitlines()
    assert [json.loads(line)["file"] for line in lines] == ["in/a.snac", "in/b.snac", "in/a.snac"]


def test_models_are_listed_with_the_default_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    from opensnac.model import pretrained

    monkeypatch.setattr(pretrained, "DEFAULT_MODEL", "second")
    monkeypatch.setattr(pretrained, "bundled_models", lambda: {"first": Path(), "second": Path()})
    monkeypatch.setattr(pretrained, "cached_models", lambda: ["someone/their_model"])
    lines = succeed("models").stdout.splitlines()
    assert lines == ["first  bundled", "second  bundled, default", "someone/their_model  cached"]


# What it refuses


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
        (b"", "not readable as audio"),
        (b"some text", "not readable as audio"),
        (wav_bytes()[:30], "not readable as audio"),
        (wav_bytes()[:44], "holds no samples"),
        (NAN_WAV.getvalue(), "holds NaN or infinity"),
    ],
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
        (lambda stream: b"RIFF" + stream[4:], "looks like a WAV file"),
        (lambda stream: stream[:20], "the stream ends at byte 20"),
        (lambda stream: stream[:-20], "the stream ends at byte"),
        (_flip, "was changed"),
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
    assert result.stderr.startswith("opensnac: cut.snac: only the first 5.5 s could be kept: the stream ends")
    assert soundfile.info("cut.wav").duration == pytest.approx(5.46, abs=0.01)


def test_another_models_file_is_refused_by_both_names(here: Path, model: list[str], folder: Path) -> None:
    other = folder.parent / "other"
    torch.manual_seed(1)
    SNAC(**TINY).save_pretrained(other)
    record(here / "a.wav")
    succeed("encode", "a.wav", *model)
    said = refuse(1, "decode", "a.snac", "-o", "b.wav", "--model", other)
    assert "a.snac: was coded by the model 'tiny'" in said
    assert "but the model loaded is 'other'" in said


def test_a_model_that_is_not_there(here: Path, model: list[str]) -> None:
    record(here / "a.wav")
    assert "no model 'nowhere'" in refuse(1, "encode", "a.wav", "--model", "nowhere")
    succeed("encode", "a.wav", *model)
    said = refuse(1, "decode", "a.snac", "-o", "b.wav")
    assert "a.snac: needs the model 'tiny'" in said
    assert "give its folder or hub id with --model" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "missing.wav", "a.wav"], "missing.wav: no such file or folder"),
        (["encode", "empty"], "empty: nothing to do, no file there ends in .wav, .flac"),
        (["encode", "a.wav", "a.flac"], "a.wav and a.flac would both become a.snac"),
        (["encode", "a.wav", "a.wav"], "would both become a.snac"),
        (["encode", "a.snac"], "a.snac: is an input and would be an output"),
        (["encode", "a.wav", "a.flac", "-o", "b.snac"], "b.snac: names one file, but"),
        (["encode", "empty", "-o", "b.snac"], "b.snac: names one file, but"),
        (["encode", "a.wav", "-o", "b.mp3"], "b.mp3: is no folder and does not end in .snac"),
        (["encode", "a.wav", "-o", "a.flac"], "a.flac: is no folder and does not end in .snac"),
        (["encode", "a.wav", "-", "-o", "out"], "'-' (standard input or output) takes exactly one input"),
        (["encode", "empty", "-o", "-"], "empty: a folder cannot go to standard output"),
        (["encode", "-", "-o", "out"], "out: standard input needs a file name to go to, ending in .snac"),
        (
            ["decode", "a.snac", "-o", "b.mp3"],
            "b.mp3: is no folder and does not end in .wav or .flac or .ogg",
        ),
        (["decode", "a.snac", "-o", "b.wav", "--format", "ogg"], "b.wav: ends in .wav, but the format asked"),
        (["decode", "a.snac", "--format", "mp3"], "--format is 'mp3'; it must be wav, flac, ogg or raw"),
        (["info", "missing.snac"], "missing.snac: no such file or folder"),
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
    assert "standard output is a terminal" in refuse(2, "encode", "a.wav", "-o", "-")


def test_unreadable_files_and_unwritable_folders(here: Path, model: list[str]) -> None:
    record(here / "a.wav")
    (here / "file").touch()
    assert "file: File exists" in refuse(1, "encode", "a.wav", "-o", "file/b.snac", *model)
    said = refuse(1, "decode", "a.wav", "-o", "b.wav", *model)
    assert "a.wav: no .snac stream" in said


def test_what_nobody_foresaw_is_one_line_too(here: Path, model: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("surprise")

    record(here / "a.wav")
    monkeypatch.setattr("opensnac.streaming.StreamEncoder.push", fail)
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
    assert said == "opensnac: interrupted; what was finished stays, nothing is half-written\n"
    assert tree(here) == ["a.wav"]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_batch_that_is_stopped_begins_no_more(workers: int) -> None:
    jobs = [batch.Job(Path(str(number)), None) for number in range(50)]
    begun = []

    def work(job: batch.Job, report: batch.Report) -> None:
        begun.append(job)
        if job is jobs[4]:
            signal.raise_signal(signal.SIGINT)
        for _ in range(20):
            time.sleep(0.002)
            report(0.5)

    with pytest.raises(KeyboardInterrupt):
        batch.run(jobs, work, workers)
    assert jobs[4] in begun
    assert len(begun) <= 5 + workers


# As a process


def start(*arguments: str | Path, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from opensnac.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload,no-any-return]


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom opensnac.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print([name for name in ('torch', 'numpy', 'soundfile', 'huggingface_hub') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "encode" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_info_does_without_torch(here: Path, model: list[str]) -> None:
    (here / "a.snac").write_bytes(succeed("encode", "-", *model, stdin=wav_bytes()).stdout_bytes)
    script = (
        "import sys\nsys.modules['torch'] = None  # importing it now fails\n"
        "from opensnac.cli import app\napp(['info', 'a.snac', '--json'])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["num_samples"] == 3000


def test_encode_and_decode_in_one_pipe(here: Path, model: list[str]) -> None:
    (here / "x.wav").write_bytes(wav_bytes())
    with open("x.wav", "rb") as source, open("y.wav", "wb") as target:
        encoder = start("encode", "-", "-o", "-", *model, stdin=source, stdout=subprocess.PIPE)
        decoder = start("decode", "-", "-o", "-", *model, stdin=encoder.stdout, stdout=target)
        assert encoder.stdout is not None
        encoder.stdout.close()
        said = decoder.communicate()[1] + encoder.communicate()[1]
    assert (encoder.returncode, decoder.returncode, said) == (0, 0, b"")
    assert soundfile.info("y.wav").frames == 3000


def test_a_reader_that_goes_away_is_no_trouble(here: Path, model: list[str]) -> None:
    record(here / "a.wav", 100_000)
    succeed("encode", "a.wav", *model)
    process = start("decode", "a.snac", "-o", "-", *model, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.communicate()[1] == b""
    assert process.returncode == 1


@pytest.mark.parametrize(("sent", "code", "jobs"), [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 1)])
def test_signals_leave_nothing_half_written(
    here: Path, model: list[str], sent: signal.Signals, code: int, jobs: int
) -> None:
    record(here / "in/0.wav")
    for name in ("in/1.wav", "in/2.wav"):
        record(here / name, 24000 * 600, 24000)
    process = start("encode", "in", "-o", "out", "--jobs", str(jobs), *model)
    while not (here / "out/0.snac").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(sent)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    assert b"Traceback" not in said
    assert tree(here / "out") == ["0.snac"]


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["decode", "-h"], ["info", "--help"]])
def test_help_reads_well(arguments: list[str]) -> None:
    shown = succeed(*arguments).stdout
    assert "Usage" in shown
    assert len(arguments) == 1 or "Example: opensnac" in shown


@pytest.mark.parametrize("command", ["encode", "decode", "info", "models", "train", "ablate", "evaluate", "demo"])
def test_every_command_shows_an_example(command: str) -> None:
    assert f"Example: opensnac {command}" in succeed(command, "--help").stdout


def test_the_version() -> None:
    assert succeed("--version").stdout == f"opensnac {__version__}\n"
