"""A recording to a `.snac` file and back: audio, model and bitstream in a row.

N samples at rate R become ceil(N · C / R) samples at the codec's rate C, whole frames of codes, and again
exactly N samples at R, or ceil(N · X / R) at another rate X. Each channel is coded by itself.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from opensnac import SNAC, bitstream
from opensnac.bitstream import WEIGHTS_HASH_DIGITS, Header
from opensnac.engine.codec import Coder
from opensnac.engine.engine import Engine, Progress, no_progress
from opensnac.errors import (
    AudioError,
    BitstreamError,
    ConfigError,
    DamagedStreamError,
    ModelError,
    ModelMismatchError,
    OpensnacError,
)
from opensnac.files import refuse_existing, whole_file
from opensnac.recordings import audio
from opensnac.recordings.grouping import Coded
from opensnac.streaming.streams import StreamDecoder, StreamEncoder

MAX_CHANNELS = 255  # what a header can say
PIECE_SAMPLES = 1 << 15  # of all channels together that the model works on at once


@dataclass(frozen=True)
class Result:
    """What was done to one recording: its length in seconds, and what was wrong with a salvaged one."""

    seconds: float
    damage: str | None = None


class ModelShelf:
    """Models by name, each loaded once, whichever thread asks for it first. `only` stands for every name.

    `reduced` lets them multiply in bfloat16. ConfigError for a device that is not there.
    """

    def __init__(self, only: str | Path | None = None, reduced: bool = False, device: str = "cpu") -> None:
        check_device(device)
        self._only, self._reduced, self._device = only, reduced, device
        self._models: dict[str, Engine] = {}
        self._lock = threading.Lock()

    def get(self, name: str | None = None) -> Engine:
        """The model called `name`, the default one for None, made quick to run. ModelError if none is."""
        wanted = name if self._only is None else self._only
        with self._lock:
            if str(wanted) not in self._models:
                dtype = torch.bfloat16 if self._reduced else None
                self._models[str(wanted)] = SNAC.from_pretrained(wanted).freeze(dtype=dtype, device=self._device)
            return self._models[str(wanted)]

    def for_header(self, header: Header) -> Engine:
        """The model that a stream names. ModelError says how to give it where it is not to be found."""
        if self._only is not None:
            return self.get()
        try:
            return self.get(header.model_name)
        except OpensnacError as error:
            raise ModelError(
                f"needs the model {_identity(header)}, which was not found by that name; "
                f"give its folder or hub id with --model ({error})"
            ) from error


def check_device(device: str) -> None:
    """ConfigError for a device that PyTorch does not have here."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {device!r} cannot be used here ({reason}); cpu, cuda or cuda:N was needed"
        ) from error


