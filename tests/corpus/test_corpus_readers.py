"""Reading tokens: by third-party code and by ours; shuffled, sharded, packed, resumed."""

from __future__ import annotations

import gc
import glob
import io
import json
import pickle
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from recordings_of import sing

from opensnac import SNAC, bitstream
from opensnac.corpus import Corpus, PackedTokens, TokenDataset, TokenLoader, packing
from opensnac.corpus.detokenize import detokenize, row_numbers
from opensnac.corpus.settings import Settings
from opensnac.corpus.stats import write_stats
from opensnac.corpus.tokenize import tokenize
from opensnac.errors import OpensnacError
from opensnac.recordings.jobs import UsageError

CONTEXT = 50


class Letters:
    """A tokenizer with the interface of transformers: one token per letter."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) - ord("a") for letter in text]}

    def __len__(self) -> int:
        return 26


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """The same recordings with texts in each format."""
    folder = tmp_path_factory.mktemp("corpora")
    rows = []
    for n in range(12):
        sing(folder / f"{n}.wav", 0.2 + 0.05 * n, seed=n)
        rows.append({"path": f"{n}.wav", "text": "hello"[: n % 5 + 1], "speaker": "ab"[n % 2]})
    rows.append({"path": "0.wav", "id": "again", "text": "z", "speaker": "a"})
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for form in ("parquet", "webdataset", "bin"):
        own = Settings((str(folder / "list.jsonl"),), str(model_folder), format=form, shard_megabytes=0.02)
        tokenize(str(folder / form), own, workers=0)
    own = Settings((str(folder / "list.jsonl"),), str(model_folder), tokens="tree:500", shard_megabytes=0.02)
    tokenize(str(folder / "flat"), own, workers=0)
    return folder


def test_all_formats_hold_the_same_rows(corpora: Path) -> None:
    first = Corpus(str(corpora / "parquet"))
    for name in ("webdataset", "bin", "flat"):
        other = Corpus(str(corpora / name))
        for n in [*range(13), -1, 5]:
            assert other[n].facts == first[n].facts
            pairs = zip(other.codes(other[n]), first.codes(first[n]), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs)
        with pytest.raises(IndexError, match="row 13: expected 0 to 12, the rows of"):
            other[13]


def test_third_party_code_reads_parquet(corpora: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    corpus = Corpus(str(corpora / "parquet"))
    files = sorted(glob.glob(str(corpora / "parquet/data/*.parquet")))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert rows["text"][:3] == ["h", "he", "hel"]
    assert rows.features["codes_0"].feature.dtype == "uint16"
    tensors = rows.with_format("torch")[4]
    assert tensors["codes_2"].tolist() == corpus[4].codes[2].tolist()
    assert not tensors["codes_2"].is_floating_point()


def test_conversion_to_datasets(corpora: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    rows = Corpus(str(corpora / "parquet")).to_datasets().with_format("torch")
    assert rows[3]["codes_1"].tolist() == Corpus(str(corpora / "parquet"))[3].codes[1].tolist()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # its files
def test_third_party_code_reads_webdataset(corpora: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    samples = list(webdataset.WebDataset(sorted(glob.glob(str(corpora / "webdataset/data/*.tar"))), shardshuffle=False))
    corpus = Corpus(str(corpora / "webdataset"))
    gc.collect()
    assert len(samples) == 13
    assert json.loads(samples[7]["json"]) == corpus[7].facts
    recording = bitstream.read(io.BytesIO(samples[7]["snac"]))
    assert recording.codes[0][0].tolist() == corpus[7].codes[0].tolist()


def test_third_party_code_reads_the_memory_map(corpora: Path) -> None:
    corpus = Corpus(str(corpora / "bin"))
    tokens = np.memmap(corpora / "bin/tokens.bin", np.uint16, "r")
    assert (tokens == corpus.facts["end"]).sum() == 13
    assert len(tokens) == corpus.facts["totals"]["tokens"] + 13
    assert tokens[: corpus[0].num_codes].tolist() == corpus[0].tokens.tolist()


def test_rows_are_tensors(corpora: Path) -> None:
    dataset = TokenDataset(str(corpora / "parquet"))
    assert len(dataset) == 13
    assert [code.dtype for code in dataset[0]["codes"]] == [torch.int64] * 3
    flat, shifted = TokenDataset(str(corpora / "flat"))[2], TokenDataset(str(corpora / "parquet"), "tree:500")[2]
    assert flat["tokens"].tolist() == shifted["tokens"].tolist()
    assert min(flat["tokens"]) >= 500


def batches(loader: TokenLoader) -> list[list[list[int]]]:
    return [batch["input_ids"].tolist() for batch in loader]


@pytest.mark.parametrize("form", ["parquet", "webdataset", "bin", "flat"])
def test_sequences_hold_every_row_once(corpora: Path, form: str) -> None:
    dataset = PackedTokens(str(corpora / form), CONTEXT, shuffle=False, layout="tree")
    read = [token for item in dataset for token in item["input_ids"].tolist()]
    corpus = Corpus(str(corpora / "parquet"))
    whole = [t for n in range(13) for t in (*corpus.flat(corpus[n]).tolist(), dataset.end)]
    assert read == whole[: len(whole) // CONTEXT * CONTEXT]


def test_the_seed_determines_the_order(corpora: Path) -> None:
    def read(**options: int) -> list[list[list[int]]]:
        return batches(TokenLoader(PackedTokens(str(corpora / "parquet"), CONTEXT, **options), 2))

    assert read(seed=1) == read(seed=1) != read(seed=2)
    once, twice = read(seed=1), read(seed=1, epochs=2)
    assert twice[: len(once) - 1] == once[:-1]
    assert len(twice) > 2 * len(once) - 2


@pytest.mark.parametrize("text", [False, True])
def test_a_loader_resumes(corpora: Path, text: bool) -> None:
    def loader() -> TokenLoader:
        more = {"tokenizer": Letters()} if text else {}
        return TokenLoader(PackedTokens(str(corpora / "parquet"), CONTEXT, epochs=2, **more), 2)

    whole = batches(loader())
    for taken in (1, 4, len(whole) - 1):
        first, second = loader(), loader()
        walk = iter(first)
        before = [next(walk)["input_ids"].tolist() for _ in range(taken)]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert before + batches(second) == whole
    with pytest.raises(OpensnacError, match="expected seed 1, got seed 0; build the loader with the same settings"):
        TokenLoader(PackedTokens(str(corpora / "parquet"), CONTEXT, epochs=2, seed=1), 2).load_state_dict(
            loader().state_dict()
        )


@pytest.mark.parametrize("world", [2, 20])
def test_ranks_share_all_rows(corpora: Path, world: int) -> None:
    shares = [PackedTokens(str(corpora / "parquet"), 1, rank=rank, world=world) for rank in range(world)]
    read = sorted(int(item["input_ids"]) for share in shares for item in share)
    whole = sorted(int(item["input_ids"]) for item in PackedTokens(str(corpora / "parquet"), 1))
    assert read == whole


def test_workers_resume_too(corpora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two give batches in turn; a state with an odd number of them begins with the second's."""
    dataset = pickle.loads(pickle.dumps(PackedTokens(str(corpora / "parquet"), CONTEXT)))  # as spawned workers get it
    shares = []
    for worker in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(packing, "get_worker_info", lambda id=worker: SimpleNamespace(num_workers=2, id=id))
            shares.append([[item["input_ids"].tolist()] for item in dataset])
    whole = [batch for turn in zip_longest(*shares) for batch in turn if batch is not None]
    loader = TokenLoader(dataset, 1, workers=2, multiprocessing_context="fork")
    loader.load_state_dict(loader.state_dict() | {"taken": [2, 1], "turn": 1})
    walk = iter(loader)
    assert [next(walk)["input_ids"].tolist() for _ in range(2)] == whole[3:5]
    assert (loader.state_dict()["taken"], loader.state_dict()["turn"]) == ([3, 2], 1)
    assert [batch["input_ids"].tolist() for batch in walk] == whole[5:] != []


