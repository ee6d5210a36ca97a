"""A widened model equals the narrower one, and each copy of a channel learns independently."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from miniature import entries, values_of, write_corpus

from opensnac import SNAC
from opensnac.config import CodecConfig
from opensnac.errors import ModelError
from opensnac.training import loop
from opensnac.training.config import TrainConfig
from opensnac.training.widen import widen

PLAIN = {
    "sampling_rate": 8000, "encoder_dim": 4, "encoder_rates": [2, 4, 4], "decoder_dim": 32, "decoder_rates": [4, 4, 2],
    "attn_window_size": None, "codebook_size": 64, "codebook_dim": 8, "vq_strides": [4, 2, 1],
}  # fmt: skip
# Odd strides, full convolutions, no noise, attention.
ATTENTIVE = PLAIN | {
    "encoder_dim": 16, "encoder_rates": [3, 7], "decoder_dim": 64, "decoder_rates": [7, 3], "attn_window_size": 3,
    "vq_strides": [2, 1], "noise": False, "depthwise": False,
}  # fmt: skip
LAYOUTS = {"plain": PLAIN, "attentive": ATTENTIVE}


def pair(layout: str, encoder: float, decoder: float) -> tuple[SNAC, SNAC]:
    """A model with random weights, and the same with its widths multiplied."""
    torch.manual_seed(1)
    values = LAYOUTS[layout]
    widths = {"encoder_dim": encoder, "decoder_dim": decoder}
    wider = values | {key: round(times * values[key]) for key, times in widths.items()}
    narrow = SNAC.from_config(CodecConfig.from_dict(values)).eval()
    for name, parameter in narrow.named_parameters():
        if name.endswith("alpha"):  # as after training: all different
            parameter.data.uniform_(0.5, 2)
    return narrow, widen(narrow, CodecConfig.from_dict(wider), torch.Generator().manual_seed(2)).eval()


WHOLE, PARTLY = [(1, 2), (2, 1), (3, 2)], [(1.5, 1), (1, 1.25), (1.5, 2.75)]


@pytest.mark.parametrize(
    ("layout", "encoder", "decoder"),
    [(layout, *times) for layout in LAYOUTS for times in WHOLE] + [("plain", *times) for times in PARTLY],
)
def test_a_wider_model_is_the_same_function(layout: str, encoder: float, decoder: float) -> None:
    narrow, wide = pair(layout, encoder, decoder)
    group = narrow.config.hop_length * narrow.config.frame_multiple
    audio = 0.3 * torch.randn(2, 1, 5 * group, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        latent, wider = narrow.encoder(audio), wide.encoder(audio)
        copies = torch.arange(wider.shape[1]) % latent.shape[1]
        torch.testing.assert_close(wider, latent[:, copies], rtol=1e-4, atol=1e-5)
        codes, same = narrow.quantizer(latent).codes, wide.quantizer(wider).codes
        assert all((a == b).float().mean() > 0.99 for a, b in zip(codes, same, strict=True))
        heard, again = (model.decoder(model.quantizer.from_codes(codes), 7) for model in (narrow, wide))
    torch.testing.assert_close(again, heard, rtol=1e-4, atol=1e-5)
    assert heard.std() > 1e-3


def test_copies_of_a_channel_learn_apart() -> None:
    _, wide = pair("plain", 2, 2)
    audio = 0.3 * torch.randn(1, 1, 512, generator=torch.Generator().manual_seed(3))
    target = torch.randn(1, 1, 512, generator=torch.Generator().manual_seed(4))
    (wide.decoder(wide.encoder(audio), 7) - target).square().mean().backward()
    compared = 0
    for name, parameter in wide.named_parameters():
        doubled = parameter.shape[1] if name.endswith("alpha") else parameter.shape[0]
        if name.startswith("quantizer") or doubled % 2 or name.startswith("encoder.block.0."):
            continue
        first, second = parameter.grad.chunk(2, 1 if name.endswith("alpha") else 0)
        if float(first.norm()) > 1e-9:
            assert float((first - second).norm() / first.norm()) > 0.01, name
            compared += 1
    assert compared > 50


def test_a_run_starts_from_a_narrower_model(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    values = values_of(corpus, 8, quantize_from=4)
    narrow = loop.train(TrainConfig.from_dict(values), tmp_path / "narrow")
    values = values_of(corpus, 2, validate_every=1) | {"init": str(narrow / "last")}
    values["model"] = values["model"] | {"encoder_dim": 32, "decoder_dim": 128}
    values["optimizer"] = values["optimizer"] | {"learning_rate": 1e-9, "matrix_learning_rate": 1e-9}
    wide = loop.train(TrainConfig.from_dict(values), tmp_path / "wide")
    before, after = ([e["valid_mel"] for e in entries(run) if "valid_mel" in e] for run in (narrow, wide))
    assert after[0] == pytest.approx(before[-1], rel=1e-2)
    assert SNAC.from_pretrained(wide / "last").config.decoder_dim == 128

    SNAC.from_pretrained(narrow / "last").fold_weight_norm().save_pretrained(tmp_path / "folded")
    with pytest.raises(ModelError, match="expected weight norm for training"):
        loop.train(TrainConfig.from_dict(values | {"init": str(tmp_path / "folded")}), tmp_path / "refused")

    values["model"] = values["model"] | {"decoder_dim": 32}
    with pytest.raises(ModelError, match="expected that of .model., got encoder_dim 16"):
        loop.train(TrainConfig.from_dict(values), tmp_path / "other")


@pytest.mark.parametrize(
    ("layout", "widths", "message"),
    [
        ("plain", {"encoder_dim": 2}, "at least encoder_dim 4 and decoder_dim 64.*got encoder_dim 2"),
        ("attentive", {"decoder_dim": 192}, "multiples of encoder_dim 16 and decoder_dim 128.*decoder_dim 192"),
    ],
)
def test_other_widths_are_refused(layout: str, widths: dict[str, int], message: str) -> None:
    _, model = pair(layout, 1, 2)
    with pytest.raises(ModelError, match=message):
        widen(model, CodecConfig.from_dict(LAYOUTS[layout] | widths), torch.Generator())
