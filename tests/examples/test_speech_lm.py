"""The language model of examples/speech_lm: every command of its page at a small size; its predictions."""

from __future__ import annotations

import json
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from configs import TINY, model_of
from test_readme import blocks

from opensnac import SNAC, cli
from opensnac.recordings import audio
from opensnac.tokens import TokenStream

REPOSITORY = Path(__file__).parent.parent.parent
EXAMPLE = REPOSITORY / "examples" / "speech_lm"
CODEC = TINY | {"sampling_rate": 8000, "vq_strides": [4, 2, 1], "encoder_rates": [4, 8, 8], "decoder_rates": [8, 8, 4]}
SMALL = {
    "train": "--minutes 0.02 --width 64 --layers 1 --context 32",
    "tokenize": "--model codec --workers 0",
    "speak": "--seconds 2",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a codec, and recordings of which some have transcripts, as the recipe leaves them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLE)
    torch.set_num_threads(1)
    model_of(CODEC).save_pretrained("codec")
    noise = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0)).numpy() * 0.1
    for split in ("train", "valid"):
        for name in ("a/1.wav", "a/2.wav", "b/1.wav"):
            audio.write(Path("corpus") / split / name, noise, 8000)
        (Path("corpus") / split / "a" / "metadata.csv").write_text("file_name,text\n1.wav,Yes.\n2.wav,\n")
    Path("examples").mkdir()
    audio.write("examples/lj_speech.flac", noise[:, :8000], 8000)
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Runs a line of the page, reduced in size, in this process."""

    def do(line: str) -> None:
        program, first, *words = shlex.split(line)
        small = SMALL[Path(first).stem].split()
        if program == "opensnac":
            cli.app([first, *words, *small], standalone_mode=False)
            return
        monkeypatch.setattr(sys, "argv", [first, *words, *small])
        runpy.run_path(str(REPOSITORY / first), run_name="__main__")

    return do


def test_every_command_of_the_page_runs(here: Path, run: Callable[[str], None]) -> None:
    page = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    fetch, *lines = [line for _, block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    sources = {s["name"] for s in tomllib.loads((REPOSITORY / "recipes/speech_corpus.toml").read_text())["source"]}
    words = shlex.split(fetch)
    assert words[:4] == ["python", "recipes/fetch_corpus.py", "speech", "corpus"]
    assert {words[n + 1] for n, word in enumerate(words) if word == "--only"} < sources
    for line in lines:
        run(line)
    curve = json.loads((here / "run/curve.json").read_text())
    assert curve["points"][-1]["held_out"] < curve["points"][0]["held_out"]
    assert curve["points"][0]["text"] > 0
    assert (here / "run/curve.png").stat().st_size > 1000
    continued, rate = soundfile.read("continued.flac")
    assert rate == 8000
    prompt = 8 * 1024  # samples of its coarse frames
    assert prompt < len(continued) <= prompt + 2 * 8000
    assert soundfile.info("said.flac").frames <= 2 * 8000
    assert {path.name for path in here.iterdir()} >= {"tokens", "run"}


@torch.no_grad()
def test_cached_generation_equals_the_whole_sequence(here: Path) -> None:
    from language_model import END, FIRST_CODE, Shape, SpeechLM

    torch.manual_seed(0)
    model = SpeechLM(Shape("codec", (4, 2, 1), 64, 8, width=64, layers=2, context=64)).eval()
    start = [END, *b"hi", *(FIRST_CODE + 64 * slot + 5 for slot in range(7))]
    model.initialise(SNAC.from_pretrained("codec"), torch.ones(len(model.bias)))
    model.bias[END] = -100  # no end
    drawn = model.generate(start, 1e-6, 1.0, torch.Generator().manual_seed(0))  # the likeliest at each step
    tokens = [*start, *(token for token, _ in zip(drawn, range(35), strict=False))]
    table = model.table()
    hidden, _ = model.hidden(torch.tensor([tokens]), table)
    for place in range(len(start), len(tokens)):
        slot = (place - 3) % 7
        first = FIRST_CODE + 64 * model.layout.slots[slot]
        code = int((table[first : first + 64] @ hidden[0, place - 1]).argmax())
        assert tokens[place] == FIRST_CODE + 64 * slot + code
    stream = TokenStream(SNAC.from_pretrained("codec"), layout=model.layout)
    for token in tokens[3:]:
        stream.push(token)  # every token stands in its place, or this would be an error
    assert stream.frames == 6


@torch.no_grad()
def test_losses_are_those_of_each_range(here: Path) -> None:
    from language_model import END, FIRST_CODE, Shape, SpeechLM

    torch.manual_seed(0)
    model = SpeechLM(Shape("codec", (4, 2, 1), 64, 8, width=64, layers=1))
    row = [END, *b"a", *(FIRST_CODE + 64 * slot + slot for slot in range(7)), END, FIRST_CODE]
    model.bias.normal_()
    losses, targets = model.losses(torch.tensor([row]))
    table = model.table()
    hidden, _ = model.hidden(torch.tensor([row[:-1]]), table)
    expected = []
    for place, target in enumerate(row[1:]):
        slot, code = divmod(target - FIRST_CODE, 64) if target >= FIRST_CODE else (0, target)
        own = FIRST_CODE + 64 * (0, 1, 2, 2, 1, 2, 2)[slot]
        rows = [*(range(FIRST_CODE) if slot == 0 else ()), *range(own, own + 64)]
        scores = table[rows] @ hidden[0, place] + model.bias[rows]
        at = code if target < FIRST_CODE else rows.index(own) + code
        expected.append((target, float(scores.logsumexp(0) - scores[at])))
    assert sorted(zip(targets.tolist(), losses.tolist(), strict=True)) == [
        (target, pytest.approx(loss, abs=1e-4)) for target, loss in sorted(expected)
    ]
