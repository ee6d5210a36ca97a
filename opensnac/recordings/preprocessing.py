"""Preprocessing of a recording for a model, block by block: mixing, gain, resampling, clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from opensnac.errors import AudioError
from opensnac.recordings.mixing import Balance, Mix, channel_alone, mean_of
from opensnac.recordings.resampling import Resampler
from opensnac.recordings.source import Source

NORMAL_DB = -1.0  # dBFS: the peak after `normalize`
FORGIVEN_PEAK, FORGIVEN_SHARE = 1.26, 1e-3  # usual overshoot of lossy formats: 2 dB, in one sample of 1000
FULL_SCALES = {"8": 1 << 7, "16": 1 << 15, "24": 1 << 23, "32": 1 << 31}  # of integers, by bits


@dataclass(frozen=True)
class Preprocessing:
    """How recordings are preprocessed.

    `mono` mixes the channels down; `channel`, counted from 1, selects one instead. `gain_db` is applied to all samples;
    `normalize` scales each recording's peak to -1 dBFS, which reads it twice. `strict` refuses recordings with remarks.
    """

    mono: bool = False
    gain_db: float = 0.0
    normalize: bool = False
    strict: bool = False
    channel: int | None = None

    def channels_of(self, channels: int) -> int:
        """How many of a recording's channels are encoded."""
        return 1 if self.mono or self.channel is not None else channels


class Preprocessor:
    """Preprocesses an open recording. `num_samples`, at its own rate, and `remarks` are complete after `blocks`."""

    def __init__(
        self, recording: Source, sampling_rate: int, preprocessing: Preprocessing, max_channels: int = 255
    ) -> None:
        self.rate = recording.rate
        self.channels = preprocessing.channels_of(recording.channels)
        self.num_samples = 0
        self.remarks = recording.remarks
        self._recording, self._preprocessing, self._sampling_rate = recording, preprocessing, sampling_rate
        if self.channels > max_channels:
            raise AudioError(
                f"{recording.name}: expected at most {max_channels} channels, got {self.channels}; mix down with --mono"
            )
        if not 1 <= (preprocessing.channel or 1) <= recording.channels:
            raise AudioError(
                f"{recording.name}: expected a channel from 1 to {recording.channels}, got {preprocessing.channel}"
            )
        if preprocessing.normalize and not recording.repeatable:
            raise AudioError(
                f"{recording.name}: expected a file for --normalize, which reads twice, got a pipe; "
                "give a file, or use --gain"
            )

    def blocks(self, report: Callable[[float], None] = lambda share: None) -> Iterator[np.ndarray]:
        """Float32 (channels, samples) at the model's rate."""
        resampler = Resampler(self.rate, self._sampling_rate, self.channels)
        for block in self._preprocessed():
            yield resampler.push(block).clip(-1, 1)
            if self._recording.num_samples:
                report(min(1.0, self.num_samples / self._recording.num_samples))
        yield resampler.finish().clip(-1, 1)

    def _preprocessed(self) -> Iterator[np.ndarray]:
        """At the recording's rate, mixed and scaled."""
        preprocessing = self._preprocessing
        mix, gain = self._survey()
        clipping = _Clipping()
        unseen = preprocessing.mono and preprocessing.channel is None and not self._recording.repeatable
        balance = Balance(self._recording.channels, self.rate) if unseen and mix else None
        for block in self._recording.blocks():
            self.num_samples += block.shape[1]
            if balance is not None:
                balance.push(block)
            block = mix(block) if mix else block
            block = block if gain == 1 else block * np.float32(gain)
            clipping.count(block)
            yield block
        if balance is not None and (loss := balance.loss):
            self.remarks.add(f"its channels cancel each other: {loss}, and is now; take one of them with --channel")
        if remark := clipping.remark(self._recording.lossy):
            self.remarks.add(remark)

    def _survey(self) -> tuple[Mix | None, float]:
        """The mix, None for no mixing, and the gain factor; reads the recording once if they depend on it."""
        preprocessing, recording = self._preprocessing, self._recording
        alone = None if preprocessing.channel is None else channel_alone(preprocessing.channel, recording.channels)
        mixes = preprocessing.mono and recording.channels > 1 and alone is None
        gain = 10 ** (preprocessing.gain_db / 20)
        if alone is not None and not preprocessing.normalize:
            return alone, gain
        if not recording.repeatable or not (mixes or preprocessing.normalize):
            return (mean_of(recording.channels) if mixes else None), gain
        balance = Balance(recording.channels, self.rate)
        peaks, mean_peak = np.zeros(recording.channels), 0.0
        for block in recording.blocks():
            balance.push(block)
            peaks = np.maximum(peaks, np.abs(block).max(axis=1))
            mean_peak = max(mean_peak, float(np.abs(block.mean(axis=0)).max()))
        mix = balance.mix() if mixes else alone
        if mix is not None and mix.remark:
            self.remarks.add(mix.remark)
        if preprocessing.normalize:
            mean = mixes and mix is not None and not mix.remark
            peak = mean_peak if mean else float((peaks * (mix.weights if mix else 1)).max())
            gain *= 10 ** (NORMAL_DB / 20) / peak if peak else 1
        return mix, gain


class _Clipping:
    """Counts samples beyond full scale, and the peak."""

    def __init__(self) -> None:
        self.peak, self._over, self._all = 0.0, 0, 0

    def count(self, block: np.ndarray) -> None:
        loud = np.abs(block)
        self.peak = max(self.peak, float(loud.max(initial=0)))
        self._over += int(np.count_nonzero(loud > 1))
        self._all += block.size

    def remark(self, lossy: bool) -> str | None:
        """A remark on clipping; None without any, or for the usual overshoot of lossy formats."""
        if not self._over or (lossy and self.peak < FORGIVEN_PEAK and self._over < FORGIVEN_SHARE * self._all):
            return None
        text = f"its peak is {self.peak:.5g} of full scale: {self._over / self._all:.2%} of its samples are clipped"
        for bits, scale in FULL_SCALES.items():
            if scale / 64 < self.peak <= scale and self.peak > 32:
                decibels = -20 * np.log10(scale)
                return f"{text}; its scale seems to be {bits}-bit, which --gain {decibels:.2f} converts to ±1"
        return f"{text}; use --normalize or --gain"
