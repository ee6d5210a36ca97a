"""Recordings as the encoder gets them: opened, filtered, trimmed, normalised and, if short, resampled."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from opensnac.config import CodecConfig
from opensnac.corpus.levels import Levels, Loudness
from opensnac.corpus.places import Place
from opensnac.corpus.settings import Settings
from opensnac.errors import AudioError
from opensnac.recordings.mixing import Balance, Mix
from opensnac.recordings.resampling import Resampler
from opensnac.recordings.source import Source, stream_name

LONGEST_SECONDS = 60.0  # of all channels together; longer recordings are encoded in chunks, one at a time
VOICED_SECONDS = 0.02  # the window in which --trim-silence measures the level
KEPT_SECONDS = 0.1  # of silence kept before and after the trimmed part


class Excluded(Exception):  # noqa: N818
    """A recording excluded by the selection; not a failure."""


@dataclass(frozen=True)
class Cut:
    """Samples `start` to `stop` of a recording at its own rate, with the downmix and gain to apply."""

    start: int = 0
    stop: int | None = None
    gain: float = 1.0
    mix: Mix | None = None  # to one channel; None keeps all channels


@dataclass
class Loaded:
    """A recording as read: its channels, rate (Hz), samples to encode, and their levels by segment.

    `samples` is (channels, samples) at the codec's rate within ±1 for a short recording, None for a long one.
    """

    channels: int
    rate: int
    cut: Cut
    levels: Levels
    samples: np.ndarray | None = None

    @property
    def num_samples(self) -> int:
        """Samples per channel, known once they have been read."""
        return self.levels.num_samples


@contextmanager
def opened(place: Place) -> Iterator[Source]:
    """Open the recording at a place; an AudioError names the place."""
    source = place.open()
    try:
        with Source(source) as recording:
            yield recording
    except AudioError as error:
        said = str(error).removeprefix(f"{stream_name(source)}: ")
        raise AudioError(f"{place}: {said.removeprefix(f'{place}: ')}") from error
    finally:
        if not isinstance(source, str):
            source.close()


def load(place: Place, settings: Settings, config: CodecConfig) -> Loaded:
    """Read a short recording; of a long one only what encoding needs in advance.

    Raises Excluded if the selection rejects it, AudioError or OSError if it cannot be read.
    """
    with opened(place) as recording:
        channels = 1 if settings.mono else recording.channels
        promised = recording.num_samples
        rate = recording.rate
        long = promised is None or channels * promised > LONGEST_SECONDS * rate
    mix = _mix(place) if settings.mono and recording.channels > 1 else None
    cut = Cut(mix=mix)
    if settings.trim_silence is not None or settings.loudness is not None or (long and settings.max_seconds):
        cut = _scan(place, settings, mix)
    loaded = Loaded(channels, rate, cut, Levels(channels, segment_borders(settings, config, rate)))
    if not long:
        with opened(place) as recording:
            parts = [*at_codec_rate(blocks_of(recording, loaded, settings), loaded, config)]
        check_length(loaded, settings)
        loaded.samples = np.concatenate(parts, axis=1)
    return loaded


def blocks_of(recording: Source, loaded: Loaded, settings: Settings) -> Iterator[np.ndarray]:
    """(channels, samples) blocks to encode, at the recording's rate; adds each to `loaded.levels`."""
    position, cut = 0, loaded.cut
    for block in recording.blocks():
        block = block if cut.mix is None else cut.mix(block)
        stop = None if cut.stop is None else max(0, cut.stop - position)
        part = block[:, max(0, cut.start - position) : stop]
        position += block.shape[1]
        if part.shape[1]:
            part = part if cut.gain == 1 else part * np.float32(cut.gain)
            loaded.levels.add(part)
            yield part


