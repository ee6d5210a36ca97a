"""The data card of a corpus, README.md: its contents, its model, and how to read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

READ = {
    "parquet": """```python
from datasets import load_dataset

rows = load_dataset("parquet", data_files="data/*.parquet", split="train")
```""",
    "webdataset": """```python
import glob

import webdataset

samples = webdataset.WebDataset(sorted(glob.glob("data/*.tar")), shardshuffle=False)
```

`KEY.snac` is what `opensnac decode` reads, `KEY.json` the rest of the row.""",
    "bin": """```python
import numpy as np

tokens = np.memmap("tokens.bin", dtype="{dtype}", mode="r")
```

`index.parquet` has a line for each row: `num_tokens` tokens from position `offset` on, followed by the end token
{end}.""",
}


def card(facts: Mapping[str, Any]) -> str:
    """The text of the card from what `corpus.json` holds."""
    totals = facts["totals"]
    lines = [
        "# Tokens of speech",
        "",
        f"{totals['seconds'] / 3600:,.2f} hours in {totals['rows']:,} rows, {totals['tokens']:,} codes, made by",
        "opensnac with",
        "",
        "```sh",
        facts["command"],
        "```",
        "",
        f"- Recordings: {totals['recordings']:,}, of which {totals['failed']:,} could not be encoded"
        f"{' (`failed.parquet` says why)' if totals['failed'] else ''} and {totals['left_out']:,} were left out by the"
        " selection",
        f"- Model: `{facts['model']}`, weights `{facts['fingerprint']}`",
        f"- Codes: {_codes(facts)}",
        f"- Licences: {_licences(facts)}",
        "",
        "Read it with",
        "",
        READ[facts["format"]].format(**facts) if facts["format"] == "bin" else READ[facts["format"]],
        "",
        "or, in any format, with `opensnac.corpus.Corpus(folder)`. `opensnac detokenize FOLDER --rows 0 -o OUT` makes",
        "rows audible.",
        "",
    ]
    return "\n".join([*_front_matter(facts), *lines])


def _front_matter(facts: Mapping[str, Any]) -> list[str]:
    """The hub's metadata: where the data files are."""
    if facts["format"] == "bin":
        return []
    ending = {"parquet": "parquet", "webdataset": "tar"}[facts["format"]]
    return [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        f"    path: data/*.{ending}",
        "---",
        "",
    ]


def _codes(facts: Mapping[str, Any]) -> str:
    config = facts["config"]
    kept = f"{len(config['vq_strides'])} scales of strides {', '.join(map(str, config['vq_strides']))}"
    if facts["tokens"]:
        first, stop = facts["vocabulary"]
        kept = f"one list of tokens per row, layout `{facts['tokens']}`, numbers {first} to {stop - 1}"
    return f"{kept}; each of {config['codebook_size']}, at {config['sampling_rate']} Hz"


def _licences(facts: Mapping[str, Any]) -> str:
    found = [f"{licence} ({hours:,.2f} h)" for licence, hours in facts["licences"].items()]
    return ", ".join(found) or "not given; those of the recordings"
