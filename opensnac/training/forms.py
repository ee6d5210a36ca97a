"""The form of a training step: eager, recorded as CUDA graphs, or compiled; whichever is fastest here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from opensnac import kernels
from opensnac.training.step import Trainer, without_gradients

ROUNDS = 3
MIN_SPEEDUP = 1.05  # over eager, for another form to be used

Parts = Mapping[str, Callable[..., Any]]  # what a Trainer calls, by its attribute


def take_fastest_form(trainer: Trainer, clips: Tensor, compiled: bool) -> str:
    """Give the trainer the fastest form of its parts, by trial on a process's share of a batch (clips, 1, samples).

    Tried are graphs on a GPU (unless a step has several parts) and, if `compiled`, torch.compile, except on a CPU with
    the C kernels: they are faster there, and compilation had not finished after nine minutes. Returns a line about the
    results, empty if nothing was tried. All processes choose alike.
    """
    on_gpu = clips.device.type == "cuda"
    tried: dict[str, Callable[[Trainer, Tensor], Parts]] = {}
    if on_gpu and trainer.config.data.accumulate == 1:  # a part's gradients would overwrite those before
        tried["graphs"] = recorded_parts
    if compiled and not on_gpu and kernels.level() is not None:
        return "not compiled: on a CPU the C kernels are the faster form"
    if compiled:
        tried["compiled"] = compiled_parts
    if not tried:
        return ""
    forms = {"eager": eager_parts(trainer)}
    before = _seconds(trainer, clips)
    gains, notes = {"eager": MIN_SPEEDUP}, []
    for name, make in tried.items():
        reason, taken = "", float("inf")
        try:
            forms[name] = make(trainer, clips)
            use(trainer, forms[name])
            taken = _seconds(trainer, clips)
        except Exception as error:  # whatever a compiler raises, the run continues in another form
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        use(trainer, forms["eager"])
        gains[name] = trainer.processes.broadcast_value(before / taken)
        notes.append(f"{name}: {reason or f'{gains[name]:.2f} times as fast as eager'}")
    best = max(gains, key=gains.__getitem__)
    use(trainer, forms[best])
    return "; ".join([*notes, f"using {best}"])


def use(trainer: Trainer, parts: Parts) -> None:
    """Let the trainer call these parts."""
    for name, call in parts.items():
        setattr(trainer, name, call)


def eager_parts(trainer: Trainer) -> Parts:
    """The modules and methods themselves."""
    return {
        "encode": trainer.generator.encoder,
        "decode": trainer.generator.decoder,
        "discriminate": trainer.discriminators,
        "tell_apart": trainer.discriminator_loss,
        "judge": trainer.adversarial_losses,
        "compare": trainer.spectral_losses,
    }


def compiled_parts(trainer: Trainer, clips: Tensor) -> Parts:
    """The modules compiled, with a program for each shape."""
    modules = {name: call for name, call in eager_parts(trainer).items() if isinstance(call, nn.Module)}
    return {name: torch.compile(call, dynamic=False) for name, call in modules.items()}


def recorded_parts(trainer: Trainer, clips: Tensor) -> Parts:
    """Forward and backward passes of the parts as CUDA graphs: a launch each instead of hundreds."""
    make: Any = torch.cuda.make_graphed_callables
    model, discriminators = trainer.generator, trainer.discriminators
    seeds, decoded = torch.arange(len(clips), device=clips.device), torch.zeros_like(clips, requires_grad=True)
    with trainer.matrix_precision():
        with torch.no_grad():
            latent = model.encoder(clips).float()
        latent.requires_grad_()
        generator = _Part(model.encoder, model.encoder), _Part(model.decoder, model.decoder)
        parts = dict(zip(("encode", "decode"), make(generator, ((clips,), (latent, seeds))), strict=True))
    with trainer.backward_precision():
        if trainer.is_adversarial:
            inputs = clips, torch.zeros_like(clips)
            parts["tell_apart"] = make(_Part(discriminators, trainer.discriminator_loss), inputs)
            real = without_gradients(parts["tell_apart"](*inputs)[1])  # in the memory where they will always be
            with trainer.discriminators_fixed():
                parts["judge"] = make(_Part(discriminators, trainer.adversarial_losses), (decoded, real))
        if trainer.is_whole:  # else the losses need what other parts and processes have
            parts["compare"] = make(trainer.spectral_losses, (decoded, clips))
    return parts


class _Part(nn.Module):
    """A function and the module whose weights it uses, as recording wants to know them."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self._function = function

    def forward(self, *inputs: Any) -> Any:
        return self._function(*inputs)


def _seconds(trainer: Trainer, clips: Tensor) -> float:
    """The fastest of some forward and backward passes; the first, which may compile, does not count."""
    seeds = torch.arange(len(clips), device=clips.device)

    def work() -> None:
        audio, _ = trainer.reconstruct(clips, seeds)
        values = trainer.compare(audio, clips)
        if trainer.is_adversarial:
            _, real = trainer.discriminator_step(clips, audio.detach(), is_last=False)
            values |= trainer.adversarial_step(audio, real)
        trainer.backward(torch.stack([*values.values()]).sum())

    try:
        return min([timed(work, clips.device) for _ in range(ROUNDS + 1)][1:])
    finally:
        trainer.generator.zero_grad()
        trainer.discriminators.zero_grad()


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes on `device`, synchronised."""
    finish(device)
    began = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - began


def finish(device: torch.device) -> None:
    """Synchronise with a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