@contextmanager
def shared_cores(workers: int) -> Iterator[None]:
    """Let `workers` threads that run a model share the processor's cores evenly."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def encode_file(
    source: str | Path | BinaryIO,
    target: str | Path | BinaryIO,
    model: Coder,
    *,
    mono: bool = False,
    raw: tuple[int, int] | None = None,
    live: bool = False,
    force: bool = False,
    coded: Callable[[], Coded | None] = lambda: None,
    report: Progress = no_progress,
) -> Result:
    """Code a recording that soundfile reads into a `.snac` file or stream, piece by piece, in flat memory.

    `mono` mixes its channels first. `raw`, a rate and a number of channels, is for headerless 16-bit samples. `live`
    sends each coarse frame as soon as it is certain, in a packet of its own. Samples beyond ±1 are clipped. A
    named target appears whole or not at all; `force` replaces another. `coded` may have the codes already.
    Raises AudioError for the recording, FileExistsError for the target.
    """
    if isinstance(target, str | Path):
        refuse_existing(Path(target), force)  # before the work, not after it
    if (ready := coded()) is not None:
        with _binary_output(target, force) as file:
            writer = bitstream.Writer(file, header_for(model, ready.channels, ready.rate))
            writer.write(ready.codes)
            writer.close(ready.num_samples)
        return Result(ready.num_samples / ready.rate)
    with audio.Source(source, raw) as recording:
        channels = 1 if mono else recording.channels
        if channels > MAX_CHANNELS:
            raise AudioError(
                f"{recording.name}: has {channels} channels; at most {MAX_CHANNELS} can be coded: mix down with --mono"
            )
        blocks = recording.blocks()
        first = next(blocks)  # what cannot be read should not begin a file
        with _binary_output(target, force) as file:
            per_packet = 1 if live else bitstream.DEFAULT_COARSE_FRAMES_PER_PACKET
            writer = bitstream.Writer(file, header_for(model, channels, recording.rate), per_packet)
            num_samples = 0

            def counted() -> Iterator[np.ndarray]:
                nonlocal num_samples
                for block in itertools.chain([first], blocks):
                    num_samples += block.shape[1]
                    yield block.mean(axis=0, keepdims=True) if mono else block
                    if recording.num_samples:
                        report(min(1.0, num_samples / recording.num_samples))

            for codes in encode_blocks(counted(), model, channels, recording.rate):
                writer.write(codes)
                if live:
                    writer.flush()
            writer.close(num_samples)
    report(1.0)
    return Result(num_samples / recording.rate)


def decode_file(
    source: str | Path | BinaryIO,
    target: str | Path | BinaryIO,
    models: Coder | ModelShelf,
    *,
    sample_rate: int | None = None,
    ending: str | None = None,
    seed: int = 0,
    noise: bool = True,
    salvage: bool = False,
    force: bool = False,
    report: Progress = no_progress,
) -> Result:
    """Decode a `.snac` file or stream into a WAV, FLAC or OGG file (or stream, as `ending` says) as packets come.

    At the recording's own rate unless `sample_rate` (Hz) is given. `salvage` decodes what precedes damage,
    which the result then names. Raises BitstreamError for the stream, ModelError when its model is not there,
    ModelMismatchError when the model is another, AudioError or FileExistsError for the target.
    """
    if isinstance(target, str | Path):
        audio.writable_ending(target, ending)
        refuse_existing(Path(target), force)
    if sample_rate is not None:
        audio.check_rate(sample_rate, "decoding")
    with _about(source), _binary_input(source) as file:
        reader = bitstream.Reader(file)
        header = reader.header
        model = models.for_header(header) if isinstance(models, ModelShelf) else models
        check_model(header, model)
        rate = sample_rate or header.original_rate
        audio.check_rate(rate, "the header")
        playback = _Playback(reader, model, seed if noise else None, salvage)
        blocks = playback.blocks()
        first = next(blocks)  # what cannot be decoded should not begin a file
        size = Path(source).stat().st_size if isinstance(source, str | Path) else None
        at_most = None if size is None else int(8 * size / header.bits_per_second * rate)
        resampler = audio.Resampler(header.sampling_rate, rate, header.channels)
        with audio.Sink(target, header.channels, rate, ending, force, at_most) as sink:
            for block in itertools.chain([first], blocks):
                sink.write(resampler.push(block))
                if size:
                    report(min(1.0, reader.num_bytes / size))
            sink.write(resampler.finish(audio.resampled_length(reader.usable_samples, header.original_rate, rate)))
    report(1.0)
    return Result(reader.usable_samples / header.original_rate, playback.damage)


def header_for(model: Coder, channels: int, rate: int) -> Header:
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


def check_model(header: Header, model: Coder) -> None:
    """Raise ModelMismatchError, which names both, unless `model` is the one that coded the stream."""
    own = header_for(model, header.channels, header.original_rate)
    if own.weights_hash != header.weights_hash:
        raise ModelMismatchError(
            f"was coded by the model {_identity(header)}, but the model loaded is {_identity(own)}; "
            "give the first one with --model"
        )
    layout = ("sampling_rate", "hop_length", "vq_strides", "codebook_size", "frame_multiple")
    for field in layout:
        if getattr(own, field) != getattr(header, field):
            raise ModelMismatchError(
                f"has {field} {getattr(header, field)}, but its model {_identity(own)} has "
                f"{getattr(own, field)}; the header is forged, encode the recording again"
            )


def _identity(header: Header) -> str:
    return f"{header.model_name!r} (weights {header.weights_hash})"


def encode_blocks(blocks: Iterable[np.ndarray], model: Coder, channels: int, rate: int) -> Iterator[list[np.ndarray]]:
    """Code (channels, samples) blocks at `rate` Hz, clipped to ±1, each channel by itself.

    Yields codes as they become certain: one int64 array (channels, n_i) a scale, coarse to fine.
    """
    resampler = audio.Resampler(rate, model.config.sampling_rate, channels)
    encoder = StreamEncoder(model)
    state = encoder.start(channels)
    at_once = -(-PIECE_SAMPLES // channels)
    for block in itertools.chain(map(resampler.push, blocks), _late(resampler.finish)):
        for start in range(0, block.shape[1], at_once):
            piece = np.clip(block[:, start : start + at_once], -1, 1)
            yield _stacked(encoder.push(torch.from_numpy(piece).to(encoder.engine.device)[:, None], state))
    yield _stacked(encoder.flush(state))


class _Playback:
    """The samples of a stream, as its packets come."""

    def __init__(self, reader: bitstream.Reader, model: Coder, seed: int | None, salvage: bool) -> None:
        self.damage: str | None = None
        self._reader, self._model, self._salvage = reader, model, salvage
        self._decoder = StreamDecoder(model)
        self._state = self._decoder.start(reader.header.channels, seed=seed or 0, noise=seed is not None)

    def blocks(self) -> Iterator[np.ndarray]:
        """(channels, samples) at the codec's rate, as many in all as the recording has."""
        config, header = self._model.config, self._reader.header
        # The last group may be padding beyond the recording's end, so it is not heard before that end is known.
        held_back = max(0, config.frame_multiple * config.hop_length - self._decoder.look_ahead)
        held, given = np.zeros((header.channels, 0), np.float32), 0
        for codes in self._packets():
            held = np.concatenate([held, self._heard(self._decoder.push(codes, self._state))], axis=1)
            ready = max(0, held.shape[1] - held_back)
            given += ready
            yield held[:, :ready]
            held = held[:, ready:]
        if self._reader.usable_samples == 0:
            raise BitstreamError("holds no samples; there is nothing to decode")
        length = audio.resampled_length(self._reader.usable_samples, header.original_rate, header.sampling_rate)
        rest = self._heard(self._decoder.flush(self._state, drop_partial=self.damage is not None))
        yield np.concatenate([held, rest], axis=1)[:, : length - given]

    def _packets(self) -> Iterator[list[torch.Tensor]]:
        """Codes of at most a piece at a time, (channels, n_i) a scale; damage ends them if that is to be salvaged."""
        strides = self._reader.header.vq_strides
        coarse = max(1, PIECE_SAMPLES // self._reader.header.channels // (self._model.hop_length * strides[0]))
        try:
            for packet in self._reader:
                codes = [torch.from_numpy(scale).to(self._decoder.engine.device) for scale in packet]
                for start in range(0, packet[0].shape[1], coarse):
                    frames = slice(start * strides[0], (start + coarse) * strides[0])
                    yield [c[:, frames.start // s : frames.stop // s] for c, s in zip(codes, strides, strict=True)]
        except DamagedStreamError as error:
            if not self._salvage or not self._reader.usable_frames:
                raise
            self.damage = error.problem

    @staticmethod
    def _heard(channels: list[torch.Tensor]) -> np.ndarray:
        return torch.cat(channels).float().cpu().numpy()


def _late(make: Callable[[], np.ndarray]) -> Iterator[np.ndarray]:
    """What `make` gives, asked for only when its turn comes."""
    yield make()


def _stacked(channels: list[list[torch.Tensor]]) -> list[np.ndarray]:
    return [torch.cat(scale).cpu().numpy() for scale in zip(*channels, strict=True)]


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
        with whole_file(Path(target), force) as path, open(path, "wb") as file:
            yield file
    else:
        yield target


@contextmanager
def _about(source: str | Path | BinaryIO) -> Iterator[None]:
    """Put the name of the recording in front of what is said about it."""
    try:
        yield
    except OpensnacError as error:
        raise type(error)(f"{audio.stream_name(source)}: {error}") from error
