"""A recording to a `.snac` file and back: audio, model and bitstream combined.

N samples at rate R become ceil(N · C / R) samples at the codec's rate C, whole frames of codes, and again exactly N
samples at R, or ceil(N · X / R) at another rate X. Each channel is coded independently.
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

MAX_CHANNELS = 255  # that a header can store


@dataclass(frozen=True)
class Result:
    """The result for one recording: its duration in seconds, the damage of a salvaged one, and warnings."""

    seconds: float
    damage: str | None = None
    warnings: tuple[str, ...] = ()


class Recorded(Protocol):
    """A recording as codes. Iterating yields them as they become final: int64 (channels, n_i) per scale.

    `num_samples` (at `rate`, Hz) and `remarks` are complete after the iteration.
    """

    @property
    def channels(self) -> int:
        """Number of channels, each coded independently."""

    @property
    def rate(self) -> int:
        """Rate of the recording, Hz."""

    @property
    def num_samples(self) -> int:
        """Samples of one channel."""

    @property
    def remarks(self) -> Sequence[str]:
        """Remarks on the recording."""

    def __iter__(self) -> Iterator[list[np.ndarray]]: ...


class Coding:
    """Encodes a recording piece by piece, in constant memory."""

    def __init__(self, recording: Source, model: Model, preprocessing: Preprocessing, report: Report = no_report):
        self._preprocessor = Preprocessor(recording, model.config.sampling_rate, preprocessing, MAX_CHANNELS)
        self.channels, self.rate, self.remarks = (
            self._preprocessor.channels,
            self._preprocessor.rate,
            self._preprocessor.remarks,
        )
        self._model, self._report, self._gather = model, report, recording.repeatable

    @property
    def num_samples(self) -> int:
        """Samples of one channel so far."""
        return self._preprocessor.num_samples

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return encode_blocks(self._preprocessor.blocks(self._report), self._model, self.channels, self._gather)


def write_codes(
    recorded: Recorded, target: str | Path | BinaryIO, model: Model, *, live: bool = False, force: bool = False
) -> Result:
    """Write a recording's codes as a `.snac` file or stream, as they become available.

    `live` writes each coarse frame as soon as it is final, in its own packet. A named target appears complete or not at
    all; FileExistsError if it exists, without `force`.
    """
    pieces = iter(recorded)
    first = next(pieces)  # fails before a file is created
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
    """Encode a recording to a `.snac` file or stream: `Coding`, then `write_codes`.

    `raw`, a rate and a number of channels, is for headerless 16-bit PCM. `mono`, `channel`, `gain_db`, `normalize` and
    `strict` are as in Preprocessing. The result's `warnings` report clipping of samples beyond ±1 and other
    irregularities. AudioError for the recording, LimitError beyond `limits`, FileExistsError for the target.
    """
    if isinstance(target, str | Path):
        refuse_existing(Path(target), force)  # before the work
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
    """Decode a `.snac` file or stream to a WAV, FLAC or OGG file, or to a stream of format `ending`, packet by packet.

    At the recording's own rate unless `sample_rate` (Hz) is given. `salvage` decodes what precedes damage, which the
    result then describes. BitstreamError for the stream, LimitError beyond `limits`, ModelError if its model is not
    found, ModelMismatchError for a different model, AudioError or FileExistsError for the target.
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
        size = Path(source).stat().st_size if isinstance(source, str | Path) else None
        playback = _Playback(reader, model, seed if noise else None, salvage, gather=bool(size) and limits is None)
        blocks = playback.blocks()
        first = next(blocks)  # fails before a file is created
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
    """The header of a recording of `channels` at `rate` Hz, encoded by `model`."""
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
    """ModelMismatchError, with both names, unless `model` encoded the stream."""
    own = header_for(model, header.channels, header.original_rate)
    if own.weights_hash != header.weights_hash:
        raise ModelMismatchError(
            f"expected the model {header.model}, which encoded it, got {own.model}; give the first one with --model"
        )
    layout = ("sampling_rate", "hop_length", "vq_strides", "codebook_size", "frame_multiple")
    for field in layout:
        if getattr(own, field) != getattr(header, field):
            raise ModelMismatchError(
                f"{field}: expected {getattr(own, field)}, as its model {own.model} has, got {getattr(header, field)}; "
                "the header is forged, encode the recording again"
            )


