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


def pair(layout: str, encoder: int, decoder: int) -> tuple[SNAC, SNAC]:
    """A model with random weights, and the same with its widths multiplied."""
    torch.manual_seed(1)
    values = LAYOUTS[layout]
    wider = values | {"encoder_dim": encoder * values["encoder_dim"], "decoder_dim": decoder * values["decoder_dim"]}
    narrow = SNAC.from_config(CodecConfig.from_dict(values)).eval()
    for name, parameter in narrow.named_parameters():
        if name.endswith("alpha"):  # as after training: all different
            parameter.data.uniform_(0.5, 2)
    return narrow, widen(narrow, CodecConfig.from_dict(wider), torch.Generator().manual_seed(2)).eval()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("encoder", "decoder"), [(1, 2), (2, 1), (3, 2)])
def test_a_wider_model_is_the_same_function(layout: str, encoder: int, decoder: int) -> None:
    narrow, wide = pair(layout, encoder, decoder)
    group = narrow.config.hop_length * narrow.config.frame_multiple
    audio = 0.3 * torch.randn(2, 1, 5 * group, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        latent, wider = narrow.encoder(audio), wide.encoder(audio)
        torch.testing.assert_close(wider, latent.repeat(1, encoder, 1), rtol=1e-4, atol=1e-5)
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

    values["model"] = values["model"] | {"decoder_dim": 96}
    with pytest.raises(ModelError, match="expected that of .model., got encoder_dim 16"):
        loop.train(TrainConfig.from_dict(values), tmp_path / "other")


def test_other_widths_are_refused() -> None:
    narrow, _ = pair("plain", 1, 1)
    with pytest.raises(ModelError, match="multiples of encoder_dim 4 and decoder_dim 32.*got encoder_dim 6"):
        widen(narrow, CodecConfig.from_dict(PLAIN | {"encoder_dim": 6}), torch.Generator())
