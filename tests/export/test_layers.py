"""The layers of export are those of the model, with the engine's context."""

from __future__ import annotations

import configs
import pytest
from layouts import LAYOUTS

from opensnac import SNAC
from opensnac.export import layers as described
from opensnac.export.pieces import encoder_look_ahead
from opensnac.export.weights import Weights
from opensnac.streaming import StreamDecoder, StreamEncoder


@pytest.fixture(scope="module", params=LAYOUTS)
def model(request: pytest.FixtureRequest) -> SNAC:
    return configs.model_of(LAYOUTS[request.param])


def names_of(layer: described.Layer) -> set[str]:
    """The weights that a layer needs."""
    match layer:
        case described.Unit():
            return names_of(layer.conv) | names_of(layer.pointwise)
        case described.Kernel():
            alpha = {f"{layer.snake}.alpha"} if layer.snake else set()
            return {f"{layer.name}.weight", f"{layer.name}.bias"} | alpha
        case described.Attention():
            return {f"{layer.name}.{part}.weight" for part in ("norm", "to_qkv", "to_out")} | {
                f"{layer.name}.norm.bias"
            }
        case described.Noise():
            return {f"{layer.name}.weight"}
    return set()


def test_every_weight_is_used_and_none_is_missing(model: SNAC) -> None:
    layers = described.encoder_layers(model.config) + described.decoder_layers(model.config)
    asked = set.union(*map(names_of, layers))
    there = {name for name in Weights.of(model).arrays if not name.endswith("inv_freq") and "quantizer" not in name}
    assert asked == there


def test_context_equals_the_engines(model: SNAC) -> None:
    engine = model.freeze(backend="torch")
    encoder, decoder = StreamEncoder(engine), StreamDecoder(engine)
    assert encoder_look_ahead(model.config) == encoder.exact_look_ahead
    for stack, describe in ((encoder._stack, described.encoder_layers), (decoder._stack, described.decoder_layers)):
        offset, tick, context = stack.offset, stack.tick, []
        for layer in describe(model.config):
            keep, offset = layer.context(offset)
            tick = tick * layer.down // layer.up
            context += [keep] if keep else []
        assert (offset, tick) == (stack.out_offset, stack.out_tick)
        assert context == [keep for stage in stack.stages for keep in stage.context if keep]
