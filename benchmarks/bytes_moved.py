"""Estimates a residual unit's GPU memory traffic: eager, as fused by inductor, and in one pass.

    python benchmarks/bytes_moved.py [--config speech_24khz] [--type float32]

Counted by hand from the arithmetic in engine/layers.py: activations that each kernel reads and writes, without the
much smaller weights. A kernel for the depthwise convolution reads each step once (neighbours come from the cache). The
lower bound on time follows from the memory's bandwidth; that of the unit's matrix product is given for comparison.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from opensnac.showcase.bench import bench_model

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
MEMORY = 3.35e12  # bytes per second of an H100 SXM
PRODUCTS = {"float32": 495e12, "float16": 990e12, "bfloat16": 990e12}  # operations per second there; float32 as TF32
# Signals read and written by each kernel of a unit, per input signal.
PASSES = {
    "eager": {
        "join with context": 2,
        "keep": 0,
        "silence": 2,
        "Snake: x * alpha": 2,
        "sin": 2,
        "square, in place": 2,
        "x + it / alpha": 3,
        "depthwise": 2,
        "Snake of the result": 9,
        "product and bias": 2,
        "sum": 3,
    },
    "compiled": {
        "join, silence, Snake": 3,  # reads a signal, writes it and its Snake
        "depthwise": 2,  # a library kernel, which fuses with nothing
        "Snake of the result": 2,
        "product and bias": 2,
        "sum": 3,
    },
    "compiled, taps written out": {
        "join, silence": 2,
        "Snake, depthwise, Snake": 2,  # one loop: the first Snake is computed again for each of seven taps
        "product and bias": 2,
        "sum": 3,
    },
    "one pass": {"read, write": 2},
}


@dataclass(frozen=True)
class Place:
    """Three residual units at one rate."""

    part: str
    channels: int
    steps: float  # per second of audio

    @property
    def values(self) -> float:
        """Values of one signal per second."""
        return self.channels * self.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="speech_24khz", help="a shipped run's name, or a config.json")
    parser.add_argument("--type", choices=BYTES, default="float32")
    options = parser.parse_args()
    config = bench_model(None, options.config).config
    size = BYTES[options.type]
    places = [*encoder(config), *decoder(config)]
    forms = {name: sum(passes.values()) for name, passes in PASSES.items()}
    print("signals moved by a unit:", ", ".join(f"{name} {count}" for name, count in forms.items()))
    print(f"\n{options.config}, {options.type}; MB per second of audio in the three units at each rate")
    for place in places:
        moved = "  ".join(f"{name} {3 * count * place.values * size / 1e6:.1f}" for name, count in forms.items())
        print(f"{place.part:8}{place.channels:5} channels  {moved}")
    for part in ("encoder", "decoder"):
        those = [place for place in places if place.part == part]
        operations = sum(3 * 2 * place.channels * place.values for place in those)
        least = 1e6 * operations / PRODUCTS[options.type]
        print(f"\n{part}: the matrix products of the units take at least {least:.2f} us per second")
        for name, count in forms.items():
            moved = sum(3 * count * place.values * size for place in those)
            print(f"  {name}: {moved / 1e6:.0f} MB, at least {1e6 * moved / MEMORY:.1f} us")


def encoder(config) -> list[Place]:
    """The units of the encoder."""
    steps, channels, places = float(config.sampling_rate), config.encoder_dim, []
    for rate in config.encoder_rates:
        places.append(Place("encoder", channels, steps))
        steps, channels = steps / rate, 2 * channels
    return places


def decoder(config) -> list[Place]:
    """The units of the decoder."""
    steps, channels, places = config.frame_rate, config.decoder_dim, []
    for rate in config.decoder_rates:
        steps, channels = steps * rate, channels // 2
        places.append(Place("decoder", channels, steps))
    return places


if __name__ == "__main__":
    main()
