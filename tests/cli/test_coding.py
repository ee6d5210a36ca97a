"""encode, decode and info as a user types them: output files, pipes, messages."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import between_pipes, record, refuse, run, succeed, tree, wav_bytes
from huggingface_hub.errors import LocalEntryNotFoundError

from opensnac import bitstream


def test_a_recording_round_trips_in_its_own_folder(here: Path, model: list[str]) -> None:
    record(here / "talk.wav", channels=2)
    succeed("encode", "talk.wav", *model)
    (here / "talk.wav").unlink()
    succeed("decode", "talk.snac", *model)
    assert tree(here) == ["talk.snac", "talk.wav"]
    samples, rate = soundfile.read(here / "talk.wav")
    assert (samples.shape, rate) == ((3000, 2), 16000)


def test_refined_codes_have_the_form_of_plain_ones(here: Path, model: list[str]) -> None:
    record(here / "a.wav", channels=2)
    for name, options in (("plain", ()), ("refined", ("--refine", "6"))):
        succeed("encode", "a.wav", "-o", f"{name}.snac", *options, *model)
        succeed("decode", f"{name}.snac", *model)
    plain, refined = (bitstream.read(io.BytesIO((here / f"{name}.snac").read_bytes())) for name in ("plain", "refined"))
    assert plain.header == refined.header
    assert any((a != b).any() for a, b in zip(plain.codes, refined.codes, strict=True))
    assert soundfile.info("plain.wav").frames == soundfile.info("refined.wav").frames == 3000


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
    for name in ("in/a.wav", "in/deep/er/b.flac", "in/deep/c.mp3"):
        record(here / name)
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


def test_raw_samples_go_through_pipes_as_they_come(here: Path, model: list[str], forks: BaseContext) -> None:
    """Encoder and decoder between two pipes: output begins before the input has ended."""
    samples = (3000 * np.sin(np.arange(48000) / 20)).astype("<i2").tobytes()
    encode = ["opensnac", "encode", "-", "--raw", "24000", "--live", *model]
    decode = ["opensnac", "decode", "-", "--format", "raw", *model]
    (source, into), (coded, code), (out, sound) = (forks.Pipe(duplex=False) for _ in range(3))
    both = [
        forks.Process(target=between_pipes, args=arguments)
        for arguments in ((source, encode, code), (coded, decode, sound))
    ]
    for process in both:
        process.start()
    for pipe in (source, code, coded, sound):
        pipe.close()
    with open(into.fileno(), "wb", closefd=False) as feed, open(out.fileno(), "rb", closefd=False) as ear:
        feed.write(samples[:72000])
        feed.flush()
        heard = ear.read(2 * 24000)  # 1.5 s went in and the first second comes out before the end
        feed.write(samples[72000:])
        feed.flush()
        into.close()
        heard += ear.read()
    out.close()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    (here / "a.raw").write_bytes(samples)
    succeed("encode", "a.raw", "--raw", "24000", *model)
    whole = succeed("decode", "a.snac", "-o", "-", "--format", "raw", *model).stdout_bytes
    assert len(heard) == len(whole) == len(samples)
    difference = np.frombuffer(heard, "<i2").astype(int) - np.frombuffer(whole, "<i2")
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("raw", ["fast", "24000:0", "24000:x", ":2"])
def test_invalid_raw_layouts_are_usage_errors(here: Path, model: list[str], raw: str) -> None:
    assert "expected a rate in Hz" in refuse(2, "encode", "-", "--raw", raw, *model)


def test_raw_input_that_ends_inside_of_a_sample(here: Path, model: list[str]) -> None:
    said = refuse(1, "encode", "-", "-o", "a.snac", "--raw", "24000:2", *model, stdin=bytes(4001))
    assert "got part of one at the end" in said
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


def test_info_describes_a_file(here: Path, model: list[str]) -> None:
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


def test_models_are_listed_with_the_default_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from opensnac import models, processor

    monkeypatch.setattr(models, "DEFAULT_MODEL", "second")
    (tmp_path / "model.safetensors").write_bytes(bytes(1_600_000))
    monkeypatch.setattr(models, "bundled_models", lambda: {"first": tmp_path / "missing", "second": tmp_path})
    monkeypatch.setattr(models, "cached_models", lambda: ["someone/their_model"])
    lines = succeed("models").stdout.splitlines()
    assert lines[:3] == ["first  bundled, 0 MB", "second  bundled, 2 MB, default", "someone/their_model  cached"]
    assert lines[3:] == ["", f"Backend on this CPU: {processor.backend()}."]


def test_one_channel_of_a_live_pipe(here: Path, model: list[str]) -> None:
    voice = np.random.default_rng(0).integers(-9000, 9000, 4000).astype("<i2")
    stereo = np.stack([voice, -voice], axis=1).tobytes()
    mixed = run("encode", "-", "--raw", "24000:2", "--mono", "--live", *model, stdin=stereo)
    assert mixed.exit_code == 0
    assert "standard input: its channels cancel each other" in mixed.stderr
    chosen = succeed("encode", "-", "--raw", "24000:2", "--channel", "1", "--live", *model, stdin=stereo)
    alone = succeed("encode", "-", "--raw", "24000", "--live", *model, stdin=voice.tobytes())
    assert chosen.stdout_bytes == alone.stdout_bytes
    assert "expected either --mono or --channel, got both" in refuse(
        2, "encode", "-", "--raw", "24000:2", "--channel", "1", "--mono", *model
    )


def test_the_model_named_in_a_file_is_loaded_only_if_trusted(
    here: Path, folder: Path, model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(here / "a.wav")
    succeed("encode", "a.wav", *model)
    with open("a.snac", "rb") as file:
        coded = bitstream.read(file)
    with open("stranger.snac", "wb") as file:
        header = replace(coded.header, model_name="stranger/model")
        bitstream.write(file, header, coded.codes, coded.num_samples)
    asked = []

    def download(hub_id: str, filename: str, local_files_only: bool, **options: object) -> str:
        asked.append((hub_id, local_files_only))
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache.")
        return str(folder / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    for options in ((), ("--salvage",), ("--trust", "someone/else")):
        said = refuse(1, "decode", "stranger.snac", *options)
        assert "stranger.snac: expected the model 'stranger/model'" in said
        assert "have it downloaded with --trust stranger/model" in said
    assert set(asked) == {("stranger/model", True)}
    assert tree(here) == ["a.snac", "a.wav", "stranger.snac"]
    for trusted in ("stranger/model", "stranger/*"):
        succeed("decode", "stranger.snac", "--trust", trusted, "--force")
    assert asked[-1] == ("stranger/model", False)
    succeed("info", "stranger.snac")
