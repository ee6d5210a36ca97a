"""The recipe of a training corpus: its sources, the split, and sources that cannot be fetched."""

import gzip
import subprocess
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from opensnac.errors import OpensnacError
from opensnac.recordings import audio

RECIPES = Path(__file__).parent.parent.parent / "recipes"
RATE = 24_000
NOISE = {"name": "noise", "package": "noise-data", "megabytes": 1, "licence": "none", "files": ["usr/**/*.wav"]}


@pytest.fixture
def recipe(load_recipe):
    return load_recipe("fetch_corpus")


@pytest.mark.parametrize("kind", ["speech", "music"])
def test_every_source_has_an_origin_and_a_licence(kind):
    sources = tomllib.loads((RECIPES / f"{kind}_corpus.toml").read_text())["source"]
    assert len({source["name"] for source in sources}) == len(sources)
    for source in sources:
        assert ("package" in source) != ("repository" in source)
        assert source["licence"]
        assert source["files"]
        assert source.get("split") in (None, "valid", "test")
        narrow = "16k" in source["name"] or "asterisk" in source["name"]
        assert 0 < source.get("weight", 1) < (1 if narrow else 10)


def test_training_and_evaluation_music_are_disjoint():
    trained, evaluated = (
        {entry["package"] if "package" in entry else entry["name"] for entry in tomllib.loads(text)[key]}
        for text, key in (
            ((RECIPES / "music_corpus.toml").read_text(), "source"),
            ((RECIPES / "evaluation_set.toml").read_text(), "package"),
        )
    )
    assert not trained & evaluated


def test_a_whole_album_is_held_out_and_archives_are_opened(recipe, tmp_path, monkeypatch):
    def unpack(name, scratch):
        audio.write(scratch / "root" / "a" / "piece.wav", np.zeros((1, 8)), RATE)
        with zipfile.ZipFile(scratch / "root" / "base.pk3", "w") as archive:
            archive.write(scratch / "root" / "a" / "piece.wav", "music/other.wav")
        return "2"

    monkeypatch.setattr(recipe, "unpack", unpack)
    album = NOISE | {"archives": ["base.pk3"], "files": ["a/*.wav", "music/*.wav"], "split": "test"}
    assert recipe.fetch(album, tmp_path / "corpus") == "noise: 2 recordings of version 2; none"
    held_out = sorted(path.name for path in (tmp_path / "corpus" / "test" / "noise").iterdir())
    assert held_out == ["a_piece.wav", "music_other.wav"]


def test_an_unknown_source_is_named(recipe, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fetch", "music", "corpus", "--only", "wesnot"])
    with pytest.raises(SystemExit):
        recipe.main()
    assert "expected sources of wesnoth, ufoai" in capsys.readouterr().err


def test_what_is_there_is_listed_with_its_weight(recipe, apt, tmp_path, monkeypatch):
    out, sources = tmp_path / "corpus", [NOISE | {"weight": 0.5}, NOISE | {"name": "elsewhere", "weight": 2.0}]
    (out / "train" / "noise").mkdir(parents=True)
    (out / "noise.txt").touch()
    monkeypatch.setattr(recipe.tomllib, "loads", lambda text: {"source": sources})
    monkeypatch.setattr("sys.argv", ["fetch", "speech", str(out), "--only", "noise"])
    recipe.main()
    listed = (out / "train.txt").read_text()
    assert listed == f'[{{path = "{out}/train/noise", weight = 0.5}}]\n'


def test_upper_case_extensions_are_recordings(recipe, tmp_path, monkeypatch):
    audio.write(tmp_path / "root" / "A.wav", np.zeros((1, 8)), RATE)
    (tmp_path / "root" / "A.wav").rename(tmp_path / "root" / "A.WAV")
    monkeypatch.setattr(recipe, "obtain", lambda source, scratch: (tmp_path / "root", "1"))
    assert "1 recordings" in recipe.fetch(NOISE | {"files": ["*.WAV"]}, tmp_path / "corpus")


def test_a_package_is_fetched_once(recipe, apt, tmp_path):
    out = tmp_path / "corpus"
    assert recipe.fetch(NOISE, out) == "noise: 1 recordings of version 1.2-3; none"
    (brought,) = list(out.rglob("*.wav"))
    assert brought.parent.name == "noise"
    assert brought.parent.parent.name in ("train", "valid")
    assert audio.read(brought)[1] == RATE
    assert recipe.fetch(NOISE, out) == "noise: exists"
    assert sorted(path.name for path in out.iterdir()) == sorted({brought.parent.parent.name, "noise.txt"})


def test_a_repository_is_split_by_names(recipe, tmp_path):
    source = tmp_path / "voice"
    for number in range(200):
        audio.write(source / "wav" / f"{number}.wav", np.zeros((1, 8)), RATE)
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "voice"]):
        subprocess.run([*git, *words], check=True)
    voice = {"name": "voice", "repository": source.as_uri(), "licence": "CC0-1.0", "files": ["**/*"]}
    assert "voice: 200 recordings of version" in recipe.fetch(voice, tmp_path / "corpus")
    train, valid = (list((tmp_path / "corpus" / split / "voice").iterdir()) for split in ("train", "valid"))
    assert len(train) + len(valid) == 200
    assert 0 < len(valid) < 10


