"""Limits on untrusted streams and recordings, for processes that face a network; docs/threat-model.md says why."""

from __future__ import annotations

import time
from dataclasses import dataclass

from opensnac.bitstream.header import Header
from opensnac.bitstream.packets import payload_bytes
from opensnac.errors import LimitError


@dataclass(frozen=True)
class Limits:
    """Limits for one stream or recording; each method raises LimitError beyond them.

    channels        each is coded independently
    rates           lowest and highest, Hz: of the codec and of the recording
    bits_per_second of the codes
    packet_frames   coarse frames per packet
    packet_bytes    of the codes in one packet
    seconds         of audio, received or declared
    packet_seconds  for the header or a packet to arrive, and again to decode it
    stream_seconds  from the first byte to the last
    file_bytes      of a recording that is not a `.snac` stream
    """

    channels: int = 2
    rates: tuple[int, int] = (8_000, 48_000)
    bits_per_second: float = 32_000.0
    packet_frames: int = 64
    packet_bytes: int = 1 << 16
    seconds: float = 600.0
    packet_seconds: float = 10.0
    stream_seconds: float = 1800.0
    file_bytes: int = 1 << 28

    def check_layout(self, channels: int, *rates: int) -> None:
        """Check a header's channels and rates (Hz)."""
        if channels > self.channels:
            raise LimitError(f"expected at most {_counted(self.channels, 'channel')}, got {channels}")
        lowest, highest = self.rates
        for rate in rates:
            if not lowest <= rate <= highest:
                raise LimitError(f"expected rates of {lowest} to {highest} Hz, got {rate} Hz")

    def check_header(self, header: Header) -> None:
        """Check a `.snac` stream's header."""
        self.check_layout(header.channels, header.sampling_rate, header.original_rate)
        if header.bits_per_second > self.bits_per_second:
            raise LimitError(
                f"expected codes of at most {self.bits_per_second:g} bits per second, got {header.bits_per_second:.0f}"
            )

    def check_packet(self, coarse_frames: int, header: Header) -> None:
        """Check the size of a packet before reading it."""
        if coarse_frames > self.packet_frames:
            raise LimitError(
                f"expected packets of at most {_counted(self.packet_frames, 'coarse frame')}, got {coarse_frames}"
            )
        size = payload_bytes(coarse_frames, header)
        if size > self.packet_bytes:
            raise LimitError(f"expected packets of at most {_counted(self.packet_bytes, 'byte')}, got {size}")

    def check_length(self, num_samples: int, rate: int) -> None:
        """Check a duration: samples of one channel at `rate` Hz."""
        if num_samples > self.seconds * rate:
            raise LimitError(f"expected at most {self.seconds:g} s of audio, got {num_samples / rate:.3f} s")

    def check_frames(self, num_frames: int, header: Header) -> None:
        """Check a stream's frames, allowing for the padding of a recording of the longest duration."""
        if num_frames > header.num_frames(int(self.seconds * header.original_rate)):
            self.check_length(header.num_samples(num_frames), header.original_rate)

    def check_size(self, num_bytes: int) -> None:
        """Check the bytes of a recording's file."""
        if num_bytes > self.file_bytes:
            raise LimitError(f"expected a file of at most {self.file_bytes} bytes, got {num_bytes}")

    def clock(self) -> Clock:
        """A clock for one stream, started now."""
        return Clock(self)


class Clock:
    """The time taken by a stream and by its current part."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._began = time.monotonic()
        self._part: tuple[str, float] | None = None

    def begin(self, part: str) -> None:
        """Start a part, such as waiting for a packet or decoding it."""
        self._part = (part, time.monotonic())

    def check(self) -> None:
        """LimitError if the part or the stream takes too long."""
        now, limits = time.monotonic(), self._limits
        if self._part is not None and now - self._part[1] > limits.packet_seconds:
            took = now - self._part[1]
            raise LimitError(f"expected {self._part[0]} within {limits.packet_seconds:g} s, got {took:.3g} s")
        if now - self._began > limits.stream_seconds:
            took = now - self._began
            raise LimitError(f"expected the whole stream within {limits.stream_seconds:g} s, got {took:.3g} s")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
