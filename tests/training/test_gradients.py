"""Gradients are sent while the backward pass still runs, in the same order whichever is complete first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
import torch.distributed as dist
from torch import nn

from opensnac.training.gradients import GradientAverage
from opensnac.training.processes import Processes


class OneOfTwo:
    """As if there were another process, whose gradients are zero."""

    count = 2


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path) -> Iterator[None]:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def averaged(layers: nn.Module) -> GradientAverage:
    """A bucket for each parameter."""
    return GradientAverage(layers.parameters(), cast(Processes, OneOfTwo()), bucket_bytes=1)


def test_upper_layers_are_sent_before_lower_ones_are_differentiated() -> None:
    layers = nn.Sequential(*[nn.Linear(3, 3, bias=False) for _ in range(4)])
    average, sent = averaged(layers), []
    for layer in layers:
        layer.register_full_backward_hook(lambda *_: sent.append(len(average._sent)))
    average.begin()
    layers(torch.randn(5, 3, requires_grad=True)).sum().backward()
    assert sent[-1] >= 3
    assert sent == sorted(sent)
    gradients = [layer.weight.grad.clone() for layer in layers]
    average.finish()
    for layer, gradient in zip(layers, gradients, strict=True):
        assert torch.equal(layer.weight.grad, gradient / 2)


def test_a_bucket_waits_for_the_one_before_it() -> None:
    """The last parameter has no gradient this time, so nothing is sent before the end, and all are averaged then."""
    layers = nn.Sequential(*[nn.Linear(3, 3, bias=False) for _ in range(3)])
    average = averaged(layers)
    average.begin()
    layers[:2](torch.randn(5, 3)).sum().backward()
    assert not average._sent
    before = layers[0].weight.grad.clone()
    average.finish()
    assert torch.equal(layers[0].weight.grad, before / 2)
    assert layers[2].weight.grad is None


def test_only_the_last_part_of_a_batch_is_sent() -> None:
    layer = nn.Linear(3, 1, bias=False)
    average, audio = averaged(layer), torch.randn(4, 3)
    layer(audio[:2]).sum().backward()
    assert not average._sent
    average.begin()
    layer(audio[2:]).sum().backward()
    assert len(average._sent) == 1
    average.finish()
    torch.testing.assert_close(layer.weight.grad[0], audio.sum(0) / 2)
