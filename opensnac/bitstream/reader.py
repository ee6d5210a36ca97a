"""`.snac` stream -> codes, packet by packet, forwards only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from opensnac.bitstream.header import FORMAT_VERSION, PAYLOAD_FIXED_WIDTH, Header, read_header
from opensnac.bitstream.limits import Limits
from opensnac.bitstream.packets import (
    CHECKSUM_BYTES,
    END_OF_STREAM,
    NUM_SAMPLES_BYTES,
    checksum,
    grid_to_codes,
    payload_bytes,
    unpack,
)
from opensnac.bitstream.source import PIECE, ByteSource
from opensnac.errors import CorruptStreamError, DamagedStreamError, TruncatedStreamError

Codes = list[NDArray[np.int64]]


class Reader:
    """Reads one recording from a binary file or pipe.

    `header` is available at once. Iterating yields the codes of each intact packet as it arrives: one int64 array
    (channels, n_i) per scale, coarse to fine. If iteration ends without an error, the whole stream was intact and the
    input ended after it; else a DamagedStreamError says what is wrong and where.

    With `limits`, LimitError ends a stream that is too large, before reading more of it, or too slow. A read that never
    returns is not interrupted: sockets need a timeout.

    `num_frames`, `num_packets` and `num_bytes` count what has been read; `num_samples` (of one channel, at
    `header.original_rate`) is None until the end record has been read.
    """

    def __init__(self, file: BinaryIO, limits: Limits | None = None) -> None:
        self.limits = limits
        self._clock = None if limits is None else limits.clock()
        if self._clock is not None:
            self._clock.begin("the header")
        self._source = ByteSource(file, None if self._clock is None else self._clock.check)
        self.header = read_header(self._source)
        if limits is not None:
            limits.check_header(self.header)
        self.num_frames = 0
        self.num_packets = 0
        self.num_samples: int | None = None
        self._packets = self._read_packets()

    def __iter__(self) -> Iterator[Codes]:
        return self._packets

    @property
    def num_bytes(self) -> int:
        """Bytes read so far."""
        return self._source.position

    @property
    def usable_frames(self) -> int:
        """Frames read so far, rounded down to a multiple of `header.frame_multiple`: what a model can decode."""
        return self.num_frames - self.num_frames % self.header.frame_multiple

    @property
    def usable_samples(self) -> int:
        """Samples (of one channel, at `header.original_rate`) of the usable frames; exact after the end record."""
        return self.header.num_samples(self.usable_frames) if self.num_samples is None else self.num_samples

    def _read_packets(self) -> Iterator[Codes]:
        preceding = self.header.to_bytes()[-CHECKSUM_BYTES:]
        try:
            while (coarse_frames := self._take_count()) != END_OF_STREAM:
                self._check_limits(coarse_frames)
                body = bytes([coarse_frames]) + self._take_payload(coarse_frames)
                preceding = self._take_checksum(body, preceding)
                yield self._accept(body[1:], coarse_frames)
            self._take_end_record()
            self._require_nothing_more()
        except DamagedStreamError as error:
            raise type(error)(error.problem, self._advice()) from None

    def _check_limits(self, coarse_frames: int) -> None:
        if self.limits is not None:
            self.limits.check_packet(coarse_frames, self.header)
            self.limits.check_frames(self.num_frames + coarse_frames * self.header.coarse_stride, self.header)

    def _take_count(self) -> int:
        if self._clock is not None:
            self._clock.begin(self._packet_name)
        count = self._source.take_up_to(1)
        if not count:
            where = f"after packet {self.num_packets}" if self.num_packets else "after the header"
            raise TruncatedStreamError(f"the stream ends at byte {self._source.position}, {where}, without end record")
        return count[0]

    def _take_payload(self, coarse_frames: int) -> bytes:
        return self._source.take(payload_bytes(coarse_frames, self.header), self._packet_name)

    def _take_checksum(self, body: bytes, preceding: bytes) -> bytes:
        start = self._source.position - len(body)
        stored = self._source.take(CHECKSUM_BYTES, self._packet_name)
        computed = checksum(body, preceding)
        if stored != computed:
            raise CorruptStreamError(
                f"{self._packet_name} (bytes {start} to {self._source.position - 1}) is corrupt, or one before it is "
                f"missing: expected the checksum {computed.hex()} of its content, got {stored.hex()}"
            )
        return stored

    def _accept(self, payload: bytes, coarse_frames: int) -> Codes:
        try:
            grid = unpack(payload, coarse_frames, self.header)
        except CorruptStreamError as error:
            start = self._source.position - CHECKSUM_BYTES - len(payload)
            problem = f"{self._packet_name}, payload at byte {start}: {error.problem}"
            raise CorruptStreamError(problem) from error
        self.num_packets += 1
        self.num_frames += coarse_frames * self.header.coarse_stride
        return grid_to_codes(grid, self.header)

    def _take_end_record(self) -> None:
        start = self._source.position - 1
        num_samples = int.from_bytes(self._source.take(NUM_SAMPLES_BYTES, "the end record"))
        computed = self._source.crc32
        stored = int.from_bytes(self._source.take(4, "the end record"))
        if stored != computed:
            raise CorruptStreamError(
                f"the end record at byte {start} does not match the stream: expected the checksum {computed:08x} of "
                f"the bytes before it, got {stored:08x}"
            )
        if not self.header.fits(self.num_frames, num_samples):
            expected = self.header.num_frames(num_samples)
            raise CorruptStreamError(
                f"the end record at byte {start} declares {num_samples} samples at {self.header.original_rate} Hz: "
                f"expected {expected} frames, got {self.num_frames}"
            )
        if self.limits is not None:
            self.limits.check_length(num_samples, self.header.original_rate)
        self.num_samples = num_samples

    def _require_nothing_more(self) -> None:
        end = self._source.position
        more = len(self._source.take_up_to(PIECE))
        if more:
            count = "1 byte follows" if more == 1 else f"{more}{' or more' * (more == PIECE)} bytes follow"
            raise CorruptStreamError(f"{count} the end of the stream at byte {end}")

    @property
    def _packet_name(self) -> str:
        return f"packet {self.num_packets + 1}"

    def _advice(self) -> str:
        if not self.usable_frames:
            return "nothing before the damage can be decoded: fetch or encode it again"
        seconds = self.usable_samples / self.header.original_rate
        return f"decode with --salvage to keep the first {seconds:.1f} s"


@dataclass(frozen=True)
class Recording:
    """A whole stream in memory.

    codes: one int64 array (channels, n_i) per scale, coarse to fine. num_samples: of one channel, at
    `header.original_rate`; exact, or the duration of the frames where `damage` took the end record.
    """

    header: Header
    codes: Codes
    num_samples: int
    num_packets: int
    num_bytes: int
    damage: DamagedStreamError | None = None

    @property
    def num_frames(self) -> int:
        """Frames per channel."""
        return self.codes[0].shape[1] * self.header.vq_strides[0]

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_samples / self.header.original_rate

    def info(self) -> dict[str, Any]:
        """Everything about the stream except the codes, as JSON values."""
        return {
            "format_version": FORMAT_VERSION,
            "payload_type": PAYLOAD_FIXED_WIDTH,
            **asdict(self.header),
            "vq_strides": list(self.header.vq_strides),
            "num_samples": self.num_samples,
            "duration_seconds": self.duration,
            "num_frames": self.num_frames,
            "codes_per_scale": [scale.shape[1] for scale in self.codes],
            "bits_per_second": self.header.bits_per_second,
            "file_bits_per_second": 8 * self.num_bytes / self.duration if self.duration else 0.0,
            "num_packets": self.num_packets,
            "num_bytes": self.num_bytes,
            "damage": None if self.damage is None else self.damage.problem,
        }


def read(file: BinaryIO, salvage: bool = False, limits: Limits | None = None) -> Recording:
    """Read a whole stream; raises Reader's errors unless every byte is intact. `limits` is as in Reader.

    With `salvage` a damaged stream gives what precedes the damage, cut to a multiple of `header.frame_multiple`, and
    the error as `damage`; the error is raised if nothing can be kept.
    """
    reader = Reader(file, limits)
    packets: list[Codes] = []
    damage = None
    try:
        for packet in reader:
            packets.append(packet)
    except DamagedStreamError as error:
        if not salvage or not reader.usable_frames:
            raise
        damage = error
    return Recording(
        header=reader.header,
        codes=_join(packets, reader.usable_frames, reader.header),
        num_samples=reader.usable_samples,
        num_packets=reader.num_packets,
        num_bytes=reader.num_bytes,
        damage=damage,
    )


def _join(packets: list[Codes], num_frames: int, header: Header) -> Codes:
    """The packets' codes concatenated, scale by scale, cut to `num_frames` frames."""
    none = np.zeros((header.channels, 0), dtype=np.int64)
    return [
        np.concatenate([none, *(packet[i] for packet in packets)], axis=1)[:, : num_frames // stride]
        for i, stride in enumerate(header.vq_strides)
    ]
