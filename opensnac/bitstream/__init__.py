"""The `.snac` stream: codes <-> bytes, without a model and without torch. docs/bitstream.md defines it."""

from opensnac.bitstream.header import FORMAT_VERSION, MAGIC, PAYLOAD_FIXED_WIDTH, WEIGHTS_HASH_DIGITS, Header
from opensnac.bitstream.limits import Clock, Limits
from opensnac.bitstream.reader import Reader, Recording, read
from opensnac.bitstream.writer import DEFAULT_COARSE_FRAMES_PER_PACKET, Writer, write

__all__ = [
    "DEFAULT_COARSE_FRAMES_PER_PACKET",
    "FORMAT_VERSION",
    "MAGIC",
    "PAYLOAD_FIXED_WIDTH",
    "WEIGHTS_HASH_DIGITS",
    "Clock",
    "Header",
    "Limits",
    "Reader",
    "Recording",
    "Writer",
    "read",
    "write",
]
