"""Gradients averaged over all processes while the backward pass still runs.

DistributedDataParallel needs one forward call per step with the same parameters each time; here the codec's parts are
called separately and some are unused at times. So hooks see each gradient when it is complete, and buckets of them are
sent off while the layers below are still being differentiated.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from opensnac.training.processes import Processes

BUCKET_BYTES = 4 << 20  # of a message


class GradientAverage:
    """The mean gradients of some parameters over all processes.

    Buckets are filled from the last parameter to the first, about the order in which a backward pass reaches them, and
    are sent in that order in every process, whichever is complete first.
    """

    def __init__(self, parameters: Iterable[Tensor], processes: Processes, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._count = processes.count
        self._buckets: list[list[Tensor]] = []
        self._bucket_of: dict[Tensor, int] = {}
        self._missing: list[int] = []  # gradients that each bucket still waits for
        self._next = 0  # bucket to be sent
        self._sent: list[tuple[list[Tensor], Tensor, dist.Work]] = []
        self._is_open = False
        if self._count == 1:
            return
        size = bucket_bytes
        for parameter in reversed([p for p in parameters if p.requires_grad]):
            if size >= bucket_bytes:
                self._buckets.append([])
                size = 0
            self._buckets[-1].append(parameter)
            self._bucket_of[parameter] = len(self._buckets) - 1
            size += parameter.numel() * parameter.element_size()
            parameter.register_post_accumulate_grad_hook(self._complete)

    def begin(self) -> None:
        """Send what the coming backward pass completes: the last one of a step that reaches these parameters."""
        self._missing = [len(bucket) for bucket in self._buckets]
        self._is_open = True

    @torch.no_grad()
    def finish(self) -> None:
        """Send the rest and replace all gradients by their mean. Parameters without a gradient have none anywhere."""
        self._is_open = False
        while self._next < len(self._buckets):
            self._send()
        for gradients, message, work in self._sent:
            work.wait()
            parts = message.div_(self._count).split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        self._next = 0
        self._sent.clear()

    @torch.no_grad()
    def _complete(self, parameter: Tensor) -> None:
        if not self._is_open:
            return
        self._missing[self._bucket_of[parameter]] -= 1
        while self._next < len(self._buckets) and not self._missing[self._next]:
            self._send()

    def _send(self) -> None:
        gradients = [p.grad for p in self._buckets[self._next] if p.grad is not None]
        self._next += 1
        if gradients:
            message = torch.cat([gradient.flatten() for gradient in gradients])
            self._sent.append((gradients, message, dist.all_reduce(message, async_op=True)))