def at_codec_rate(blocks: Iterable[np.ndarray], loaded: Loaded, config: CodecConfig) -> Iterator[np.ndarray]:
    """Blocks resampled to the model's rate and clipped to full scale."""
    resampler = Resampler(loaded.rate, config.sampling_rate, loaded.channels)
    for block in blocks:
        yield resampler.push(block).clip(-1, 1)
    yield resampler.finish().clip(-1, 1)


def check_length(loaded: Loaded, settings: Settings) -> None:
    """Raise Excluded unless the recording's length is within the selection."""
    seconds = loaded.num_samples / loaded.rate
    if seconds < settings.min_seconds or seconds > (settings.max_seconds or math.inf):
        raise Excluded


def segment_frames(settings: Settings, config: CodecConfig) -> int | None:
    """Frames per segment: whole groups, at most the requested length but at least one group."""
    if settings.segment is None:
        return None
    return max(1, int(settings.segment * config.frame_rate / config.frame_multiple)) * config.frame_multiple


def segment_borders(settings: Settings, config: CodecConfig, rate: int) -> Callable[[int], int | None]:
    """A function from n to the sample where segment n ends at `rate`; None for the recording's end."""
    frames = segment_frames(settings, config)
    if frames is None:
        return lambda n: None
    return lambda n: (n + 1) * frames * config.hop_length * rate // config.sampling_rate


def _mix(place: Place) -> Mix:
    """The downmix to one channel, the same as `opensnac encode --mono`."""
    with opened(place) as recording:
        balance = Balance(recording.channels, recording.rate)
        for block in recording.blocks():
            balance.push(block)
        return balance.mix()


def _scan(place: Place, settings: Settings, mix: Mix | None) -> Cut:
    """Read a recording once in advance to find what to trim and which gain to apply."""
    with opened(place) as recording:
        blocks = recording.blocks()
        first = next(blocks)
        channels = 1 if settings.mono else recording.channels
        voiced, loudness = _Voiced(recording.rate, settings.trim_silence), Loudness(recording.rate, channels)
        length = 0
        for block in itertools.chain([first], blocks):
            block = block if mix is None else mix(block)
            length += block.shape[1]
            if settings.trim_silence is None and length > (settings.max_seconds or math.inf) * recording.rate:
                raise Excluded
            if settings.trim_silence is not None:
                voiced.add(block)
            if settings.loudness is not None:
                loudness.add(block)
        start, stop = voiced.ends(length) if settings.trim_silence is not None else (0, length)
        gain = 1.0 if settings.loudness is None else loudness.gain_to(settings.loudness)
        if stop - start > (settings.max_seconds or math.inf) * recording.rate:
            raise Excluded
        return Cut(start, stop, gain, mix)


class _Voiced:
    """Finds the first and the last window of a recording above a level."""

    def __init__(self, rate: int, threshold_db: float | None) -> None:
        self._size = max(1, round(VOICED_SECONDS * rate))
        self._margin = round(KEPT_SECONDS * rate)
        self._threshold_db = threshold_db
        self._power = 0.0 if threshold_db is None else 10 ** (-abs(threshold_db) / 10)
        self._rest = np.zeros(0)
        self._count = 0
        self._first: int | None = None
        self._last = 0

    def add(self, block: np.ndarray) -> None:
        power = np.concatenate([self._rest, np.square(block, dtype=np.float64).mean(axis=0)])
        whole = len(power) // self._size
        self._rest = power[whole * self._size :]
        loud = np.flatnonzero(power[: whole * self._size].reshape(whole, self._size).mean(axis=1) > self._power)
        if len(loud):
            self._first = self._count + int(loud[0]) if self._first is None else self._first
            self._last = self._count + int(loud[-1])
        self._count += whole

    def ends(self, length: int) -> tuple[int, int]:
        """The first sample to load and the end, with a margin. AudioError for silence."""
        if self._first is None:
            raise AudioError(f"expected a sound above {-abs(self._threshold_db or 0):g} dB, got silence")
        return (
            max(0, self._first * self._size - self._margin),
            min(length, (self._last + 1) * self._size + self._margin),
        )
