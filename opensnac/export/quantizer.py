"""The quantiser as nodes: latent frames (batch, channels, frames) to codes (batch, frames / stride) and back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from opensnac.export.graph import Graph
from opensnac.export.weights import Weights


def quantize(graph: Graph, weights: Weights, latent: str) -> list[str]:
    """Codes of each scale, coarse to fine, each scale quantizing the residual of the previous ones."""
    codes: list[str] = []
    strides = weights.config.vq_strides
    for scale, stride in enumerate(strides):
        pooled = graph("AveragePool", latent, kernel_shape=[stride], strides=[stride]) if stride > 1 else latent
        z_e = graph("Transpose", _project(graph, weights, scale, "in_proj", pooled), perm=[0, 2, 1])
        directions = graph("LpNormalization", _codebook(graph, weights, scale), axis=1, p=2)
        likeness = graph("MatMul", z_e, graph("Transpose", directions, perm=[1, 0]))
        codes.append(graph("ArgMax", likeness, axis=2, keepdims=0))
        if len(codes) < len(strides):
            latent = graph("Sub", latent, _expand(graph, weights, scale, codes[-1]))
    return codes


def dequantize(graph: Graph, weights: Weights, codes: Sequence[str]) -> str:
    """The latent frames of codes."""
    return reduce(lambda a, b: graph("Add", a, b), [_expand(graph, weights, *scale) for scale in enumerate(codes)])


def _expand(graph: Graph, weights: Weights, scale: int, codes: str) -> str:
    """One scale's vectors, each repeated for the frames of its stride."""
    stride = weights.config.vq_strides[scale]
    z_q = graph("Transpose", graph("Gather", _codebook(graph, weights, scale), codes, axis=0), perm=[0, 2, 1])
    vectors = _project(graph, weights, scale, "out_proj", z_q)
    if stride == 1:
        return vectors
    repeated = graph("Expand", graph("Unsqueeze", vectors, graph.integers(3)), graph.integers(1, 1, 1, stride))
    return graph("Reshape", repeated, graph.integers(0, 0, -1))


def _codebook(graph: Graph, weights: Weights, scale: int) -> str:
    shape = weights.config.codebook_size, weights.config.codebook_dim
    return graph.weight(weights.get(f"quantizer.quantizers.{scale}.codebook.weight", shape), axis=None)


def _project(graph: Graph, weights: Weights, scale: int, name: str, x: str) -> str:
    name = f"quantizer.quantizers.{scale}.{name}"
    latent_dim, small = weights.config.latent_dim or 0, weights.config.codebook_dim
    shape = (small, latent_dim, 1) if name.endswith("in_proj") else (latent_dim, small, 1)
    matrix = graph.weight(weights.get(f"{name}.weight", shape), axis=0)
    return graph("Conv", x, matrix, graph.constant(weights.get(f"{name}.bias", shape[:1])), kernel_shape=[1])
