"""The first record of a `.snac` stream: which model its codes need and how they are laid out."""

from __future__ import annotations

import math
import re
import struct
import zlib
from dataclasses import dataclass

from opensnac.bitstream.source import ByteSource
from opensnac.errors import (
    CorruptStreamError,
    DamagedStreamError,
    HeaderError,
    NotSnacError,
    TruncatedStreamError,
    UnsupportedFormatError,
)

MAGIC = b"SNAC"
FORMAT_VERSION = 1
PAYLOAD_FIXED_WIDTH = 0
WEIGHTS_HASH_DIGITS = 16  # the file keeps the first 8 bytes of a model's 32-byte fingerprint

MAX_RATE = (1 << 24) - 1
MAX_SCALES = 16
MAX_CODES_PER_COARSE_FRAME = 4096  # of all channels and scales: bounds the memory of one packet

# After magic and version: payload type, channels, both rates (3 bytes each), hop length, codebook size - 1,
# frame multiple in coarse frames, number of scales. Big-endian, like every number of the stream.
_FIXED = struct.Struct(">BB3s3sHHBB")

_FOREIGN_MAGIC = {
    b"RIFF": "a WAV file",
    b"RF64": "a WAV file",
    b"OggS": "an Ogg file (Opus or Vorbis)",
    b"fLaC": "a FLAC file",
    b"ID3": "an MP3 file",
    b"\xff\xfb": "an MP3 file",
}


