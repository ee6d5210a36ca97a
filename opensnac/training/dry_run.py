"""Dry run: a run's configuration, data, sizes, memory and steps, without training."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from opensnac.engine.codec import SNAC
from opensnac.spectra import distances
from opensnac.training import losses
from opensnac.training.config import TrainConfig, to_toml
from opensnac.training.discriminators import Discriminators
from opensnac.training.loop import crop_samples, find_crops, require_divisible
from opensnac.training.processes import Processes
from opensnac.training.sources import find_recordings, report_broken

GENERATOR_COPIES = 5  # weights, gradients, two moments, the average: 4 bytes per parameter each
DISCRIMINATOR_COPIES = 4  # the same without an average; only the weights if the run does not use them
GIB = 2**30


def describe(config: TrainConfig) -> str:
    """The resolved configuration as TOML, then a summary of data, sizes, steps and memory."""
    processes = Processes(config.device)
    require_divisible(config, processes.count)
    model, data, schedule = config.model, config.data, config.schedule
    crop = crop_samples(config)
    crops, broken = find_crops(config, crop)
    valid, broken_valid = find_recordings(data.valid)
    report_broken(broken + crops.new_broken() + broken_valid)
    with torch.device("meta"):
        generator, discriminators = SNAC.from_config(model), Discriminators(config.discriminator)
    sizes = [sum(p.numel() for p in part.parameters()) for part in (generator, discriminators)]
    batch_seconds = data.batch_size * crop / model.sampling_rate
    clips = data.batch_size // processes.count // data.accumulate
    adversarial = schedule.discriminate_from < schedule.steps
    weights = 4 * (GENERATOR_COPIES * sizes[0] + (DISCRIMINATOR_COPIES if adversarial else 1) * sizes[1])
    activations = activation_bytes(config, generator, discriminators, clips, crop)
    in_memory = 2 * crops.seconds * model.sampling_rate if data.in_memory else 0
    codes = ", ".join(f"{rate:.1f}" for rate in model.code_rates)
    length = f"{schedule.steps:,} steps" if schedule.minutes is None else f"{schedule.minutes:g} minutes"
    passes = schedule.steps * batch_seconds / crops.seconds
    lines = {
        "training data": f"{len(crops.recordings):,} recordings, {crops.seconds / 3600:.2f} h",
        "validation data": f"{len(valid):,} recordings, {sum(r.seconds for r in valid) / 3600:.2f} h",
        "left out": f"{len(broken) + len(broken_valid)} broken files",
        "generator": f"{sizes[0]:,} parameters",
        "discriminators": f"{sizes[1]:,} parameters",
        "bitrate": f"{model.bits_per_second:.0f} b/s: {codes} codes per second of {model.bits_per_code} bits",
        "step": f"{data.batch_size} clips of {crop / model.sampling_rate:.3f} s ({crop} samples), "
        f"{batch_seconds:.1f} s of audio",
        "work": f"{processes.count} processes, {data.accumulate} parts, {config.precision}, on {processes.device}",
        "length": f"{length}, {passes:,.1f} passes over the data if all {schedule.steps:,} steps are done",
        "memory": f"about {(weights + activations) / GIB:.2f} GiB on each device ({weights / GIB:.2f} for weights, "
        f"gradients, moments; {activations / GIB:.2f} for activations, eager in fp32)"
        + (f" and {in_memory / GIB:.2f} GiB for the recordings" if in_memory else ""),
    }
    return to_toml(config.to_dict()) + "\n" + "\n".join(f"# {name:<16}{text}" for name, text in lines.items())


def activation_bytes(
    config: TrainConfig, generator: SNAC, discriminators: Discriminators, clips: int, samples: int
) -> int:
    """Peak bytes that a step's graphs save for their backward passes; on the "meta" device without using memory.

    The discriminators' step comes first, while the generator's graph is kept; then the generator's losses are added.
    """
    device = next(generator.parameters()).device
    audio = torch.zeros(clips, 1, samples, device=device)
    seeds = torch.zeros(clips, dtype=torch.int64, device=device)
    parameters = {id(p) for part in (generator, discriminators) for p in part.parameters()}

    def reconstruct() -> tuple[Tensor, Tensor]:
        quantized = generator.quantizer(generator.encoder(audio))
        audio_hat = generator.decoder(quantized.latent, seeds)
        return audio_hat, losses.codebook_loss(quantized.z_e, quantized.z_q)

    audio_hat = reconstruct()[0].detach()
    generating = _saved_bytes(reconstruct, parameters)
    discriminating = fooling = 0
    if config.schedule.discriminate_from < config.schedule.steps:
        discriminating = _saved_bytes(lambda: discriminators(torch.cat([audio, audio_hat])), parameters)
        discriminators.requires_grad_(False)
        fooling = _saved_bytes(lambda: discriminators(audio_hat.requires_grad_()), parameters)
    measuring = _saved_bytes(
        lambda: distances.mel_loss(audio_hat.requires_grad_(), audio, config.model.sampling_rate), parameters
    )
    return generating + max(discriminating, fooling + measuring)


def _saved_bytes(forward: Callable[[], object], parameters: set[int]) -> int:
    """Bytes of the storages that a forward pass saves for its backward pass, without parameters."""
    saved: dict[int, int] = {}
    alive: list[object] = []

    def note(tensor: Tensor) -> Tensor:
        if id(tensor) not in parameters:
            storage = tensor.untyped_storage()
            alive.append(storage)  # so that no address is reused
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = forward()
        alive.append(weakref.ref(result) if isinstance(result, Tensor) else result)
    return sum(saved.values())
