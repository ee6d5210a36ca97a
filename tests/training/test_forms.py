"""Forms of a step: what is faster is used, and graphs give the same steps as eager calls."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest
import torch
from miniature import values_of, write_corpus
from torch import Tensor, nn
from torch.utils import _pytree

from opensnac import kernels
from opensnac.training import forms
from opensnac.training.benchmark import stage
from opensnac.training.config import TrainConfig
from opensnac.training.forms import recorded_parts, take_fastest_form, use
from opensnac.training.processes import Processes
from opensnac.training.step import Trainer

CROP = 2048
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def trainer(corpus: Path) -> Trainer:
    return Trainer(TrainConfig.from_dict(values_of(corpus, 150)), Processes("cpu"))


def fake_compiler(seconds: dict[bool, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake compiler, and a clock with given times for compiled and eager forms."""

    def wrap(call: Callable[..., object], dynamic: bool) -> Callable[..., object]:
        def compiled(*arguments: object) -> object:
            return call(*arguments)

        return compiled

    monkeypatch.setattr(forms.kernels, "level", lambda: None)  # which disable compiling on a CPU
    rounds = iter([False] * 4 + [True] * 4)

    def clock(work: Callable[[], object], device: torch.device) -> float:
        work()
        return seconds[next(rounds)]

    monkeypatch.setattr(forms.torch, "compile", wrap)
    monkeypatch.setattr(forms, "timed", clock)


def said_of(gain: float, form: str) -> str:
    return f"compiled: {gain:.2f} times as fast as eager; using {form}"


def test_a_faster_compiled_step_is_used(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler({False: 1.0, True: 0.5}, monkeypatch)
    assert take_fastest_form(trainer, torch.zeros(2, 1, CROP), compiled=True) == said_of(2.0, "compiled")
    assert trainer.encode is not trainer.generator.encoder
    assert all(p.grad is None for p in trainer.generator_parameters)


def test_a_slower_compiled_step_is_not_used(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler({False: 1.0, True: 0.99}, monkeypatch)
    said = take_fastest_form(trainer, torch.zeros(2, 1, CROP), compiled=True)
    assert said == said_of(1.01, "eager")
    assert trainer.encode is trainer.generator.encoder
    assert trainer.discriminate is trainer.discriminators


def test_a_failed_compilation_is_not_used(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(call: object, dynamic: bool) -> object:
        raise RuntimeError("no such compiler\nand more")

    monkeypatch.setattr(forms.torch, "compile", fail)
    monkeypatch.setattr(forms.kernels, "level", lambda: None)
    said = take_fastest_form(trainer, torch.zeros(2, 1, CROP), compiled=True)
    assert said == "compiled: no such compiler; using eager"
    assert trainer.decode is trainer.generator.decoder


@pytest.mark.skipif(kernels.level() is None, reason="no C compiler, or the kernels are switched off")
def test_nothing_is_compiled_where_the_c_kernels_run(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms.torch, "compile", lambda *_, **__: pytest.fail("asked for"))
    said = take_fastest_form(trainer, torch.zeros(2, 1, CROP), compiled=True)
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


class Recording(torch.autograd.Function):
    """One call of what `recorded` returns; its gradients are in the same tensors each time, as a graph's are."""

    @staticmethod
    def forward(ctx: Any, graph: dict[str, Any], *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.graph = graph
        for held, given in zip(_pytree.arg_tree_leaves(*graph["inputs"]), inputs, strict=False):  # then parameters
            assert (held.shape, held.dtype) == (given.shape, given.dtype)
            held.data.copy_(given)
        with torch.enable_grad():
            graph["live"], _ = _pytree.tree_flatten(graph["call"](*graph["inputs"]))
        for held, value in zip(graph["outputs"], graph["live"], strict=True):
            held.copy_(value.detach())
        return tuple(held.detach() for held in graph["outputs"])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        graph = ctx.graph
        wanted = [x for x in graph["surface"] if x.requires_grad and id(x) in graph["learned"]]
        learned = [pair for pair in zip(graph["live"], gradients, strict=True) if pair[0].requires_grad]
        found = torch.autograd.grad([y for y, _ in learned], wanted, [dy for _, dy in learned])
        for x, value in zip(wanted, found, strict=True):
            graph["gradients"].setdefault(id(x), torch.empty_like(value)).copy_(value)
        given = [graph["gradients"][id(x)].detach() if id(x) in graph["learned"] else None for x in graph["surface"]]
        return None, *given


def recorded(callables: Any, sample_args: Any) -> Any:
    """torch.cuda.make_graphed_callables without a GPU: fixed inputs, outputs and gradients, nothing but tensors."""
    if not isinstance(callables, tuple):
        return recorded((callables,), (sample_args,))[0]
    return tuple(_recorded(call, args) for call, args in zip(callables, sample_args, strict=True))


def _recorded(call: Callable[..., Any], args: tuple[Tensor, ...]) -> Callable[..., Any]:
    assert not torch.is_autocast_cache_enabled() or not torch.is_autocast_enabled("cpu")
    values, shape = _pytree.tree_flatten(call(*args))
    parameters = [*call.parameters()] if isinstance(call, nn.Module) else []
    surface = [*_pytree.arg_tree_leaves(*args), *parameters]
    graph = {
        "call": call,
        "inputs": args,
        "outputs": [value.detach().clone() for value in values],
        "surface": surface,
        "learned": {id(x) for x in surface if x.requires_grad},
        "gradients": {},
    }

    def replay(*inputs: Tensor) -> Any:
        given = _pytree.arg_tree_leaves(*inputs)
        return _pytree.tree_unflatten(Recording.apply(graph, *given, *parameters), shape)

    return replay


@pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream does not match")  # the steps agree
@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "mixed"])
def test_a_recorded_step_is_an_eager_one(
    corpus: Path, device: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU with a stand-in that keeps tensors where they were, as graphs do."""
    if device == "cpu":
        monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorded)
    values = values_of(corpus, 150) | {"precision": precision, "device": device}
    clips = [0.1 * torch.randn(4, 1, CROP, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    reports: list[list[dict[str, Tensor]]] = []
    for record in (False, True):
        torch.manual_seed(0)
        trainer = stage(TrainConfig.from_dict(values), Processes(device), discriminators=True)
        if record:
            use(trainer, recorded_parts(trainer, torch.zeros(4, 1, CROP, device=device)))
            assert trainer.encode is not trainer.generator.encoder
        reports.append([trainer.training_step(x.to(device), torch.arange(4, device=device), 0.5) for x in clips])
        assert trainer.skipped == 0
    for plain, ours in zip(*reports, strict=True):
        assert plain.keys() == ours.keys()
        for name, value in plain.items():
            # Losses of absolute differences: their gradients change sign where rounding does. A GPU sums in any order,
            # and with Triton and in mixed precision a loss has differed by 1.06e-4.
            rtol = 1e-3 if name == "gradient_norm" or (device, precision) == ("cuda", "mixed") else 1e-4
            torch.testing.assert_close(ours[name], value, rtol=rtol, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
