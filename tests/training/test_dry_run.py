"""Checks before a run: the dry run with its memory estimate, the speed of a step, whether compiling helps."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest
import torch
from miniature import config_of, values_of, write_corpus

from opensnac import kernels
from opensnac.engine.codec import SNAC
from opensnac.training import compiling, dry_run
from opensnac.training.benchmark import PARTS, run_benchmark
from opensnac.training.compiling import compile_if_faster
from opensnac.training.config import TrainConfig
from opensnac.training.discriminators import Discriminators
from opensnac.training.processes import Processes
from opensnac.training.step import Trainer

CROP = 2048


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_the_dry_run_prints_the_configuration_and_derived_values(corpus: Path) -> None:
    (corpus / "broken.wav").write_bytes(b"RIFF")
    values = values_of(corpus, 150)
    values["data"]["valid"] = values["data"]["train"]
    config = TrainConfig.from_dict(values)
    text = dry_run.describe(config)
    assert TrainConfig.from_dict(tomllib.loads(text)) == config
    for line in (
        "# training data   4 recordings, 0.00 h",
        "# left out        2 broken files",
        "# generator       62,690 parameters",
        "# bitrate         3750 b/s: 250.0, 500.0 codes per second of 5 bits",
        "# step            4 clips of 0.256 s (2048 samples), 1.0 s of audio",
        "# length          150 steps, 19.2 passes over the data",
        "# memory          about ",
    ):
        assert line in text
    (corpus / "broken.wav").unlink()


def test_the_estimated_memory_is_that_of_autograd_graphs(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted on meta tensors, and on real ones in plain PyTorch."""
    monkeypatch.setattr(kernels, "level", lambda: None)
    config = config_of(corpus, 150)
    with torch.device("meta"):
        models = SNAC.from_config(config.model), Discriminators(config.discriminator)
    foreseen = dry_run.activation_bytes(config, *models, 4, CROP)
    real = SNAC.from_config(config.model), Discriminators(config.discriminator)
    counted = dry_run.activation_bytes(config, *real, 4, CROP)
    assert foreseen == pytest.approx(counted, rel=0.05)
    assert 1e6 < foreseen < 1e9


def test_the_benchmark_measures_both_ways_and_all_parts(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speeds = run_benchmark(config_of(corpus, 150), rounds=1)
    alone, both = speeds["generator alone"], speeds["with discriminators"]
    assert alone.parts["discriminators"] < 0.001 < both.parts["discriminators"]
    for speed in speeds.values():
        assert tuple(speed.parts) == PARTS
        assert speed.audio_seconds_per_second == pytest.approx(4 * 0.256 / speed.step_seconds)
    said = capsys.readouterr().out
    assert all(part in said for part in ("audio seconds per second", *PARTS))


@pytest.fixture
def trainer(corpus: Path) -> Trainer:
    return Trainer(TrainConfig.from_dict(values_of(corpus, 150)), Processes("cpu"))


def fake_compiler(seconds: dict[bool, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake compiler, and a clock with given times for compiled and eager forms."""

    def wrap(call: Callable[..., object], dynamic: bool) -> Callable[..., object]:
        def compiled(*arguments: object) -> object:
            return call(*arguments)

        return compiled

    monkeypatch.setattr(compiling.kernels, "level", lambda: None)  # which disable compiling on a CPU
    rounds = iter([False] * 4 + [True] * 4)

    def clock(work: Callable[[], object], device: torch.device) -> float:
        work()
        return seconds[next(rounds)]

    monkeypatch.setattr(compiling.torch, "compile", wrap)
    monkeypatch.setattr(compiling, "timed", clock)


def test_a_faster_compiled_step_is_used(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler({False: 1.0, True: 0.5}, monkeypatch)
    assert compile_if_faster(trainer, torch.zeros(2, 1, CROP)) == "compiled: 2.00 times as fast as eager"
    assert trainer.encode is not trainer.generator.encoder
    assert all(p.grad is None for p in trainer.generator_parameters)


def test_a_slower_compiled_step_is_not_used(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler({False: 1.0, True: 0.99}, monkeypatch)
    said = compile_if_faster(trainer, torch.zeros(2, 1, CROP))
    assert said == "not compiled: 1.01 times as fast as eager; continuing eagerly"
    assert trainer.encode is trainer.generator.encoder
    assert trainer.discriminate is trainer.discriminators


def test_a_failed_compilation_is_not_used(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(call: object, dynamic: bool) -> object:
        raise RuntimeError("no such compiler\nand more")

    monkeypatch.setattr(compiling.torch, "compile", fail)
    monkeypatch.setattr(compiling.kernels, "level", lambda: None)
    said = compile_if_faster(trainer, torch.zeros(2, 1, CROP))
    assert said == "not compiled: no such compiler; continuing eagerly"
    assert trainer.decode is trainer.generator.decoder


@pytest.mark.skipif(kernels.level() is None, reason="no C compiler, or the kernels are switched off")
def test_nothing_is_compiled_where_the_c_kernels_run(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling.torch, "compile", lambda *_, **__: pytest.fail("asked for"))
    said = compile_if_faster(trainer, torch.zeros(2, 1, CROP))
    assert said == "not compiled: on a CPU the C kernels are the faster form"


def trace_all() -> None:
    """Trace the functions of a small trainer by torch.compile; in a process without shape checks, which it cannot."""
    values = values_of(Path("nowhere"), 9)
    values["model"] |= {"encoder_rates": [4], "decoder_rates": [4]}
    values["discriminator"]["periods"] = [2]
    trainer = Trainer(TrainConfig.from_dict(values), Processes("cpu"))
    audio, seeds = 0.1 * torch.randn(1, 1, 2048), torch.tensor([2**40 + 7])
    with torch.no_grad():
        latent = trainer.encode(audio)
        calls = {"encode": (audio,), "decode": (latent, seeds), "discriminate": (audio,)}
        for part, arguments in calls.items():
            plain = getattr(trainer, part)
            traced = torch.compile(plain, fullgraph=True, backend="eager")
            torch.testing.assert_close(traced(*arguments), plain(*arguments), rtol=1e-3, atol=1e-5)


def test_each_compiled_function_is_one_graph(forks: BaseContext) -> None:
    """Without a break, noise seeds included."""
    process = forks.Process(target=trace_all)
    process.start()
    process.join()
    assert process.exitcode == 0
