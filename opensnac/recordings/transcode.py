"""A recording to a `.snac` file and back: audio, model and bitstream in a row.

N samples at rate R become ceil(N · C / R) samples at the codec's rate C, whole frames of codes, and again
exactly N samples at R, or ceil(N · X / R) at another rate X. Each channel is coded by itself.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch

from opensnac import bitstream
from opensnac.bitstream import WEIGHTS_HASH_DIGITS, Header, Limits
from opensnac.engine.codec import SNAC, Coder
from opensnac.engine.engine import Engine, Progress, no_progress
from opensnac.errors import (
    BitstreamError,
    ConfigError,
    DamagedStreamError,
    ModelError,
    ModelMismatchError,
    OpensnacError,
)
from opensnac.files import OutputFile, refuse_existing, whole_file
from opensnac.models import bundled_models
from opensnac.recordings.intake import Intake, Treatment
from opensnac.recordings.resampling import Resampler, resampled_length
from opensnac.recordings.sink import Sink, writable_ending
from opensnac.recordings.source import Source, check_rate, stream_name
from opensnac.streaming.streams import StreamDecoder, StreamEncoder

MAX_CHANNELS = 255  # what a header can say
PIECE_SAMPLES = 1 << 15  # of all channels together that the model works on at once


@dataclass(frozen=True)
class Result:
    """What was done to one recording: its length in seconds, what was wrong with a salvaged one, what was odd."""

    seconds: float
    damage: str | None = None
    warnings: tuple[str, ...] = ()


class ModelShelf:
    """Models by name, each loaded once, whichever thread asks for it first. `only` stands for every name.

    `reduced` lets them multiply in bfloat16. `trusted` names hub models that streams may have downloaded, OWNER/* all
    of an owner's. ConfigError for a device that is not there.
    """

    def __init__(
        self,
        only: str | Path | None = None,
        reduced: bool = False,
        device: str = "cpu",
        trusted: Sequence[str] = (),
    ) -> None:
        check_device(device)
        self._only, self._reduced, self._device, self._trusted = only, reduced, device, tuple(trusted)
        self._models: dict[str, Engine] = {}
        self._lock = threading.Lock()

    def get(self, name: str | None = None) -> Engine:
        """The model called `name`, the default one for None, made quick to run. ModelError if none is."""
        return self._load(name if self._only is None else self._only)

    def for_header(self, header: Header) -> Engine:
        """The model that a stream names, if it is bundled, cached or trusted: whoever wrote the stream chose the name.

        ModelError says how to give it where it is none of these.
        """
        if self._only is not None:
            return self.get()
        name = header.model_name
        try:
            if name in bundled_models():
                return self._load(name)
            if not _is_hub_id(name):
                raise ModelError("only bundled models and those of the hub are looked for by a file's name for them")
            here_only = not any(fnmatchcase(name, pattern) for pattern in self._trusted)
            return self._load(name, **({"local_files_only": True} if here_only else {}))
        except OpensnacError as error:
            trust = f", or have it downloaded with --trust {name}" if _is_hub_id(name) else ""
            raise ModelError(
                f"needs the model {_identity(header)}, which was not found by that name; "
                f"give its folder or hub id with --model{trust} ({error})"
            ) from error

    def _load(self, wanted: str | Path | None, **options: Any) -> Engine:
        with self._lock:
            if str(wanted) not in self._models:
                dtype = torch.bfloat16 if self._reduced else None
                model = SNAC.from_pretrained(wanted, **options)
                self._models[str(wanted)] = model.freeze(dtype=dtype, device=self._device)
            return self._models[str(wanted)]


def _is_hub_id(name: str) -> bool:
    """Whether a name can only mean a repository of the hub: no folder here, nor a path to one."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None and not Path(name).exists()


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

    def __init__(self, recording: Source, model: Coder, treatment: Treatment, report: Progress = no_progress):
        self._intake = Intake(recording, model.config.sampling_rate, treatment, MAX_CHANNELS)
        self.channels, self.rate, self.remarks = self._intake.channels, self._intake.rate, self._intake.remarks
        self._model, self._report = model, report

    @property
    def num_samples(self) -> int:
        """Of one channel, so far."""
        return self._intake.num_samples

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return encode_blocks(self._intake.blocks(self._report), self._model, self.channels)


def write_codes(
    recorded: Recorded, target: str | Path | BinaryIO, model: Coder, *, live: bool = False, force: bool = False
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
    model: Coder,
    *,
    mono: bool = False,
    gain_db: float = 0.0,
    normalize: bool = False,
    strict: bool = False,
    raw: tuple[int, int] | None = None,
    live: bool = False,
    force: bool = False,
    limits: Limits | None = None,
    report: Progress = no_progress,
) -> Result:
    """Code a recording into a `.snac` file or stream: `Coding`, then `write_codes`.

    `raw`, a rate and a number of channels, is for headerless 16-bit samples. `mono`, `gain_db`, `normalize` and
    `strict` are as in Treatment. Samples beyond ±1 are clipped, which the result's `warnings` say, as they say whatever
    else is odd. Raises AudioError for the recording, LimitError where it goes beyond `limits`, FileExistsError for the
    target.
    """
    if isinstance(target, str | Path):
        refuse_existing(Path(target), force)  # before the work, not after it
    treatment = Treatment(mono, gain_db, normalize, strict)
    with Source(source, raw, strict, limits) as recording:
        result = write_codes(Coding(recording, model, treatment, report), target, model, live=live, force=force)
    report(1.0)
    return result


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
    limits: Limits | None = None,
    report: Progress = no_progress,
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
        model = models if isinstance(models, Coder) else models.for_header(header)
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


def encode_blocks(blocks: Iterable[np.ndarray], model: Coder, channels: int) -> Iterator[list[np.ndarray]]:
    """Code (channels, samples) blocks at the model's rate within ±1, each channel by itself.

    Yields codes as they become certain: one int64 array (channels, n_i) a scale, coarse to fine.
    """
    encoder = StreamEncoder(model)
    state = encoder.start(channels)
    at_once = -(-PIECE_SAMPLES // channels)
    for block in blocks:
        for start in range(0, block.shape[1], at_once):
            piece = np.ascontiguousarray(block[:, start : start + at_once])
            yield _stacked(encoder.push(torch.from_numpy(piece).to(encoder.engine.device)[:, None], state))
    yield _stacked(encoder.flush(state))


class _Playback:
    """The samples of a stream, as its packets come."""

    def __init__(self, reader: bitstream.Reader, model: Coder, seed: int | None, salvage: bool) -> None:
        self.damage: str | None = None
        self._reader, self._model, self._salvage = reader, model, salvage
        self._clock = None if reader.limits is None else reader.limits.clock()
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
        length = resampled_length(self._reader.usable_samples, header.original_rate, header.sampling_rate)
        rest = self._heard(self._decoder.flush(self._state, drop_partial=self.damage is not None))
        yield np.concatenate([held, rest], axis=1)[:, : length - given]

    def _packets(self) -> Iterator[list[torch.Tensor]]:
        """Codes of at most a piece at a time, (channels, n_i) a scale; damage ends them if that is to be salvaged."""
        strides = self._reader.header.vq_strides
        coarse = max(1, PIECE_SAMPLES // self._reader.header.channels // (self._model.hop_length * strides[0]))
        try:
            for packet in self._reader:
                if self._clock is not None:
                    self._clock.begin(f"packet {self._reader.num_packets} to be decoded")
                codes = [torch.from_numpy(scale).to(self._decoder.engine.device) for scale in packet]
                for start in range(0, packet[0].shape[1], coarse):
                    frames = slice(start * strides[0], (start + coarse) * strides[0])
                    yield [c[:, frames.start // s : frames.stop // s] for c, s in zip(codes, strides, strict=True)]
                    if self._clock is not None:
                        self._clock.check()
        except DamagedStreamError as error:
            if not self._salvage or not self._reader.usable_frames:
                raise
            self.damage = error.problem

    @staticmethod
    def _heard(channels: list[torch.Tensor]) -> np.ndarray:
        return torch.cat(channels).float().cpu().numpy()


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
        with whole_file(Path(target), force) as path, OutputFile(path, target) as file:
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
