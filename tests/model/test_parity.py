"""The reference package's own random weights, copied over, give the same latents, codes and audio."""

from __future__ import annotations

import functools

import configs
import pytest
import snac
import torch

from opensnac import SNAC
from opensnac.model.noise import position_noise

TOLERANCE = 1e-5
NARROW_MUSIC = configs.MUSIC_32KHZ | {"encoder_dim": 8, "decoder_dim": 64}
CONFIGS = configs.ALL | {"music_32khz": NARROW_MUSIC}

Pair = tuple[snac.SNAC, SNAC]


@functools.cache
@torch.inference_mode(False)
def pair_of(name: str) -> Pair:
    """The reference and ours with equal weights, the reference's noise switched off."""
    torch.manual_seed(1)
    reference = configs.scrambled(snac.SNAC(**CONFIGS[name])).eval()
    for module in reference.modules():
        if type(module).__name__ == "NoiseBlock":
            module.forward = lambda x: x
    ours = SNAC(**CONFIGS[name]).eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    return reference, ours


def audio_of(model: SNAC, seconds: float = 0.2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return 0.3 * torch.randn(2, 1, int(seconds * model.config.sampling_rate), generator=generator)


def test_weights_are_named_and_shaped_as_the_reference_s() -> None:
    """Of the largest published layout, without its numbers."""
    with torch.device("meta"):
        reference, ours = snac.SNAC(**configs.MUSIC_32KHZ), SNAC(**configs.MUSIC_32KHZ)
    shapes, our_shapes = ({k: v.shape for k, v in model.state_dict().items()} for model in (reference, ours))
    assert our_shapes == shapes


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_latents_codes_and_audio_equal_the_reference(name: str) -> None:
    reference, ours = pair_of(name)
    audio = audio_of(ours)
    padded = reference.preprocess(audio)
    latent = reference.encoder(padded)
    assert torch.equal(ours.preprocess(audio), padded)
    our_latent = ours.encoder(padded)
    assert latent.std() > 1e-3
    torch.testing.assert_close(our_latent, latent, atol=TOLERANCE, rtol=0)

    codes, our_codes = reference.encode(audio), ours.encode(audio)
    for theirs, mine in zip(codes, our_codes, strict=True):
        assert mine.dtype == torch.int64
        assert torch.equal(theirs, mine)

    decoded, our_decoded = reference.decode(codes), ours.decode(codes, noise=False)
    assert decoded.std() > 1e-3
    torch.testing.assert_close(our_decoded, decoded, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["odd_attention", "odd_strides"])  # together they have every kind of layer
def test_gradients_equal_the_reference(name: str) -> None:
    reference, ours = pair_of(name)
    audio = audio_of(ours, 0.1)
    gradients = []
    for model in (reference, ours):
        model.zero_grad()
        model.decoder(model.encoder(reference.preprocess(audio))).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            gradients[1][name], gradient, atol=1e-4 * scale + 1e-9, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


@torch.inference_mode()
def test_noise_has_the_statistics_of_the_reference() -> None:
    reference, ours = pair_of("odd_strides")
    block = next(m for m in reference.modules() if type(m).__name__ == "NoiseBlock")
    our_block = next(m for m in ours.modules() if type(m).__name__ == "Noise")
    x = torch.randn(1, 6000, our_block.linear.weight.shape[0])
    theirs = type(block).forward(block, x.mT).mT - x
    mine = our_block(x, position_noise(3, our_block.layer, torch.arange(6000))[None]) - x
    size = our_block.linear(x)
    for noise in (theirs / size, mine / size):
        step = noise.median(dim=-1).values  # one value a step, shared by all channels
        assert abs(float(step.mean())) < 0.05
        assert abs(float(step.std()) - 1) < 0.05
