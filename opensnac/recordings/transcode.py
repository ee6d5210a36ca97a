"""A recording to a `.snac` file and back: audio, model and bitstream in a row.

N samples at rate R become ceil(N · C / R) samples at the codec's rate C, whole frames of codes, and again
exactly N samples at R, or ceil(N · X / R) at another rate X. Each channel is coded by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np

from opensnac import bitstream
from opensnac.bitstream import WEIGHTS_HASH_DIGITS, Header, Limits
from opensnac.errors import (
    BitstreamError,
    DamagedStreamError,
    ModelMismatchError,
    OpensnacError,
)
from opensnac.files import OutputFile, atomic_file, refuse_existing
from opensnac.recordings.codec import in_arrays
from opensnac.recordings.jobs import Report, no_report
from opensnac.recordings.model_cache import ModelCache
from opensnac.recordings.preprocessing import Preprocessing, Preprocessor
from opensnac.recordings.resampling import Resampler, resampled_length
from opensnac.recordings.sink import Sink, writable_ending
from opensnac.recordings.source import Source, check_rate, stream_name

if TYPE_CHECKING:
    from opensnac.recordings.codec import Model

MAX_CHANNELS = 255  # what a header can say
PIECE_SAMPLES = 1 << 15  # of all channels together that the model works on at once


@dataclass(frozen=True)
class Result:
    """What was done to one recording: its length in seconds, what was wrong with a salvaged one, what was odd."""

    seconds: float
    damage: str | None = None
    warnings: tuple[str, ...] = ()


class Recorded(Protocol):
    """A recording as codes. Iterating gives them as they become certain: int64 (channels, n_i) a scale.

    `num_samples` (at `rate`, Hz) and all `remarks` are there once the codes have ended.
    """

    @property
    def channels(self) -> int:
        """Each of them is coded by itself."""

    @property
    def rate(self) -> int:
        """Hz, of the recording."""

    @property
    def num_samples(self) -> int:
        """Of one channel."""

    @property
    def remarks(self) -> Sequence[str]:
        """What was odd about it."""

    def __iter__(self) -> Iterator[list[np.ndarray]]: ...


class Coding:
    """A recording on its way through a model, piece by piece, in flat memory."""

    def __init__(self, recording: Source, model: Model, preprocessing: Preprocessing, report: Report = no_report):
        self._preprocessor = Preprocessor(recording, model.config.sampling_rate, preprocessing, MAX_CHANNELS)
        self.channels, self.rate, self.remarks = (
            self._preprocessor.channels,
            self._preprocessor.rate,
            self._preprocessor.remarks,
        )
        self._model, self._report = model, report

    @property
    def num_samples(self) -> int:
        """Of one channel, so far."""
        return self._preprocessor.num_samples

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return encode_blocks(self._preprocessor.blocks(self._report), self._model, self.channels)


def write_codes(
    recorded: Recorded, target: str | Path | BinaryIO, model: Model, *, live: bool = False, force: bool = False
) -> Result:
    """Write a recording's codes as a `.snac` file or stream, as they come.

    `live` sends each coarse frame as soon as it is certain, in a packet of its own. A named target appears whole or not
    at all; `force` replaces another. FileExistsError for the target.
    """
    pieces = iter(recorded)
    first = next(pieces)  # what cannot be read should not begin a file
    with _binary_output(target, force) as file:
        per_packet = 1 if live else bitstream.DEFAULT_COARSE_FRAMES_PER_PACKET
        writer = bitstream.Writer(file, header_for(model, recorded.channels, recorded.rate), per_packet)
        for codes in itertools.chain([first], pieces):
            writer.write(codes)
            if live:
                writer.flush()
        writer.close(recorded.num_samples)
    return Result(recorded.num_samples / recorded.rate, warnings=tuple(recorded.remarks))


def encode_file(
    source: str | Path | BinaryIO,
    target: str | Path | BinaryIO,
    model: Model,
    *,
    mono: bool = False,
    gain_db: float = 0.0,
    normalize: bool = False,
    strict: bool = False,
    channel: int | None = None,
    raw: tuple[int, int] | None = None,
    live: bool = False,
    force: bool = False,
    limits: Limits | None = None,
    report: Report = no_report,
) -> Result:
    """Code a recording into a `.snac` file or stream: `Coding`, then `write_codes`.

    `raw`, a rate and a number of channels, is for headerless 16-bit samples. `mono`, `channel`, `gain_db`, `normalize`
    and `strict` are as in Preprocessing. Samples beyond ±1 are clipped, which the result's `warnings` say, as they say
    whatever else is odd. Raises AudioError for the recording, LimitError where it goes beyond `limits`, FileExistsError
    for the target.
    """
    if isinstance(target, str | Path):
        refuse_existing(Path(target), force)  # before the work, not after it
    preprocessing = Preprocessing(mono, gain_db, normalize, strict, channel)
    with Source(source, raw, strict, limits) as recording:
        result = write_codes(Coding(recording, model, preprocessing, report), target, model, live=live, force=force)
    report(1.0)
    return result


def decode_file(
    source: str | Path | BinaryIO,
    target: str | Path | BinaryIO,
    models: Model | ModelCache,
    *,
    sample_rate: int | None = None,
    ending: str | None = None,
    seed: int = 0,
    noise: bool = True,
    salvage: bool = False,
    force: bool = False,
    limits: Limits | None = None,
    report: Report = no_report,
) -> Result:
    """Decode a `.snac` file or stream into a WAV, FLAC or OGG file (or stream, as `ending` says) as packets come.

    At the recording's own rate unless `sample_rate` (Hz) is given. `salvage` decodes what precedes damage,
    which the result then names. Raises BitstreamError for the stream, LimitError where it goes beyond `limits`,
    ModelError when its model is not there, ModelMismatchError when the model is another, AudioError or FileExistsError
    for the target.
    """
    if isinstance(target, str | Path):
        writable_ending(target, ending)
        refuse_existing(Path(target), force)
    if sample_rate is not None:
        check_rate(sample_rate, "decoding")
    with _about(source), _binary_input(source) as file:
        reader = bitstream.Reader(file, limits)
        header = reader.header
        model = models.for_header(header) if isinstance(models, ModelCache) else models
        check_model(header, model)
        rate = sample_rate or header.original_rate
        check_rate(rate, "the header")
        playback = _Playback(reader, model, seed if noise else None, salvage)
        blocks = playback.blocks()
        first = next(blocks)  # what cannot be decoded should not begin a file
        size = Path(source).stat().st_size if isinstance(source, str | Path) else None
        at_most = None if size is None else int(8 * size / header.bits_per_second * rate)
        resampler = Resampler(header.sampling_rate, rate, header.channels)
        with Sink(target, header.channels, rate, ending, force, at_most) as sink:
            for block in itertools.chain([first], blocks):
                sink.write(resampler.push(block))
                if size:
                    report(min(1.0, reader.num_bytes / size))
            sink.write(resampler.finish(resampled_length(reader.usable_samples, header.original_rate, rate)))
    report(1.0)
    return Result(reader.usable_samples / header.original_rate, playback.damage)


def header_for(model: Model, channels: int, rate: int) -> Header:
    """The header of a recording of `channels` at `rate` Hz, coded by `model`."""
    config = model.config
    return Header(
        model_name=model.name,
        weights_hash=model.fingerprint[:WEIGHTS_HASH_DIGITS],
        sampling_rate=config.sampling_rate,
        original_rate=rate,
        channels=channels,
        hop_length=config.hop_length,
        vq_strides=config.vq_strides,
        codebook_size=config.codebook_size,
        frame_multiple=config.frame_multiple,
    )


def check_model(header: Header, model: Model) -> None:
    """Raise ModelMismatchError, which names both, unless `model` is the one that coded the stream."""
    own = header_for(model, header.channels, header.original_rate)
    if own.weights_hash != header.weights_hash:
        raise ModelMismatchError(
            f"was coded by the model {header.model}, but the model loaded is {own.model}; "
            "give the first one with --model"
        )
    layout = ("sampling_rate", "hop_length", "vq_strides", "codebook_size", "frame_multiple")
    for field in layout:
        if getattr(own, field) != getattr(header, field):
            raise ModelMismatchError(
                f"has {field} {getattr(header, field)}, but its model {own.model} has "
                f"{getattr(own, field)}; the header is forged, encode the recording again"
            )


def encode_blocks(blocks: Iterable[np.ndarray], model: Model, channels: int) -> Iterator[list[np.ndarray]]:
    """Code (channels, samples) blocks at the model's rate within ±1, each channel by itself.

    Yields codes as they become certain: one int64 array (channels, n_i) a scale, coarse to fine.
    """
    encoder = in_arrays(model).stream_encoder(channels)
    at_once = -(-PIECE_SAMPLES // channels)
    for block in blocks:
        for start in range(0, block.shape[1], at_once):
            yield encoder.push(block[:, start : start + at_once])
    yield encoder.flush()


class _Playback:
    """The samples of a stream, as its packets come."""

    def __init__(self, reader: bitstream.Reader, model: Model, seed: int | None, salvage: bool) -> None:
        self.damage: str | None = None
        self._reader, self._model, self._salvage = reader, model, salvage
        self._clock = None if reader.limits is None else reader.limits.clock()
        channels, noise = reader.header.channels, seed is not None
        self._decoder = in_arrays(model).stream_decoder(channels, seed=seed or 0, noise=noise)

    def blocks(self) -> Iterator[np.ndarray]:
        """(channels, samples) at the codec's rate, as many in all as the recording has."""
        config, header = self._model.config, self._reader.header
        # The last group may be padding beyond the recording's end, so it is not heard before that end is known.
        held_back = max(0, config.frame_multiple * config.hop_length - self._decoder.look_ahead)
        held, given = np.zeros((header.channels, 0), np.float32), 0
        for codes in self._packets():
            held = np.concatenate([held, self._decoder.push(codes)], axis=1)
            ready = max(0, held.shape[1] - held_back)
            given += ready
            yield held[:, :ready]
            held = held[:, ready:]
        if self._reader.usable_samples == 0:
            raise BitstreamError("holds no samples; there is nothing to decode")
        length = resampled_length(self._reader.usable_samples, header.original_rate, header.sampling_rate)
        rest = self._decoder.flush(drop_partial=self.damage is not None)
        yield np.concatenate([held, rest], axis=1)[:, : length - given]

    def _packets(self) -> Iterator[list[np.ndarray]]:
        """Codes of at most a piece at a time, (channels, n_i) a scale; damage ends them if that is to be salvaged."""
        strides = self._reader.header.vq_strides
        coarse = max(1, PIECE_SAMPLES // self._reader.header.channels // (self._model.config.hop_length * strides[0]))
        try:
            for packet in self._reader:
                if self._clock is not None:
                    self._clock.begin(f"packet {self._reader.num_packets} to be decoded")
                for start in range(0, packet[0].shape[1], coarse):
                    frames = slice(start * strides[0], (start + coarse) * strides[0])
                    yield [c[:, frames.start // s : frames.stop // s] for c, s in zip(packet, strides, strict=True)]
                    if self._clock is not None:
                        self._clock.check()
        except DamagedStreamError as error:
            if not self._salvage or not self._reader.usable_frames:
                raise
            self.damage = error.problem


@contextmanager
def _binary_input(source: str | Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(source, str | Path):
        with open(source, "rb") as file:
            yield file
    else:
        yield source


@contextmanager
def _binary_output(target: str | Path | BinaryIO, force: bool) -> Iterator[BinaryIO]:
    if isinstance(target, str | Path):
        with atomic_file(Path(target), force) as path, OutputFile(path, target) as file:
            yield file
    else:
        yield target


@contextmanager
def _about(source: str | Path | BinaryIO) -> Iterator[None]:
    """Put the name of the recording in front of what is said about it."""
    try:
        yield
    except OpensnacError as error:
        raise type(error)(f"{stream_name(source)}: {error}") from error
