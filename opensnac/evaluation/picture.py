"""Original and decoded speech as mel spectrograms, one above the other. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opensnac.files import atomic_file
from opensnac.spectra.mel import HTK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WINDOW_SECONDS, HOP_SECONDS = 0.032, 0.005
BANDS = 160
RANGE_DB = 75.0  # below the loudest point of the original; anything quieter is as dark as silence
QUIETEST_DB = -100.0
LONGEST = 10.0  # seconds drawn; more would blur details
TICKS_KHZ = (0.25, 0.5, 1, 2, 4, 8, 16)


def draw(target: Path, signals: np.ndarray, titles: Sequence[tuple[str, str]], sample_rate: int) -> None:
    """Write a PNG with a panel for each of `signals`, (signals, samples) at `sample_rate` Hz: the first ten seconds.

    A title is a heading and figures. All panels share one level scale, relative to the first one's loudest point.
    `target` is written atomically and replaces an existing file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    length = min(signals.shape[1], int(LONGEST * sample_rate))
    spectra = [mel_spectrogram(signal[:length], sample_rate) for signal in signals]
    loudest = max(spectra[0].max(), QUIETEST_DB)  # so that silence is dark
    figure = Figure(figsize=(10, 2.9 * len(signals)), dpi=120, layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(signals), sharex=True, squeeze=False)[:, 0]
    for panel, spectrum, (heading, figures) in zip(panels, spectra, titles, strict=True):
        extent = (0, length / sample_rate, 0, float(HTK.mel(sample_rate / 2)))
        levels = panel.imshow(
            spectrum - loudest, cmap="magma", vmin=-RANGE_DB, vmax=0,
            origin="lower", aspect="auto", interpolation="bilinear", extent=extent,
        )  # fmt: skip
        panel.set_title(heading, loc="left", fontsize=12, fontweight="bold", parse_math=False)
        panel.set_title(figures, loc="right", fontsize=10, color="0.3", parse_math=False)
        _frequency_axis(panel, sample_rate)
    panels[-1].set_xlabel("time, s")
    bar = figure.colorbar(levels, ax=list(panels), aspect=40, pad=0.015)
    bar.set_label("level, dB")
    bar.outline.set_visible(False)
    with atomic_file(target, force=True) as path:
        figure.savefig(path, format="png")


def _frequency_axis(panel: Axes, sample_rate: int) -> None:
    ticks = [tick for tick in TICKS_KHZ if 1000 * tick < sample_rate / 2]
    panel.set_yticks([float(HTK.mel(1000 * tick)) for tick in ticks], [f"{tick:g}" for tick in ticks])
    panel.set_ylabel("frequency, kHz")
    panel.tick_params(length=3, color="0.5", labelsize=9)
    panel.spines[:].set_visible(False)


def mel_spectrogram(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    """Levels in dB of (samples,): (BANDS, frames), 5 ms per frame, bands of equal width in mel to half the rate."""
    window = int(WINDOW_SECONDS * sample_rate)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(signal, window // 2), window)
    frames = frames[:: max(1, round(HOP_SECONDS * sample_rate))]
    bins = 4 * window  # zero-padded, as the lowest bands are narrower than a bin
    power = np.abs(np.fft.rfft(frames * np.hanning(window), bins)) ** 2 / window
    edges = HTK.edges(sample_rate, BANDS) * bins / sample_rate
    starts = edges[:-1].astype(int)
    counts = np.maximum(1, np.diff(starts, append=power.shape[1]))
    return 10 * np.log10(np.add.reduceat(power, starts, axis=1) / counts + 1e-20).T
