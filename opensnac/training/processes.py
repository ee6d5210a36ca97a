"""Data parallelism over the processes that `accelerate launch` or `torchrun` start.

Weights stay equal because gradients are averaged (gradients.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather, gather_object, reduce
from torch import Tensor, nn

from opensnac.errors import ConfigError


class Processes:
    """This process among the others of the run."""

    def __init__(self, device: str = "auto") -> None:
        """`device`: auto, cpu or cuda. ConfigError if it is not available."""
        try:
            if device != "auto":
                torch.empty(0, device=device)
            state = PartialState(cpu=device == "cpu")
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"device: expected auto, cpu or cuda, available here, got {device!r} ({reason})"
            ) from error
        self.count, self.rank = state.num_processes, state.process_index
        alone = device != "auto" and self.count == 1
        self.device = torch.device(device if alone else state.device)
        self.is_first = self.rank == 0
        self._state = state

    def share(self, batch_size: int) -> range:
        """The indices of this process's clips in a batch."""
        clips = batch_size // self.count
        return range(self.rank * clips, (self.rank + 1) * clips)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        return values if self.count == 1 else reduce(values, "mean")

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        return values if self.count == 1 else reduce(values, "sum")

    def sums(self, values: list[Tensor]) -> list[Tensor]:
        """The sum of each tensor over all processes, in one message."""
        if self.count == 1:
            return values
        whole = self.sum(torch.cat([value.flatten() for value in values]))
        return list(whole.split([value.numel() for value in values]))

    def gather(self, values: Tensor) -> Tensor:
        """All processes' values concatenated along dim 0, in order of rank."""
        return values if self.count == 1 else gather(values.contiguous())

    def gather_objects(self, values: list[Any]) -> list[Any]:
        """All processes' lists, concatenated."""
        return values if self.count == 1 else gather_object(values)

    def broadcast_value(self, value: float) -> float:
        """The first process's value, so that decisions based on it are the same everywhere."""
        if self.count == 1:
            return value
        return float(broadcast(torch.tensor([value], dtype=torch.float64, device=self.device))[0])

    @torch.no_grad()
    def broadcast_weights(self, models: Iterable[nn.Module]) -> None:
        """Copy the first process's weights to all."""
        if self.count > 1:
            for model in models:
                for values in model.state_dict().values():
                    values.copy_(broadcast(values.clone()))

    def on_first(self, write: Callable[[], None]) -> None:
        """Run `write` in the first process while the others wait."""
        if self.is_first:
            write()
        self._state.wait_for_everyone()