@dataclass(frozen=True)
class Header:
    """What a reader must know before the first packet. HeaderError names a value out of bounds.

    model_name      bundled name, folder's name or hub id of the model; 1 to 255 bytes of UTF-8
    weights_hash    first 16 hex digits of the model's fingerprint
    sampling_rate   of the codec, Hz
    original_rate   of the recording before it was resampled to the codec's rate, Hz
    channels        1 to 255, each coded by itself
    hop_length      samples of one frame at `sampling_rate`
    vq_strides      frames of one code, scale by scale, coarse to fine
    codebook_size   2 to 65536; codes are smaller than this
    frame_multiple  an intact recording's frames are a multiple of this; itself one of `coarse_stride`
    """

    model_name: str
    weights_hash: str
    sampling_rate: int
    original_rate: int
    channels: int
    hop_length: int
    vq_strides: tuple[int, ...]
    codebook_size: int
    frame_multiple: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "vq_strides", tuple(self.vq_strides))
        _check_name(self.model_name)
        if not re.fullmatch(rf"[0-9a-f]{{{WEIGHTS_HASH_DIGITS}}}", self.weights_hash):
            raise HeaderError(
                f"weights_hash is {self.weights_hash!r}; expected the first {WEIGHTS_HASH_DIGITS} lower-case hex "
                "digits of the model's fingerprint"
            )
        _check_range("sampling_rate", self.sampling_rate, 1, MAX_RATE)
        _check_range("original_rate", self.original_rate, 1, MAX_RATE)
        _check_range("channels", self.channels, 1, 255)
        _check_range("hop_length", self.hop_length, 1, 65535)
        _check_range("codebook_size", self.codebook_size, 2, 65536)
        _check_range("number of vq_strides", len(self.vq_strides), 1, MAX_SCALES)
        for stride in self.vq_strides:
            _check_range("vq_strides entry", stride, 1, 255)
        self._check_coarse_frame()

    def _check_coarse_frame(self) -> None:
        codes = self.channels * sum(self.codes_per_coarse_frame)
        if codes > MAX_CODES_PER_COARSE_FRAME:
            raise HeaderError(
                f"{self.channels} channels with vq_strides {list(self.vq_strides)} make {codes} codes a "
                f"coarse frame and {MAX_CODES_PER_COARSE_FRAME} are possible; mix down to fewer channels"
            )
        _check_range("frame_multiple", self.frame_multiple, 1, 255 * self.coarse_stride)
        if self.frame_multiple % self.coarse_stride:
            raise HeaderError(
                f"frame_multiple is {self.frame_multiple}; expected a multiple of the coarse frame of "
                f"{self.coarse_stride} frames (the least common multiple of vq_strides)"
            )

    @property
    def model(self) -> str:
        """The model that coded the stream, in words."""
        return f"{self.model_name!r} (weights {self.weights_hash})"

    @property
    def bits_per_code(self) -> int:
        """Bits of one code at fixed width."""
        return (self.codebook_size - 1).bit_length()

    @property
    def coarse_stride(self) -> int:
        """Frames of one coarse frame, the shortest stretch that holds whole codes of every scale."""
        return math.lcm(*self.vq_strides)

    @property
    def codes_per_coarse_frame(self) -> tuple[int, ...]:
        """Codes of one channel in a coarse frame, scale by scale."""
        return tuple(self.coarse_stride // stride for stride in self.vq_strides)

    @property
    def bits_per_coarse_frame(self) -> int:
        """Bits of a coarse frame's codes, all channels and scales."""
        return self.channels * sum(self.codes_per_coarse_frame) * self.bits_per_code

    @property
    def bits_per_second(self) -> float:
        """Bit rate of the codes, all channels and scales, without the stream's own bytes."""
        return self.bits_per_coarse_frame * self.sampling_rate / (self.coarse_stride * self.hop_length)

    def num_frames(self, num_samples: int) -> int:
        """Frames that code `num_samples` samples (per channel, at `original_rate`), padding included."""
        samples = -(-num_samples * self.sampling_rate // self.original_rate)
        return -(-samples // (self.hop_length * self.frame_multiple)) * self.frame_multiple

    def num_samples(self, num_frames: int) -> int:
        """Whole samples (per channel, at `original_rate`) that `num_frames` frames last."""
        return num_frames * self.hop_length * self.original_rate // self.sampling_rate

    def fits(self, num_frames: int, num_samples: int) -> bool:
        """Whether `num_samples` samples at `original_rate` can have been coded as `num_frames` frames.

        Resamplers round either way, to floor or ceil of the exact number of samples at `sampling_rate`; of a
        recording that is not empty at least one sample is coded.
        """
        if num_frames % self.frame_multiple:
            return False
        coded = num_frames * self.hop_length
        shortest = max(num_samples * self.sampling_rate // self.original_rate, min(num_samples, 1))
        longest = -(-num_samples * self.sampling_rate // self.original_rate)
        return shortest <= coded < longest + self.frame_multiple * self.hop_length

    def to_bytes(self) -> bytes:
        """The header record, its checksum included."""
        name = self.model_name.encode()
        fixed = _FIXED.pack(
            PAYLOAD_FIXED_WIDTH,
            self.channels,
            self.sampling_rate.to_bytes(3),
            self.original_rate.to_bytes(3),
            self.hop_length,
            self.codebook_size - 1,
            self.frame_multiple // self.coarse_stride,
            len(self.vq_strides),
        )
        body = MAGIC + bytes([FORMAT_VERSION]) + fixed + bytes(self.vq_strides)
        body += bytes.fromhex(self.weights_hash) + bytes([len(name)]) + name
        return body + zlib.crc32(body).to_bytes(4)


def read_header(source: ByteSource) -> Header:
    """Take the header record from the start of a stream.

    NotSnacError for another kind of file, UnsupportedFormatError for a newer one, else DamagedStreamError.
    """
    try:
        _check_magic(source)
        _check_version(source.take(1, "the header")[0])
        return _read_fields(source)
    except DamagedStreamError as error:
        advice = "without its header nothing of a stream can be decoded: fetch or encode it again"
        raise type(error)(error.problem, advice) from None


def _read_fields(source: ByteSource) -> Header:
    """What follows magic and version, its checksum checked before any of it is believed."""
    fixed = source.take(_FIXED.size, "the header")
    payload_type, channels, rate, original_rate, hop, max_code, multiple, scales = _FIXED.unpack(fixed)
    strides = tuple(source.take(scales, "the header"))
    weights_hash = source.take(WEIGHTS_HASH_DIGITS // 2, "the header")
    name = source.take(source.take(1, "the header")[0], "the header")
    _check_checksum(source)
    if payload_type != PAYLOAD_FIXED_WIDTH:
        raise UnsupportedFormatError(
            f"payload type {payload_type} is not supported by this version, it needs a newer opensnac"
        )
    try:
        return Header(
            model_name=name.decode(),
            weights_hash=weights_hash.hex(),
            sampling_rate=int.from_bytes(rate),
            original_rate=int.from_bytes(original_rate),
            channels=channels,
            hop_length=hop,
            vq_strides=strides,
            codebook_size=max_code + 1,
            frame_multiple=multiple * math.lcm(*strides),
        )
    except (HeaderError, UnicodeDecodeError) as error:
        raise CorruptStreamError(f"the header holds an impossible value: {error}") from error


def _check_magic(source: ByteSource) -> None:
    magic = source.take_up_to(len(MAGIC))
    if magic == MAGIC:
        return
    if not magic:
        raise NotSnacError("the input is empty (0 bytes); expected a .snac stream")
    if MAGIC.startswith(magic):
        raise TruncatedStreamError(f"the stream ends at byte {len(magic)}, inside the header")
    foreign = [kind for start, kind in _FOREIGN_MAGIC.items() if magic.startswith(start)]
    looks = f" and looks like {foreign[0]}: encode it first" if foreign else ""
    raise NotSnacError(f"no .snac stream: it starts with {magic!r}, expected {MAGIC!r}{looks}")


def _check_version(version: int) -> None:
    if version > FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"the stream has format version {version} and this opensnac reads version {FORMAT_VERSION}; "
            "install a newer opensnac (or fetch the file again, if that byte is damaged)"
        )
    if version < FORMAT_VERSION:
        raise CorruptStreamError(f"the header has format version {version}, which never was")


def _check_checksum(source: ByteSource) -> None:
    needed = source.crc32
    came = int.from_bytes(source.take(4, "the header"))
    if came != needed:
        raise CorruptStreamError(
            f"the header (bytes 0 to {source.position - 1}) was changed: its checksum is {came:08x} and its "
            f"content has {needed:08x}"
        )


def _check_name(name: str) -> None:
    size = len(name.encode(errors="replace"))
    if not 1 <= size <= 255:
        raise HeaderError(f"model_name has {size} bytes of UTF-8; 1 to 255 are possible")
    if re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", name):
        raise HeaderError(f"model_name is {name!r}; control characters are not possible in it")


def _check_range(field: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise HeaderError(f"{field} is {value!r}; expected a whole number from {low} to {high}")
