"""Streams pass through pipes: no seeking, short reads and writes, each packet out before the next comes."""

import io
import os
import threading
from typing import BinaryIO, cast

import pytest
from streams import SPEECH, Sample, assert_same_codes, random_codes, sample

from opensnac.bitstream import Reader, Writer, read
from opensnac.errors import BitstreamError


class Trickle(io.RawIOBase):
    """A file that cannot seek and gives or takes at most `size` bytes at a time."""

    def __init__(self, data: bytes = b"", size: int = 1) -> None:
        self.rest = data
        self.taken = bytearray()
        self.size = size

    def read(self, count: int = -1) -> bytes:
        piece = self.rest[: min(count, self.size)]
        self.rest = self.rest[len(piece) :]
        return piece

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.taken += data[: self.size]
        return min(len(data), self.size)


class NonBlocking(io.RawIOBase):
    def read(self, count: int = -1) -> None:
        return None

    def write(self, data: bytes) -> None:  # type: ignore[override]
        return None


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_short_reads_and_writes_are_joined(size: int) -> None:
    recording = sample(SPEECH, multiples=9, coarse_frames_per_packet=4)
    file = Trickle(size=size)
    writer = Writer(cast(BinaryIO, file), SPEECH, coarse_frames_per_packet=4)
    writer.write(recording.codes)
    writer.close(recording.num_samples)
    assert bytes(file.taken) == recording.data
    back = read(cast(BinaryIO, Trickle(recording.data, size)))
    assert_same_codes(back.codes, recording.codes)


def test_a_recording_larger_than_the_pipe_goes_through_it() -> None:
    recording = sample(SPEECH, multiples=10_000, coarse_frames_per_packet=16)
    reading, writing = os.pipe()
    thread = threading.Thread(target=_write_and_close, args=(writing, recording))
    thread.start()
    with open(reading, "rb") as file:
        back = read(file)
    thread.join()
    assert len(recording.data) > 1 << 16
    assert back.num_samples == recording.num_samples
    assert_same_codes(back.codes, recording.codes)


def _write_and_close(descriptor: int, recording: Sample) -> None:
    with open(descriptor, "wb") as file:
        writer = Writer(file, recording.header, recording.coarse_frames_per_packet)
        writer.write(recording.codes)
        writer.close(recording.num_samples)


def test_a_live_listener_gets_each_coarse_frame_before_the_next_is_written() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)  # missing bytes raise an error instead of blocking
    with open(reading, "rb", buffering=0) as listener, open(writing, "wb") as speaker:
        writer = Writer(speaker, SPEECH, coarse_frames_per_packet=255)
        writer.flush()
        reader = Reader(cast(BinaryIO, listener))
        packets = iter(reader)
        for k in range(5):
            codes = random_codes(SPEECH, 1, seed=k)
            writer.write(codes)
            writer.flush()
            assert_same_codes(next(packets), codes)
        writer.close(SPEECH.num_samples(20))
        speaker.close()
        assert list(packets) == []
        assert reader.num_samples == SPEECH.num_samples(20)


def test_a_non_blocking_file_is_refused() -> None:
    with pytest.raises(BitstreamError, match="expected a blocking input"):
        Reader(cast(BinaryIO, NonBlocking()))
    with pytest.raises(BitstreamError, match="expected a blocking output"):
        Writer(cast(BinaryIO, NonBlocking()), SPEECH)
