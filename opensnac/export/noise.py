"""The decoder's noise as nodes: the computation of opensnac/model/noise.py in 64-bit integers.

Right shifts are divisions, which are exact for non-negative values.
"""

from __future__ import annotations

import math

import numpy as np

from opensnac.export.graph import FLOAT, Graph

MASK = 0xFFFFFFFF
FACTORS = (0x7FEB352D, 0x846CA68B - 2**32)  # the second is negative so that no product overflows 64 bits


def noise_key(graph: Graph, seed: str, number: int) -> str:
    """The 32-bit hash key of a sequence, from seeds (batch, 1) of any sign."""
    low = graph("BitwiseAnd", seed, graph.number(MASK))
    high = _shifted(graph, graph("Sub", seed, low), 32)
    high = graph("BitwiseAnd", high, graph.number(MASK))
    key = graph("BitwiseXor", _mix(graph, low), high)
    return _mix(graph, graph("BitwiseXor", key, _mix(graph, graph.number(number + 1))))


def gaussian(graph: Graph, key: str, position: str) -> str:
    """N(0, 1) values in float32 for a key and non-negative positions."""
    low = graph("BitwiseAnd", position, graph.number(MASK))
    mixed = graph("BitwiseXor", _mix(graph, low), _shifted(graph, position, 32))
    first = _mix(graph, graph("BitwiseXor", mixed, key))
    second = _mix(graph, graph("BitwiseXor", first, graph.number(0x9E3779B9)))

    def real(value: float) -> str:
        return graph.constant(np.array(value, np.float32))

    def uniform(bits: str) -> str:
        return graph("Cast", _shifted(graph, bits, 8), to=FLOAT)

    share = graph("Mul", graph("Add", uniform(first), real(1)), real(2**-24))
    radius = graph("Sqrt", graph("Mul", graph("Log", share), real(-2)))
    return graph("Mul", radius, graph("Cos", graph("Mul", uniform(second), real(2 * math.pi / 2**24))))


def _mix(graph: Graph, x: str) -> str:
    """A 32-bit hash with full avalanche ("lowbias32")."""
    for shift, factor in zip((16, 15), FACTORS, strict=True):
        product = graph("Mul", graph("BitwiseXor", x, _shifted(graph, x, shift)), graph.number(factor))
        x = graph("BitwiseAnd", product, graph.number(MASK))
    return graph("BitwiseXor", x, _shifted(graph, x, 16))


def _shifted(graph: Graph, x: str, bits: int) -> str:
    return graph("Div", x, graph.number(1 << bits))
