"""The first record of a `.snac` stream: the model that its codes need, and their layout."""

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
WEIGHTS_HASH_DIGITS = 16  # a file stores the first 8 bytes of a model's 32-byte fingerprint

MAX_RATE = (1 << 24) - 1
MAX_SCALES = 16
MAX_CODES_PER_COARSE_FRAME = 4096  # of all channels and scales: bounds the memory of one packet

# After magic and version: payload type, channels, both rates (3 bytes each), hop length, codebook size - 1,
# frame multiple in coarse frames, number of scales. Big-endian, like every number in the stream.
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
    """What a reader needs before the first packet. HeaderError names a value out of range.

    model_name      bundled name, folder name or hub id of the model; 1 to 255 bytes of UTF-8
    weights_hash    first 16 hex digits of the model's fingerprint
    sampling_rate   of the codec, Hz
    original_rate   of the recording before it was resampled to the codec's rate, Hz
    channels        1 to 255, each coded independently
    hop_length      samples per frame at `sampling_rate`
    vq_strides      frames per code of each scale, coarse to fine
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
                f"weights_hash: expected the first {WEIGHTS_HASH_DIGITS} lower-case hex digits of the model's "
                f"fingerprint, got {self.weights_hash!r}"
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
                f"expected at most {MAX_CODES_PER_COARSE_FRAME} codes per coarse frame, got {codes} from "
                f"{self.channels} channels with vq_strides {list(self.vq_strides)}; mix down to fewer channels"
            )
        _check_range("frame_multiple", self.frame_multiple, 1, 255 * self.coarse_stride)
        if self.frame_multiple % self.coarse_stride:
            raise HeaderError(
                f"frame_multiple: expected a multiple of {self.coarse_stride}, the frames of a coarse frame, "
                f"got {self.frame_multiple}"
            )

    @property
    def model(self) -> str:
        """The model that encoded the stream, for messages."""
        return f"{self.model_name!r} (weights {self.weights_hash})"

    @property
    def bits_per_code(self) -> int:
        """Bits per code at fixed width."""
        return (self.codebook_size - 1).bit_length()

    @property
    def coarse_stride(self) -> int:
        """Frames per coarse frame, the shortest stretch with whole codes of every scale."""
        return math.lcm(*self.vq_strides)

    @property
    def codes_per_coarse_frame(self) -> tuple[int, ...]:
        """Codes per coarse frame in one channel, scale by scale."""
        return tuple(self.coarse_stride // stride for stride in self.vq_strides)

    @property
    def bits_per_coarse_frame(self) -> int:
        """Bits per coarse frame, all channels and scales."""
        return self.channels * sum(self.codes_per_coarse_frame) * self.bits_per_code

    @property
    def bits_per_second(self) -> float:
        """Bitrate of the codes, all channels and scales, without header and checksums."""
        return self.bits_per_coarse_frame * self.sampling_rate / (self.coarse_stride * self.hop_length)

    def num_frames(self, num_samples: int) -> int:
        """Frames for `num_samples` samples (per channel, at `original_rate`), padding included."""
        samples = -(-num_samples * self.sampling_rate // self.original_rate)
        return -(-samples // (self.hop_length * self.frame_multiple)) * self.frame_multiple

    def num_samples(self, num_frames: int) -> int:
        """Duration of `num_frames` frames in whole samples (per channel, at `original_rate`)."""
        return num_frames * self.hop_length * self.original_rate // self.sampling_rate

    def fits(self, num_frames: int, num_samples: int) -> bool:
        """Whether `num_samples` samples at `original_rate` can have been encoded as `num_frames` frames.

        Resamplers may round the number of samples at `sampling_rate` down or up; a recording that is not empty has at
        least one.
        """
        if num_frames % self.frame_multiple:
            return False
        coded = num_frames * self.hop_length
        shortest = max(num_samples * self.sampling_rate // self.original_rate, min(num_samples, 1))
        longest = -(-num_samples * self.sampling_rate // self.original_rate)
        return shortest <= coded < longest + self.frame_multiple * self.hop_length

    def to_bytes(self) -> bytes:
        """The header record, including its checksum."""
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
    """Read the header record at the start of a stream.

    NotSnacError for another kind of file, UnsupportedFormatError for a newer format, DamagedStreamError for damage.
    """
    try:
        _check_magic(source)
        _check_version(source.take(1, "the header")[0])
        return _read_fields(source)
    except DamagedStreamError as error:
        advice = "without its header a stream cannot be decoded: fetch or encode it again"
        raise type(error)(error.problem, advice) from None


def _read_fields(source: ByteSource) -> Header:
    """What follows magic and version; the checksum is verified before any of it is used."""
    fixed = source.take(_FIXED.size, "the header")
    payload_type, channels, rate, original_rate, hop, max_code, multiple, scales = _FIXED.unpack(fixed)
    strides = tuple(source.take(scales, "the header"))
    weights_hash = source.take(WEIGHTS_HASH_DIGITS // 2, "the header")
    name = source.take(source.take(1, "the header")[0], "the header")
    _check_checksum(source)
    if payload_type != PAYLOAD_FIXED_WIDTH:
        raise UnsupportedFormatError(
            f"payload type: expected {PAYLOAD_FIXED_WIDTH}, got {payload_type}, which needs a newer opensnac"
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
        raise CorruptStreamError(f"the header has an invalid value: {error}") from error


def _check_magic(source: ByteSource) -> None:
    magic = source.take_up_to(len(MAGIC))
    if magic == MAGIC:
        return
    if not magic:
        raise NotSnacError("expected a .snac stream, got an empty input (0 bytes)")
    if MAGIC.startswith(magic):
        raise TruncatedStreamError(f"the stream ends at byte {len(magic)}, inside the header")
    foreign = [kind for start, kind in _FOREIGN_MAGIC.items() if magic.startswith(start)]
    looks = f", apparently {foreign[0]}: encode it first" if foreign else ""
    raise NotSnacError(f"expected a .snac stream, which starts with {MAGIC!r}, got {magic!r}{looks}")


def _check_version(version: int) -> None:
    if version > FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"format version: expected {FORMAT_VERSION}, got {version}; install a newer opensnac (or fetch the file "
            "again, if that byte is damaged)"
        )
    if version < FORMAT_VERSION:
        raise CorruptStreamError(f"format version: expected {FORMAT_VERSION}, got {version}, which never existed")


def _check_checksum(source: ByteSource) -> None:
    computed = source.crc32
    stored = int.from_bytes(source.take(4, "the header"))
    if stored != computed:
        raise CorruptStreamError(
            f"the header (bytes 0 to {source.position - 1}) is corrupt: expected the checksum {computed:08x} of its "
            f"content, got {stored:08x}"
        )


def _check_name(name: str) -> None:
    size = len(name.encode(errors="replace"))
    if not 1 <= size <= 255:
        raise HeaderError(f"model_name: expected 1 to 255 bytes of UTF-8, got {size}")
    if re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", name):
        raise HeaderError(f"model_name: expected no control characters, got {name!r}")


def _check_range(field: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise HeaderError(f"{field}: expected an integer from {low} to {high}, got {value!r}")