def encode_blocks(
    blocks: Iterable[np.ndarray], model: Model, channels: int, gather: bool = True
) -> Iterator[list[np.ndarray]]:
    """Encode (channels, samples) blocks at the model's rate within ±1, each channel independently.

    Yields codes as they become final: one int64 array (channels, n_i) per scale, coarse to fine. `gather` joins blocks
    that are shorter than suits the model's device.
    """
    codec = in_arrays(model)
    encoder = codec.stream_encoder(channels)
    for (piece,) in in_pieces(([block] for block in blocks), [1], -(-codec.piece_samples // channels), gather):
        yield encoder.push(piece)
    yield encoder.flush()


def in_pieces(
    parts: Iterable[list[np.ndarray]], strides: Sequence[int], steps: int, gather: bool
) -> Iterator[list[np.ndarray]]:
    """Cut a signal's parts, arrays (channels, n / stride), to at most `steps`; `gather` joins shorter ones first."""
    waiting: list[list[np.ndarray]] = []
    there = 0
    for part in parts:
        waiting.append(part)
        there += part[-1].shape[1] * strides[-1]
        if gather and there < steps:
            continue
        joined, start = [np.concatenate(arrays, axis=1) for arrays in zip(*waiting, strict=True)], 0
        while there >= (steps if gather else 1):
            yield [x[:, start // s : (start + steps) // s] for x, s in zip(joined, strides, strict=True)]
            start, there = start + steps, max(0, there - steps)
        waiting = [[x[:, start // s :] for x, s in zip(joined, strides, strict=True)]] if there else []
    if there:
        yield [np.concatenate(arrays, axis=1) for arrays in zip(*waiting, strict=True)]


class _Playback:
    """Decodes a stream as its packets arrive; `gather` joins those that are shorter than suits the model's device."""

    def __init__(self, reader: bitstream.Reader, model: Model, seed: int | None, salvage: bool, gather: bool) -> None:
        self.damage: str | None = None
        self._reader, self._config, self._salvage, self._gather = reader, model.config, salvage, gather
        self._clock = None if reader.limits is None else reader.limits.clock()
        channels, codec = reader.header.channels, in_arrays(model)
        self._at_once = codec.piece_samples // channels
        self._decoder = codec.stream_decoder(channels, seed=seed or 0, noise=seed is not None)

    def blocks(self) -> Iterator[np.ndarray]:
        """(channels, samples) blocks at the codec's rate, of the recording's length in total."""
        config, header = self._config, self._reader.header
        # The last group may be padding beyond the recording's end, so it is held back until that end is known.
        held_back = max(0, config.frame_multiple * config.hop_length - self._decoder.look_ahead)
        held, given = np.zeros((header.channels, 0), np.float32), 0
        coarse = max(1, self._at_once // (config.hop_length * config.vq_strides[0]))
        at_once = coarse * config.vq_strides[0]
        for codes in in_pieces(self._packets(), config.vq_strides, at_once, self._gather):
            held = np.concatenate([held, self._decoder.push(codes)], axis=1)
            ready = max(0, held.shape[1] - held_back)
            given += ready
            yield held[:, :ready]
            held = held[:, ready:]
            if self._clock is not None:
                self._clock.check()
        if self._reader.usable_samples == 0:
            raise BitstreamError("expected at least one sample to decode, got none")
        length = resampled_length(self._reader.usable_samples, header.original_rate, header.sampling_rate)
        rest = self._decoder.flush(drop_partial=self.damage is not None)
        yield np.concatenate([held, rest], axis=1)[:, : length - given]

    def _packets(self) -> Iterator[list[np.ndarray]]:
        """The codes of each packet, (channels, n_i) per scale; with `salvage` damage ends the iteration."""
        try:
            for packet in self._reader:
                if self._clock is not None:
                    self._clock.begin(f"packet {self._reader.num_packets} decoded")
                yield packet
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
    """Prefix errors with the recording's name."""
    try:
        yield
    except OpensnacError as error:
        raise type(error)(f"{stream_name(source)}: {error}") from error
