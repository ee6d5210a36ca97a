"""What fits of a model of another layout is kept, and a run that starts from it is ahead of one from random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from miniature import entries, values_of, write_corpus

from opensnac import SNAC
from opensnac.config import CodecConfig
from opensnac.errors import ConfigError, ModelError
from opensnac.training import loop
from opensnac.training.adapt import adapt
from opensnac.training.checkpoint import start_from
from opensnac.training.config import TrainConfig
from opensnac.training.processes import Processes
from opensnac.training.step import Trainer

LAYOUT = {
    "sampling_rate": 8000, "encoder_dim": 16, "encoder_rates": [2, 4], "decoder_dim": 64, "decoder_rates": [4, 2],
    "attn_window_size": None, "codebook_size": 64, "codebook_dim": 8, "vq_strides": [2, 1],
}  # fmt: skip


def of(**changes: Any) -> CodecConfig:
    return CodecConfig.from_dict(LAYOUT | changes)


def trained(config: CodecConfig) -> SNAC:
    """A model whose parameters all differ."""
    torch.manual_seed(1)
    model = SNAC.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("alpha", "bias")):
            parameter.data.uniform_(0.5, 2)
    return model


def test_the_same_layout_is_the_same_model() -> None:
    model = trained(of(attn_window_size=4))
    for name, value in adapt(model, model.config).state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)


def test_new_attention_adds_nothing_and_further_scales_copy_the_coarsest() -> None:
    model = trained(of())
    other = adapt(model, of(attn_window_size=4, vq_strides=[8, 4, 2, 1])).eval()
    audio = 0.3 * torch.randn(1, 1, 8 * 8 * 4)
    with torch.no_grad():
        latent = model.encoder(audio)
        torch.testing.assert_close(other.encoder(audio), latent)
        torch.testing.assert_close(other.decoder(latent, 3), model.decoder(latent, 3))
    assert other.encoder.block[3].to_qkv.weight.std() > 0  # it can learn
    for scale, before in zip(other.quantizer.scales, [0, 0, 0, 1], strict=True):
        torch.testing.assert_close(scale.codebook.weight, model.quantizer.scales[before].codebook.weight)
        torch.testing.assert_close(scale.in_proj.weight, model.quantizer.scales[before].in_proj.weight)


def test_the_middle_taps_of_strided_kernels_are_kept() -> None:
    model = trained(of())
    other = adapt(model, of(encoder_rates=[3, 3], decoder_rates=[3, 3]))
    before, after = (
        [layer.weight for layer in net.encoder.modules() if hasattr(layer, "stride")] for net in (model, other)
    )
    torch.testing.assert_close(after[0][:, :, 1:5], before[0])  # stride 2 to 3: zeros around four taps
    assert not after[0][:, :, [0, 5]].any()
    torch.testing.assert_close(after[1], before[1][:, :, 1:7])  # 4 to 3


def test_the_channels_that_are_read_most_are_kept() -> None:
    model = trained(of())
    down = model.encoder.block[1].block[4]
    weight = down.weight.detach().clone()
    weight[:, [3, 7, 8, 15]] *= 1e-3
    down.assign(weight)
    for unit in model.encoder.block[1].block[:3]:
        mixing = unit.block[3].weight.detach().clone()
        mixing[:, [3, 7, 8, 15]] *= 1e-3
        unit.block[3].assign(mixing)
    kept = [channel for channel in range(16) if channel not in (3, 7, 8, 15)]
    first = adapt(model, of(encoder_dim=12)).encoder.block[0]
    torch.testing.assert_close(first.weight, model.encoder.block[0].weight[kept])
    torch.testing.assert_close(first.bias, model.encoder.block[0].bias[kept])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder_rates": [2, 2, 2], "decoder_rates": [2, 2, 2]}, "expected 2 rates"),
        ({"encoder_dim": 24}, "expected encoder_dim of at most 16"),
        ({"noise": False, "codebook_size": 32}, "expected noise True, codebook_size 64"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        adapt(trained(of()), of(**changes))


def test_a_run_from_another_layout_is_ahead(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    first = loop.train(TrainConfig.from_dict(values_of(corpus, 24, quantize_from=8)), tmp_path / "first")
    values = values_of(corpus, 6, quantize_from=4, validate_every=6)
    values["model"] = values["model"] | {"encoder_rates": [2, 8], "decoder_rates": [8, 2], "attn_window_size": 4}
    random = loop.train(TrainConfig.from_dict(values), tmp_path / "random")
    values |= {"init": str(first / "last")}
    with pytest.raises(ModelError, match="encoder_rates .* instead of .*adapt = true"):
        loop.train(TrainConfig.from_dict(values), tmp_path / "refused")
    adapted = loop.train(TrainConfig.from_dict(values | {"adapt": True}), tmp_path / "adapted")
    before, after = ([e["valid_mel"] for e in entries(run) if "valid_mel" in e][-1] for run in (random, adapted))
    assert after < 0.9 * before
    continued = Trainer(TrainConfig.from_dict(values | {"adapt": True}), Processes("cpu"))
    start_from(continued, str(adapted / "last"))  # of the same layout
    assert continued.quantize_from < 0  # with its codebooks


def test_adapt_needs_a_model() -> None:
    with pytest.raises(ConfigError, match="adapt: expected init with it"):
        TrainConfig.from_dict(values_of(Path("corpus"), 1) | {"adapt": True})
