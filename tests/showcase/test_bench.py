"""The bench measures every task, also against the reference, and refuses invalid options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from opensnac import SNAC
from opensnac.errors import ConfigError
from opensnac.showcase.bench import TASKS, bench_model, run_bench

CONFIG = {
    "sampling_rate": 24000,
    "encoder_dim": 4,
    "encoder_rates": [2, 4],
    "decoder_dim": 16,
    "decoder_rates": [4, 2],
    "attn_window_size": None,
    "codebook_size": 16,
    "vq_strides": [2, 1],
}


def test_every_task_is_timed_beside_the_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], forks: object
) -> None:
    """Also in batches and several streams at once, the table for GPUs, here on the CPU."""
    torch.manual_seed(0)
    model = SNAC(**CONFIG).eval()
    out = tmp_path / "bench.json"
    facts = run_bench(model, 0.1, 1, 2, against_reference=True, out=out, device="cpu", batches=(1, 3), streams=(1, 2))
    assert json.loads(out.read_text()) == facts
    assert set(facts["timings"]["opensnac"]) == {
        *TASKS,
        *(f"{task} × {2 if 'stream' in task else 3}" for task in TASKS),
    }
    assert set(facts["timings"]["reference"]) == {"encode", "decode", "encode × 3", "decode × 3"}
    for tasks in facts["timings"].values():
        for task, timing in tasks.items():
            assert len(timing["calls"]) == 2
            assert min([timing["first"], *timing["calls"]]) > 0
            assert timing["peak_bytes"] > 10_000_000
            assert len(timing["frames"]) == (2 * 150 if "stream" in task else 0)
    assert facts["timings"]["opensnac"]["decode × 3"]["signals"] == 3
    assert facts["device"] == "cpu"
    printed = capsys.readouterr().out
    assert all(task in printed for task in (*TASKS, "encode stream × 2", "ratio"))
    with pytest.raises(ConfigError, match="device: expected .*, got 'tpu:9'"):
        run_bench(model, 0.1, device="tpu:9")


def test_bench_models(tmp_path: Path) -> None:
    model = SNAC(**CONFIG)
    model.save_pretrained(tmp_path)
    assert bench_model(None, str(tmp_path / "config.json")).config == model.config
    assert bench_model(str(tmp_path), None).fingerprint == model.fingerprint
    assert bench_model(None, "speech_24khz").config.encoder_dim == 48
    with pytest.raises(ConfigError, match=r"expected a config.json or one of .*speech_24khz.*, got 'fast'"):
        bench_model(None, "fast")
