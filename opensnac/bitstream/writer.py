"""Codes -> `.snac` stream, packet by packet, forwards only."""

from __future__ import annotations

import operator
import zlib
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from opensnac.bitstream.header import Header
from opensnac.bitstream.packets import (
    CHECKSUM_BYTES,
    END_OF_STREAM,
    MAX_COARSE_FRAMES,
    NUM_SAMPLES_BYTES,
    Grid,
    checksum,
    codes_to_grid,
    pack,
)
from opensnac.errors import BitstreamError, CodesError

DEFAULT_COARSE_FRAMES_PER_PACKET = 64


class Writer:
    """Writes one recording to a binary file or pipe, which stays open.

    Packets hold `coarse_frames_per_packet` coarse frames (1 to 255): 1 has the least latency, more have less overhead.
    Without `close` the stream has no end record and reads as truncated.
    """

    def __init__(
        self,
        file: BinaryIO,
        header: Header,
        coarse_frames_per_packet: int = DEFAULT_COARSE_FRAMES_PER_PACKET,
    ) -> None:
        if not 1 <= coarse_frames_per_packet <= MAX_COARSE_FRAMES:
            raise BitstreamError(
                f"coarse_frames_per_packet: expected 1 to {MAX_COARSE_FRAMES}, got {coarse_frames_per_packet}"
            )
        self.header = header
        self.num_frames = 0
        self.num_bytes = 0
        self._file = file
        self._per_packet = coarse_frames_per_packet
        self._pending: Grid = np.zeros((0, header.channels, sum(header.codes_per_coarse_frame)), np.uint16)
        self._crc32 = 0
        self._preceding = b""
        self._closed = False
        self._put(header.to_bytes())

    def write(self, codes: Sequence[NDArray[np.integer]]) -> None:
        """Append codes: one integer array (channels, n_i) per scale, coarse to fine, whole coarse frames.

        Full packets are written immediately, the rest is buffered. CodesError if the codes do not fit the header.
        """
        self._require_open()
        grid = np.concatenate([self._pending, codes_to_grid(codes, self.header)])
        whole = len(grid) - len(grid) % self._per_packet
        for start in range(0, whole, self._per_packet):
            self._put_packet(grid[start : start + self._per_packet])
        self._pending = grid[whole:].copy()

    def flush(self) -> None:
        """Write buffered codes as a packet and flush the file."""
        self._require_open()
        if len(self._pending):
            self._put_packet(self._pending)
            self._pending = self._pending[:0]
        self._file.flush()

    def close(self, num_samples: int) -> None:
        """Write buffered codes and the end record, and flush. The file stays open.

        num_samples: samples of one channel of the recording at `header.original_rate`. CodesError if that does not
        match the number of codes written.
        """
        self._require_open()
        num_samples = operator.index(num_samples)
        num_frames = self.num_frames + len(self._pending) * self.header.coarse_stride
        if not 0 <= num_samples < 1 << 8 * NUM_SAMPLES_BYTES or not self.header.fits(num_frames, num_samples):
            raise CodesError(
                f"close: expected {self.header.num_frames(num_samples)} frames for {num_samples} samples at "
                f"{self.header.original_rate} Hz, got {num_frames}"
            )
        self.flush()
        self._put(bytes([END_OF_STREAM]) + num_samples.to_bytes(NUM_SAMPLES_BYTES))
        self._put(self._crc32.to_bytes(4))
        self._file.flush()
        self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise BitstreamError("the stream is closed; start another Writer for another recording")

    def _put_packet(self, grid: Grid) -> None:
        body = bytes([len(grid)]) + pack(grid, self.header)
        self._put(body + checksum(body, self._preceding))
        self.num_frames += len(grid) * self.header.coarse_stride

    def _put(self, data: bytes) -> None:
        """Write all of `data`, in as many writes as the file needs."""
        rest = memoryview(data)
        while rest:
            taken = self._file.write(rest)
            if taken is None:
                raise BitstreamError("expected a blocking output, got a non-blocking one; open it in blocking mode")
            rest = rest[taken:]
        self._crc32 = zlib.crc32(data, self._crc32)
        self._preceding = data[-CHECKSUM_BYTES:]
        self.num_bytes += len(data)


def write(file: BinaryIO, header: Header, codes: Sequence[NDArray[np.integer]], num_samples: int) -> None:
    """Write a whole recording and close the stream."""
    writer = Writer(file, header)
    writer.write(codes)
    writer.close(num_samples)
