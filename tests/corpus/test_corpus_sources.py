"""Listing folders, globs, manifests and shards: in a fixed order, with unique ids."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from recordings_of import sing

from opensnac.corpus.loading import opened
from opensnac.corpus.plan import make_plan
from opensnac.corpus.settings import Settings
from opensnac.corpus.sources import Entry, find
from opensnac.corpus.store import Store
from opensnac.errors import AudioError
from opensnac.recordings.jobs import UsageError


def ids(*inputs: object) -> list[str]:
    return [entry.id for entry in find(map(str, inputs))]


def length(entry: Entry) -> int:
    with opened(entry.place) as recording:
        return sum(block.shape[1] for block in recording.blocks())


def test_a_folder_is_walked_by_name(talks: Path) -> None:
    found = [*(f"anna/{n}" for n in ("1.wav", "2.flac", "3.wav", "deep/4.wav")), "bert/1.wav", "bert/2.ogg"]
    assert ids(talks) == [*found, "bert/3.wav", "bert/4.wav", "cleo.wav", "dora.wav"]


def test_ids_of_several_inputs_begin_with_the_input(talks: Path) -> None:
    assert ids(talks / "anna" / "deep", talks / "bert")[:2] == ["deep/4.wav", "bert/1.wav"]


def test_files_and_globs_are_called_by_their_paths(talks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(talks.parent)
    assert ids("talks/dora.wav", "./talks/cleo.wav") == ["talks/dora.wav", "talks/cleo.wav"]
    assert ids("talks/*/1.wav") == ["talks/anna/1.wav", "talks/bert/1.wav"]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_manifests_give_columns(talks: Path, ending: str) -> None:
    rows = [
        {"path": "anna/1.wav", "text": "Good, morning", "speaker": "anna", "id": "one"},
        {"path": str(talks / "dora.wav"), "text": "Ça va ?", "speaker": "dora", "id": "two"},
    ]
    manifest = talks / f"manifest.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), manifest)
    elif ending == "jsonl":
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with manifest.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if ending == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    found = list(find([str(manifest)]))
    assert [entry.id for entry in found] == ["one", "two"]
    assert found[1].columns == {"text": "Ça va ?", "speaker": "dora"}
    assert [length(entry) for entry in found] == [4000, 4000]


def test_bytes_in_parquet_are_read_in_any_order(talks: Path, here: Path) -> None:
    names = ["anna/1.wav", "anna/2.flac", "bert/3.wav", "dora.wav"]
    rows = [{"audio": {"bytes": (talks / name).read_bytes(), "path": name}, "n": n} for n, name in enumerate(names * 5)]
    rows.append({"audio": {"bytes": None, "path": "beside.wav"}, "n": 20})
    sing(here / "beside.wav", 0.1)
    pq.write_table(pa.Table.from_pylist(rows), here / "hub.parquet", row_group_size=3)
    found = list(find(["hub.parquet"]))
    assert [entry.columns["n"] for entry in found] == list(range(21))
    assert len({entry.id for entry in found}) == 5  # the hub's paths: the plan will ask for ids
    lengths = [soundfile.info(talks / name).frames for name in names]
    for row in [0, 1, 2, 19, 3, 18, 20, 7]:
        assert length(found[row]) == (800 if row == 20 else lengths[row % 4]), row


def test_shards_are_read_in_place(talks: Path, here: Path) -> None:
    with tarfile.open("shard-0.tar", "w") as shard:
        for name in ("anna/1.wav", "anna/2.flac"):
            shard.add(talks / name, name)
            stem = name.partition(".")[0]
            for ending, data in ((".json", b'{"speaker": "anna", "age": 7}'), (".txt", b"hello")):
                member = tarfile.TarInfo(stem + ending)
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
        shard.add(talks / "notes.txt", "anna/notes.txt")
    found = list(find(["shard-0.tar"]))
    assert [entry.id for entry in found] == ["shard-0/anna/1.wav", "shard-0/anna/2.flac"]
    assert found[1].columns == {"speaker": "anna", "age": 7, "text": "hello"}
    assert [length(entry) for entry in found] == [4000, 5600]
    assert ids(here) == ids("shard-0.tar")


def test_a_folder_of_the_hub_is_what_its_metadata_lists(talks: Path, here: Path) -> None:
    for split in ("train", "test"):
        sing(here / f"data/{split}/a.wav", 0.1)
        sing(here / f"data/{split}/not_listed.wav", 0.1)
        (here / f"data/{split}/metadata.csv").write_text("file_name,text\na.wav,hello\n")
    found = list(find(["data"]))
    assert [(entry.id, entry.columns) for entry in found] == [
        ("test/a.wav", {"text": "hello"}),
        ("train/a.wav", {"text": "hello"}),
    ]


def test_urls_are_read_as_files_are(talks: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(talks), "/bucket/talks", recursive=True)
    memory.pipe("/bucket/list.csv", b"path,text\ntalks/dora.wav,hello\n")
    found = list(find(["memory://bucket/talks"]))
    assert [entry.id for entry in found] == ids(talks)
    assert length(found[0]) == 4000
    assert length(next(find(["memory://bucket/list.csv"]))) == 4000
    assert len(ids("memory://bucket/talks/*/1.wav")) == 2


def test_unreadable_inputs_are_entries_with_a_problem(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sing(here / "talks/closed/a.wav", 0.1)
    (here / "talks/packed.tar").write_bytes(b"\x1f\x8b no plain tar")
    local = fsspec.filesystem("file")
    listing = type(local).ls

    def ls(self: object, path: str, detail: bool = False, **more: object) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return listing(self, path, detail=detail, **more)

    monkeypatch.setattr(type(local), "ls", ls)
    problems = {entry.id: entry.problem for entry in find(["talks"])}
    assert problems["closed/"] == "expected a readable folder, got Permission denied"
    assert problems["packed/packed.tar"].startswith("expected an uncompressed tar file, got")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none", None, "none: expected a folder, an audio file, a glob, a CSV"),
        ("empty/", None, "empty/: expected .* with recordings, got none"),
        ("a.csv", "text\nhello\n", "a.csv: expected a column audio, path, .* got text"),
        (
            "a.csv",
            "path,text\na.wav,b,c\n",
            r"a.csv, row 0: expected 2 cells as the header has, got \['c'\] in addition",
        ),
        ("a.jsonl", "[1]\n", r"a.jsonl, row 0: expected an object of keys and values, got \[1\]"),
        ("a.jsonl", '{"path": "a.wav"}\n{', "a.jsonl, row 1: expected JSONL text in UTF-8, got"),
        ("a.parquet", "no", "a.parquet: expected a Parquet file, got"),
    ],
)
def test_invalid_inputs_are_refused(here: Path, name: str, content: str | None, said: str) -> None:
    if name.endswith("/"):
        Path(name).mkdir()
    elif content is not None:
        Path(name).write_text(content)
    with pytest.raises(UsageError, match=said):
        ids(name)


def test_a_row_without_a_path_fails_alone(here: Path) -> None:
    Path("a.csv").write_text("path,text\n,hello\n")
    (entry,) = find(["a.csv"])
    assert entry.problem == "row 0 of a.csv: expected a path in `path`, got none"


def test_duplicate_ids_are_refused(here: Path, settings: Callable[..., Settings]) -> None:
    Path("a.csv").write_text("path,id\na.wav,x\nb.wav,y\nc.wav,x\n")
    with pytest.raises(UsageError, match="expected a unique id for every recording, got 'x' for a.wav and for c.wav"):
        make_plan(Store(str(here / "out")), settings("a.csv"))
    assert not (here / "out" / "plan").exists()


def test_column_types_are_inferred(here: Path, settings: Callable[..., Settings]) -> None:
    rows = [
        {"path": "a.wav", "n": 1, "mixed": 1, "x": 1, "on": True, "seconds": 1.5, "tags": ["a"]},
        {"path": "b.wav", "n": 2, "mixed": "b", "x": 0.5, "on": None, "tags": {"b": 2**70}},
    ]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = make_plan(Store(str(here / "out")), settings("a.jsonl"))
    assert plan.columns == {
        **{"n": "int", "mixed": "json", "x": "float", "on": "bool", "manifest_seconds": "float", "tags": "json"}
    }


def test_errors_name_the_place(broken: Path) -> None:
    entry = next(entry for entry in find([str(broken)]) if entry.id == "c.flac")
    with pytest.raises(AudioError, match=r"^/.*broken/c.flac: "):
        length(entry)
