"""Codes <-> packets: the order of the codes, their bits, and the checksum that chains the packets.

The intermediate form is the grid, uint16 (coarse frames, channels, codes per channel and coarse frame), whose C order
is the order in the stream.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from opensnac.bitstream.header import Header
from opensnac.errors import CodesError, CorruptStreamError

MAX_COARSE_FRAMES = 255  # per packet: their number is one byte
END_OF_STREAM = 0  # in place of a packet's number of coarse frames
NUM_SAMPLES_BYTES = 5
CHECKSUM_BYTES = 2

Grid = NDArray[np.uint16]


def codes_to_grid(codes: Sequence[NDArray[np.integer]], header: Header) -> Grid:
    """Interleave codes, one integer array (channels, n_i) per scale, into a grid.

    CodesError for codes that do not fit the header or are not whole coarse frames.
    """
    arrays = [np.asarray(scale) for scale in codes]
    coarse_frames = _count_coarse_frames(arrays, header)
    for i, scale in enumerate(arrays):
        if scale.size and not 0 <= scale.min() <= scale.max() < header.codebook_size:
            raise CodesError(
                f"codes of scale {i}: expected 0 to {header.codebook_size - 1}, got {scale.min()} to {scale.max()}: "
                "are they from this model?"
            )
    parts = [
        scale.reshape(header.channels, coarse_frames, count).swapaxes(0, 1).astype(np.uint16)
        for scale, count in zip(arrays, header.codes_per_coarse_frame, strict=True)
    ]
    return np.concatenate(parts, axis=2)


def _count_coarse_frames(arrays: list[NDArray[np.integer]], header: Header) -> int:
    """The number of coarse frames; CodesError if the scales disagree."""
    per_coarse_frame = header.codes_per_coarse_frame
    if len(arrays) != len(per_coarse_frame):
        raise CodesError(f"codes: expected {len(per_coarse_frame)} scales, got {len(arrays)}")
    for i, scale in enumerate(arrays):
        if scale.dtype.kind not in "iu" or scale.ndim != 2 or len(scale) != header.channels:
            raise CodesError(
                f"codes of scale {i}: expected integers of shape ({header.channels} channels, codes), "
                f"got {scale.dtype} of shape {scale.shape}"
            )
    lengths = [scale.shape[1] for scale in arrays]
    coarse_frames = lengths[0] // per_coarse_frame[0]
    if lengths != [coarse_frames * count for count in per_coarse_frame]:
        raise CodesError(
            f"codes: expected whole coarse frames, a common multiple of {list(per_coarse_frame)} codes per channel, "
            f"got {lengths}"
        )
    return coarse_frames


def grid_to_codes(grid: Grid, header: Header) -> list[NDArray[np.int64]]:
    """The inverse of `codes_to_grid`: one int64 array (channels, n_i) per scale."""
    ends = np.cumsum(header.codes_per_coarse_frame)
    parts = np.split(grid.astype(np.int64), ends[:-1], axis=2)
    return [part.swapaxes(0, 1).reshape(header.channels, -1) for part in parts]


def pack(grid: Grid, header: Header) -> bytes:
    """A grid as bits: `bits_per_code` per code, highest bit first, zero-padded to a whole byte."""
    big_endian = np.ascontiguousarray(grid, dtype=">u2").reshape(-1, 1).view(np.uint8)
    bits = np.unpackbits(big_endian, axis=1)[:, 16 - header.bits_per_code :]
    return np.packbits(bits).tobytes()


def unpack(payload: bytes, coarse_frames: int, header: Header) -> Grid:
    """The inverse of `pack`. CorruptStreamError for a code out of range or padding bits that are not zero."""
    bits = np.unpackbits(np.frombuffer(payload, dtype=np.uint8))
    num_bits = coarse_frames * header.bits_per_coarse_frame
    if bits[num_bits:].any():
        raise CorruptStreamError(f"expected zero padding bits, got {bits[num_bits:].tolist()}")
    columns = np.zeros((num_bits // header.bits_per_code, 16), dtype=np.uint8)
    columns[:, 16 - header.bits_per_code :] = bits[:num_bits].reshape(-1, header.bits_per_code)
    flat = np.packbits(columns, axis=1).view(">u2").astype(np.uint16)
    if flat.max() >= header.codebook_size:
        raise CorruptStreamError(f"expected codes of 0 to {header.codebook_size - 1}, got {flat.max()}")
    return flat.reshape(coarse_frames, header.channels, -1)


def payload_bytes(coarse_frames: int, header: Header) -> int:
    """Bytes of this many coarse frames after `pack`."""
    return -(-coarse_frames * header.bits_per_coarse_frame // 8)


def checksum(body: bytes, preceding: bytes) -> bytes:
    """CRC-16 of a packet's body, seeded with the two bytes before the packet in the stream.

    These are the previous packet's checksum (or the end of the header's), so lost, repeated and reordered packets are
    detected as well as changed ones.
    """
    return binascii.crc_hqx(body, int.from_bytes(preceding)).to_bytes(CHECKSUM_BYTES)
