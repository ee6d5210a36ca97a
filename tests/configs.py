"""Configurations that the model tests share: the published layouts and odd small ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from opensnac import SNAC

Config = dict[str, Any]

SPEECH_24KHZ: Config = {
    "sampling_rate": 24000,
    "encoder_dim": 48,
    "encoder_rates": [2, 4, 8, 8],
    "latent_dim": None,
    "decoder_dim": 1024,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": 4096,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}
MUSIC_32KHZ: Config = SPEECH_24KHZ | {
    "sampling_rate": 32000,
    "encoder_dim": 64,
    "encoder_rates": [2, 3, 8, 8],
    "decoder_dim": 1536,
    "decoder_rates": [8, 8, 3, 2],
    "attn_window_size": 32,
    "vq_strides": [8, 4, 2, 1],
}
# Odd strides, full convolutions, no noise, attention in windows that the strides do not divide.
ODD_ATTENTION: Config = SPEECH_24KHZ | {
    "encoder_dim": 16,
    "encoder_rates": [3, 7],
    "decoder_dim": 64,
    "decoder_rates": [7, 3],
    "attn_window_size": 3,
    "codebook_size": 100,
    "vq_strides": [2, 1],
    "noise": False,
    "depthwise": False,
}
# Odd strides in another order at each end, channels that are no multiple of vector lengths.
ODD_STRIDES: Config = SPEECH_24KHZ | {
    "sampling_rate": 8000,
    "encoder_dim": 5,
    "encoder_rates": [3, 5, 2],
    "decoder_dim": 24,
    "decoder_rates": [5, 2, 3],
    "codebook_size": 64,
    "vq_strides": [3, 1],
}
TINY: Config = SPEECH_24KHZ | {
    "encoder_dim": 4,
    "encoder_rates": [2, 4, 4],
    "decoder_dim": 32,
    "decoder_rates": [4, 4, 2],
    "codebook_size": 64,
}
ALL = {
    "speech_24khz": SPEECH_24KHZ,
    "music_32khz": MUSIC_32KHZ,
    "odd_attention": ODD_ATTENTION,
    "odd_strides": ODD_STRIDES,
}
SMALL = {"tiny": TINY, "odd_attention": ODD_ATTENTION, "odd_strides": ODD_STRIDES}


def model_of(config: Config, seed: int = 0) -> SNAC:
    """A model with distinct random weights, alphas, gains and biases included."""
    import torch

    from opensnac import SNAC  # not before the hooks of conftest.py

    torch.manual_seed(seed)
    return scrambled(SNAC(**config)).eval()


def scrambled(model: torch.nn.Module) -> Any:
    """The model with random alphas, gains and norms, so that none keeps its initial 1 or 0."""
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        if name.endswith("alpha"):
            value.uniform_(0.3, 3)
        elif name.endswith("original0"):
            value.mul_(value.new_empty(value.shape).uniform_(0.7, 1.4))
        elif "norm" in name:
            value.add_(value.new_empty(value.shape).uniform_(-0.3, 0.3))
    return model
