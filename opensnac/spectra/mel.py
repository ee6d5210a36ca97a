"""Mel scales and filter banks; all mel spectra of this package come from here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Hertz = np.ndarray | float


@dataclass(frozen=True)
class Scale:
    """A mel scale: hertz to mel, and mel to hertz."""

    mel: Callable[[Hertz], np.ndarray]
    hertz: Callable[[np.ndarray], np.ndarray]

    def edges(self, sample_rate: int, bands: int) -> np.ndarray:
        """Band edges in Hz, `bands` equal steps in mel from 0 to half the sampling rate: (bands + 1,)."""
        return self.hertz(np.linspace(0, self.mel(sample_rate / 2), bands + 1))


# 2595 log10(1 + f / 700), as in the HTK Book.
HTK = Scale(lambda hertz: 2595 * np.log10(1 + hertz / 700), lambda mel: 700 * (10 ** (mel / 2595) - 1))
# Slaney's Auditory Toolbox: linear to 1 kHz (15 mel), then logarithmic, 27 mel for each factor of 6.4.
SLANEY = Scale(
    lambda hz: np.where(np.less(hz, 1000), hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1) / 1000) / np.log(6.4)),
    lambda mel: np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27)),
)


def triangles(scale: Scale, sample_rate: int, window: int, bands: int, *, points: int = 1) -> np.ndarray:
    """Triangular filters of peak 1, evenly spaced on a scale, over the bins of a window: (window / 2 + 1, bands).

    A filter is averaged over `points` positions in a bin: 1 takes its centre; with more, no band is empty where bands
    are narrower than bins.
    """
    offsets = ((np.arange(points) + 0.5) / points - 0.5) * sample_rate / window
    hertz = np.fft.rfftfreq(window, 1 / sample_rate)[:, None] + offsets
    # Between two edges, the filter that peaks at the upper one rises and the one that peaks at the lower one falls.
    place = np.interp(hertz, scale.edges(sample_rate, bands + 1), np.arange(bands + 2))
    edge = np.minimum(place.astype(int), bands)
    rows = np.arange(len(hertz))[:, None]
    filters = np.zeros((len(hertz), bands + 2))
    np.add.at(filters, (rows, edge), 1 - (place - edge))
    np.add.at(filters, (rows, edge + 1), place - edge)
    return filters[:, 1:-1] / points


def normalise_area(filters: np.ndarray, scale: Scale, sample_rate: int) -> np.ndarray:
    """The same triangles, each divided by its area in hertz."""
    edges = scale.edges(sample_rate, filters.shape[1] + 1)
    return filters * (2 / (edges[2:] - edges[:-2]))
