"""The four graphs: encoder and decoder, for whole signals and for streams."""

from __future__ import annotations

from collections.abc import Callable

from onnx import ModelProto

from opensnac.export.graph import FLOAT, INT64, Graph, Metadata
from opensnac.export.layers import decoder_layers, encoder_layers
from opensnac.export.pieces import Pieces, encoder_look_ahead
from opensnac.export.quantizer import dequantize, quantize
from opensnac.export.weights import Weights
from opensnac.export.whole import Whole

Make = Callable[[Weights, str, bool], ModelProto]


def encoder_model(weights: Weights, stored: str = "fp32", noise: bool = True) -> ModelProto:
    """Whole signals of any length, zero-padded to whole groups of frames -> codes."""
    graph, config = _encoder_graph(stored), weights.config
    audio = graph.input("input_values", FLOAT, ["batch", 1, "samples"])
    group = graph.integers(config.frame_multiple * config.hop_length)
    missing = graph("Mod", graph("Neg", graph("Shape", audio, start=2, end=3)), group)
    padded = graph("Pad", audio, graph("Concat", graph.integers(0, 0, 0, 0, 0), missing, axis=0))
    latent = Whole(graph, weights, 1).apply(padded, encoder_layers(config))
    _give_codes(graph, weights, latent)
    return graph.model("encoder_model", {**facts(weights), "weights": stored})


def decoder_model(weights: Weights, stored: str = "fp32", noise: bool = True) -> ModelProto:
    """Codes of whole signals -> samples; `noise=False` omits the decoder's noise."""
    graph, config = Graph(stored), weights.config
    latent = dequantize(graph, weights, _take_codes(graph, weights))
    writer = Whole(graph, weights, config.latent_dim or 0, noise and config.noise)
    graph.output(writer.apply(latent, decoder_layers(config)), "audio_values", FLOAT, ["batch", 1, "decoded_samples"])
    return graph.model("decoder_model", {**facts(weights), "weights": stored})


def encoder_stream(weights: Weights, stored: str = "fp32", noise: bool = True) -> ModelProto:
    """Chunks of whole groups of frames -> codes, delayed; a chunk ends where the next group's codes are determined."""
    graph, config = _encoder_graph(stored), weights.config
    layers, group = encoder_layers(config), config.frame_multiple * config.hop_length
    first = -(-encoder_look_ahead(config) % group)
    audio = graph.input("input_values", FLOAT, ["batch", 1, "samples"])
    writer = Pieces(graph, weights, 1, offset=first, tick=1)
    _give_codes(graph, weights, writer.apply(audio, layers))
    return _stream("encoder_stream", weights, stored, writer, first)


def decoder_stream(weights: Weights, stored: str = "fp32", noise: bool = True) -> ModelProto:
    """Codes of whole groups of frames -> as many samples, delayed by the look-ahead."""
    graph, config = Graph(stored), weights.config
    latent = dequantize(graph, weights, _take_codes(graph, weights))
    writer = Pieces(
        graph, weights, config.latent_dim or 0, offset=0, tick=config.hop_length, noise=noise and config.noise
    )
    audio = writer.apply(latent, decoder_layers(config))
    graph.output(audio, "audio_values", FLOAT, ["batch", 1, "samples"])
    return _stream("decoder_stream", weights, stored, writer, 0)


def _encoder_graph(stored: str) -> Graph:
    """int8 would degrade the codes, so an encoder's weights are in float16 instead."""
    return Graph("fp16" if stored == "int8" else stored)


def _take_codes(graph: Graph, weights: Weights) -> list[str]:
    return [
        graph.input(f"audio_codes.{i}", INT64, ["batch", f"codes_{i}"]) for i, _ in enumerate(weights.config.vq_strides)
    ]


def _give_codes(graph: Graph, weights: Weights, latent: str) -> None:
    for i, codes in enumerate(quantize(graph, weights, latent)):
        graph.output(codes, f"audio_codes.{i}", INT64, ["batch", f"codes_{i}"])


def _stream(name: str, weights: Weights, stored: str, writer: Pieces, first: int) -> ModelProto:
    writer.graph.output(writer.next_state(), "next_state", FLOAT, ["batch", writer.state_size])
    stream = {
        "state_size": writer.state_size,
        "state_layout": writer.state_parts,
        "first_sample": first,  # position of the first chunk
        "look_ahead": first - writer.offset * writer.tick,
    }
    return writer.graph.model(name, {**facts(weights), "weights": stored, **stream})


def facts(weights: Weights) -> Metadata:
    """The metadata common to all graphs of a model."""
    config = weights.config
    return {
        "name": weights.name,
        "fingerprint": weights.fingerprint,
        "config": config.to_dict(),
        "sampling_rate": config.sampling_rate,
        "hop_length": config.hop_length,
        "group_samples": config.frame_multiple * config.hop_length,
    }


WHOLE: dict[str, Make] = {"encoder_model": encoder_model, "decoder_model": decoder_model}
STREAMS: dict[str, Make] = {"encoder_stream": encoder_stream, "decoder_stream": decoder_stream}