def test_failed_sources_leave_nothing(recipe, apt, tmp_path):
    out = tmp_path / "corpus"
    for changes, words in (
        ({"package": "other"}, "other could not be downloaded"),
        ({"files": ["usr/*.ogg"]}, "expected recordings that match usr/\\*.ogg, got none in version 1.2-3"),
        ({"repository": (tmp_path / "nowhere").as_uri()}, "nowhere could not be cloned"),
    ):
        with pytest.raises(OpensnacError, match=words):
            recipe.fetch(NOISE | changes, out)
        assert list(out.iterdir()) == []


def test_g722_is_decoded(recipe, tmp_path):
    (tmp_path / "a.g722").write_bytes(bytes(8000))
    brought = recipe.bring(tmp_path / "a.g722", tmp_path / "out" / "a.g722")
    samples, rate = audio.read(brought)
    assert (brought.name, samples.shape, rate) == ("a.flac", (1, 16_000), 16_000)
    with pytest.raises(OpensnacError, match="b.g722: expected G.722, got"):
        recipe.bring(tmp_path / "b.g722", tmp_path / "out" / "b.g722")


def test_transcripts_are_written_next_to_recordings(recipe, apt, tmp_path):
    stated = {"form": "ljspeech", "package": "noise-data", "files": "usr/share/said.csv"}
    with pytest.raises(OpensnacError, match="expected transcripts that match usr/share/said.csv"):
        recipe.fetch(NOISE | {"transcripts": stated}, tmp_path / "corpus")
    recipe.fetch(NOISE | {"transcripts": stated | {"files": "usr/share/list.csv"}}, tmp_path / "corpus")
    (found,) = (tmp_path / "corpus").rglob("metadata.csv")
    assert found.read_text() == "file_name,text\nusr_share_noise.wav,A hiss\n"
    assert list(found.parent.glob("*.wav")) == [found.with_name("usr_share_noise.wav")]


@pytest.mark.parametrize(
    ("form", "text", "found"),
    [
        ("asterisk", "; English\n\ndigits/1: one\nbeep: [a tone]\nto: go: on\n", {"digits/1": "one", "to": "go: on"}),
        (
            "fillets",
            'dialogId("a", "big", "Yes")\ndialogStr("\u00a1S\u00ed \\"s\u00ed\\"!")\n',
            {"a": '\u00a1S\u00ed "s\u00ed"!'},
        ),
        ("ljspeech", "a-1|One, two.\nno text\n", {"a-1": "One, two."}),
    ],
)
def test_transcripts_are_read_in_each_form(load_recipe, tmp_path, form, text, found):
    transcripts = load_recipe("transcripts")
    (tmp_path / "list.txt").write_text(text)
    assert transcripts.read(form, tmp_path / "list.txt") == found
    (tmp_path / "list.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert transcripts.read(form, tmp_path / "list.txt.gz") == found


def test_a_recording_finds_its_text_by_the_longest_name(load_recipe):
    texts = {"digits/1": "one", "1": "another", "a": "A"}
    text_of = load_recipe("transcripts").text_of
    assert text_of(Path("sounds/en/digits/1.g722"), texts) == "one"
    assert text_of(Path("sounds/en/1.wav"), texts) == "another"
    assert text_of(Path("sounds/b.wav"), texts) == ""