@pytest.mark.parametrize(("world", "workers"), [(2, 3), (3, 1), (5, 4)])
@pytest.mark.parametrize("form", ["parquet", "bin"])
def test_workers_of_all_ranks_share_all_rows(
    corpora: Path, world: int, workers: int, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    for rank in range(world):
        share = PackedTokens(str(corpora / form), 1, rank=rank, world=world, seed=3)
        for worker in range(workers):
            info = SimpleNamespace(num_workers=workers, id=worker)
            monkeypatch.setattr(packing, "get_worker_info", lambda info=info: info)
            read += [int(item["input_ids"]) for item in share]
    corpus = Corpus(str(corpora / "parquet"))
    layout = PackedTokens(str(corpora / form), 1)
    whole = [t for n in range(13) for t in (*corpus.flat(corpus[n], layout.layout).tolist(), layout.end)]
    assert sorted(read) == sorted(whole)


def test_text_comes_before_speech(corpora: Path) -> None:
    dataset = PackedTokens(str(corpora / "parquet"), CONTEXT, shuffle=False, tokenizer=Letters())
    first = next(iter(dataset))["input_ids"].tolist()
    assert first[0] == ord("h") - ord("a")
    assert all(26 <= token < dataset.vocabulary for token in first[1:20])
    with pytest.raises(OpensnacError, match="expected a column 'words' for the tokenizer, got text, speaker; name one"):
        PackedTokens(str(corpora / "parquet"), CONTEXT, tokenizer=Letters(), text="words")


@pytest.mark.parametrize("form", ["parquet", "bin"])
def test_rows_become_audible(corpora: Path, model_folder: Path, form: str, tmp_path: Path) -> None:
    paths = list(detokenize(str(corpora / form), "1,3-4", tmp_path, model=str(model_folder)))
    assert [path.name for path in paths] == ["00000001.wav", "00000003.wav", "00000004.wav"]
    corpus = Corpus(str(corpora / form))
    heard, rate = soundfile.read(paths[1], dtype="float32")
    assert (len(heard), rate) == (corpus[3].facts["num_samples"], 8000)
    codes = [torch.from_numpy(code)[None] for code in corpus.codes(corpus[3])]
    with torch.no_grad():
        expected = SNAC.from_pretrained(model_folder).decode(codes, num_samples=len(heard))[0, 0].numpy()
    assert np.abs(heard - expected.clip(-1, 1)).max() < 1e-3


@pytest.mark.parametrize(("rows", "said"), [("x", "expected numbers and ranges"), ("1,13", "expected 0 to 12, got 13")])
def test_invalid_rows_are_refused(rows: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        row_numbers(rows, 13)
    assert row_numbers("all", 3) == [0, 1, 2]


def test_statistics_count_and_find(corpora: Path) -> None:
    page = Path(write_stats(str(corpora / "parquet"), "speaker"))
    facts = json.loads((corpora / "parquet/stats.json").read_text())
    assert sum(facts["lengths"]["rows"]) == 13
    assert {name: group["rows"] for name, group in facts["groups"].items()} == {"a": 7, "b": 6}
    assert all(1 < value <= 64 for value in facts["codebooks"]["perplexity"])
    assert facts["standing_out"]["repeated"]["listed"] == ["again: as 0.wav"]
    assert "again: as 0.wav" in page.read_text()
    with pytest.raises(OpensnacError, match=r"--by: expected one of the corpus's columns \(text, speaker\), got 'age'"):
        write_stats(str(corpora / "parquet"), "age")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OpensnacError, match=r"expected a finished corpus with corpus.json, got none"):
        Corpus(str(tmp_path))
