"""Codes <-> packets: the order of the codes, their bits, and the checksum that chains the packets.

Between arrays and bits stands the grid, uint16 (coarse frames, channels, codes of one channel in a coarse
frame): read in C order, it is the order of the stream.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from opensnac.bitstream.header import Header
from opensnac.errors import CodesError, CorruptStreamError

MAX_COARSE_FRAMES = 255  # of one packet: their number is one byte
END_OF_STREAM = 0  # stands where a packet has its number of coarse frames
NUM_SAMPLES_BYTES = 5
CHECKSUM_BYTES = 2

Grid = NDArray[np.uint16]


def codes_to_grid(codes: Sequence[NDArray[np.integer]], header: Header) -> Grid:
    """Interleave codes, one integer array (channels, n_i) a scale, into a grid.

    Raises CodesError for codes that do not fit the header or are no whole number of coarse frames.
    """
    arrays = [np.asarray(scale) for scale in codes]
    coarse_frames = _count_coarse_frames(arrays, header)
    for i, scale in enumerate(arrays):
        if scale.size and not 0 <= scale.min() <= scale.max() < header.codebook_size:
            raise CodesError(
                f"codes of scale {i} are {scale.min()} to {scale.max()}; expected 0 to "
                f"{header.codebook_size - 1}: is it the model that made them?"
            )
    parts = [
        scale.reshape(header.channels, coarse_frames, count).swapaxes(0, 1).astype(np.uint16)
        for scale, count in zip(arrays, header.codes_per_coarse_frame, strict=True)
    ]
    return np.concatenate(parts, axis=2)


def _count_coarse_frames(arrays: list[NDArray[np.integer]], header: Header) -> int:
    """The number of coarse frames that all scales agree on; CodesError if they do not."""
    per_coarse_frame = header.codes_per_coarse_frame
    if len(arrays) != len(per_coarse_frame):
        raise CodesError(f"codes of {len(arrays)} scales came; expected {len(per_coarse_frame)}")
    for i, scale in enumerate(arrays):
        if scale.dtype.kind not in "iu" or scale.ndim != 2 or len(scale) != header.channels:
            raise CodesError(
                f"codes of scale {i} are {scale.dtype} of shape {scale.shape}; expected integers of shape "
                f"({header.channels} channels, codes)"
            )
    lengths = [scale.shape[1] for scale in arrays]
    coarse_frames = lengths[0] // per_coarse_frame[0]
    if lengths != [coarse_frames * count for count in per_coarse_frame]:
        raise CodesError(
            f"the scales have {lengths} codes a channel; the same multiple of {list(per_coarse_frame)} was "
            "needed (whole coarse frames)"
        )
    return coarse_frames


def grid_to_codes(grid: Grid, header: Header) -> list[NDArray[np.int64]]:
    """The inverse of `codes_to_grid`: one int64 array (channels, n_i) a scale."""
    ends = np.cumsum(header.codes_per_coarse_frame)
    parts = np.split(grid.astype(np.int64), ends[:-1], axis=2)
    return [part.swapaxes(0, 1).reshape(header.channels, -1) for part in parts]


def pack(grid: Grid, header: Header) -> bytes:
    """A grid as bits, each code at `bits_per_code`, highest bit first, zero bits up to a whole byte."""
    big_endian = np.ascontiguousarray(grid, dtype=">u2").reshape(-1, 1).view(np.uint8)
    bits = np.unpackbits(big_endian, axis=1)[:, 16 - header.bits_per_code :]
    return np.packbits(bits).tobytes()


def unpack(payload: bytes, coarse_frames: int, header: Header) -> Grid:
    """The inverse of `pack`. CorruptStreamError for a code too large or padding bits that are not zero."""
    bits = np.unpackbits(np.frombuffer(payload, dtype=np.uint8))
    num_bits = coarse_frames * header.bits_per_coarse_frame
    if bits[num_bits:].any():
        raise CorruptStreamError(f"its padding bits {bits[num_bits:].tolist()} must be zero")
    columns = np.zeros((num_bits // header.bits_per_code, 16), dtype=np.uint8)
    columns[:, 16 - header.bits_per_code :] = bits[:num_bits].reshape(-1, header.bits_per_code)
    flat = np.packbits(columns, axis=1).view(">u2").astype(np.uint16)
    if flat.max() >= header.codebook_size:
        raise CorruptStreamError(f"it holds code {flat.max()}; expected 0 to {header.codebook_size - 1}")
    return flat.reshape(coarse_frames, header.channels, -1)


def payload_bytes(coarse_frames: int, header: Header) -> int:
    """Bytes that `pack` makes of this many coarse frames."""
    return -(-coarse_frames * header.bits_per_coarse_frame // 8)


def checksum(body: bytes, preceding: bytes) -> bytes:
    """CRC-16 of a packet's body, begun from the two bytes before the packet in the stream.

    They are the checksum of the packet before (or the end of the header's), so a lost, repeated or displaced
    packet shows as well as a changed one.
    """
    return binascii.crc_hqx(body, int.from_bytes(preceding)).to_bytes(CHECKSUM_BYTES)
