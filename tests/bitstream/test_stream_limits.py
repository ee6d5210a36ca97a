"""A stream beyond the `Limits` raises a LimitError before more of it is read."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import BinaryIO, cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from streams import SPEECH, Sample, assert_same_codes, sample, samples

from opensnac.bitstream import Header, Limits, Reader, read
from opensnac.bitstream.packets import payload_bytes
from opensnac.errors import BitstreamError, LimitError

STEREO = replace(SPEECH, channels=2)
MINUTE = sample(SPEECH, multiples=704, coarse_frames_per_packet=64)  # 60.07 s


def test_limits_do_not_change_a_stream_within_them() -> None:
    assert_same_codes(read(io.BytesIO(MINUTE.data), limits=Limits()).codes, MINUTE.codes)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (replace(SPEECH, channels=3), "expected at most 2 channels, got 3"),
        (replace(SPEECH, sampling_rate=96_000), "expected rates of 8000 to 48000 Hz, got 96000 Hz"),
        (replace(SPEECH, original_rate=768_000), "expected rates of 8000 to 48000 Hz, got 768000 Hz"),
        (replace(SPEECH, original_rate=1), "expected rates of 8000 to 48000 Hz, got 1 Hz"),
        (replace(SPEECH, hop_length=1), "expected codes of at most 32000 bits per second, got 504000"),
    ],
)
def test_a_header_beyond_the_limits(header: Header, message: str) -> None:
    with pytest.raises(LimitError, match=message):
        Reader(io.BytesIO(header.to_bytes()), Limits())


class Counted(io.BytesIO):
    """A file that fails the test if too much of it is read."""

    def read1(self, size: int | None = -1) -> bytes:
        assert self.tell() + (size or 0) <= self.allowed
        return super().read1(size)

    allowed = 1 << 30


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(packet_frames=63), "expected packets of at most 63 coarse frames, got 64"),
        (Limits(packet_bytes=671), "expected packets of at most 671 bytes, got 672"),
        (Limits(seconds=5.3), r"expected at most 5\.3 s of audio, got 5\.461 s"),
    ],
)
def test_a_packet_is_refused_by_its_first_byte(limits: Limits, message: str) -> None:
    file = Counted(MINUTE.data)
    file.allowed = len(SPEECH.to_bytes()) + 1
    with pytest.raises(LimitError, match=message):
        list(Reader(file, limits))


def test_the_seconds_are_those_of_the_recording_not_of_its_padding() -> None:
    header = replace(SPEECH, frame_multiple=400)  # groups of 8.5 s
    padded = sample(header, multiples=1)
    short = Sample(header, padded.codes, 5 * header.original_rate, 1)
    assert read(io.BytesIO(short.data), limits=Limits(seconds=5)).duration == 5
    with pytest.raises(LimitError, match=r"at most 5 s of audio, got 8\.533 s"):
        read(io.BytesIO(padded.data), limits=Limits(seconds=5))
    with pytest.raises(LimitError, match=r"at most 4\.9 s of audio, got 5\.000 s"):
        read(io.BytesIO(short.data), limits=Limits(seconds=4.9))


def test_salvage_keeps_nothing_beyond_the_limits() -> None:
    with pytest.raises(LimitError):
        read(io.BytesIO(MINUTE.data), salvage=True, limits=Limits(seconds=30))


class Slow(io.RawIOBase):
    """A peer that sends a byte at intervals."""

    def __init__(self, data: bytes, pause: float) -> None:
        self._rest, self._pause = data, pause

    def read(self, size: int = -1) -> bytes:
        time.sleep(self._pause)
        piece, self._rest = self._rest[:1], self._rest[1:]
        return piece


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(packet_seconds=0.02), r"expected the header within 0\.02 s"),
        (Limits(stream_seconds=0.02), r"expected the whole stream within 0\.02 s"),
    ],
)
def test_a_slow_peer_times_out(limits: Limits, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(LimitError, match=message):
        read(cast(BinaryIO, Slow(MINUTE.data, 0.003)), limits=limits)
    assert time.monotonic() - start < 1, "of the 20 s that all bytes take"


def test_the_time_of_a_packet_begins_when_it_is_asked_for() -> None:
    class Stalling(Slow):
        def read(self, size: int = -1) -> bytes:
            time.sleep(self._pause if len(self._rest) < 6500 else 0)
            piece, self._rest = self._rest[: min(size, 100)], self._rest[min(size, 100) :]
            return piece

    packets = iter(Reader(cast(BinaryIO, Stalling(MINUTE.data, 0.5)), Limits(packet_seconds=0.4)))
    next(packets)
    time.sleep(0.5)  # time spent by the consumer
    with pytest.raises(LimitError, match=r"expected packet \d within 0\.4 s"):
        list(packets)


@given(
    recording=samples(),
    limits=st.builds(
        Limits,
        channels=st.integers(1, 8),
        rates=st.sampled_from([(1, 1 << 24), (8000, 48000)]),
        bits_per_second=st.floats(1, 1e7),
        packet_frames=st.integers(1, 255),
        packet_bytes=st.integers(1, 100_000),
        seconds=st.floats(0, 20),
    ),
)
def test_what_is_read_lies_within_the_limits(recording: Sample, limits: Limits) -> None:
    """The same as without limits, or a LimitError before the offending packet is read."""
    header, file = recording.header, io.BytesIO(recording.data)
    try:
        reader = Reader(file, limits)
    except LimitError:
        assert (
            header.channels > limits.channels
            or not limits.rates[0] <= min(header.sampling_rate, header.original_rate)
            or not max(header.sampling_rate, header.original_rate) <= limits.rates[1]
            or header.bits_per_second > limits.bits_per_second
        )
        assert file.tell() == len(header.to_bytes())
        return
    assert header.channels <= limits.channels
    assert header.bits_per_second <= limits.bits_per_second
    longest = min(limits.packet_frames, recording.coarse_frames_per_packet)
    try:
        for _ in reader:
            assert reader.num_frames <= header.num_frames(int(limits.seconds * header.original_rate))
    except LimitError:
        assert file.tell() <= reader.num_bytes
        assert (
            recording.num_samples > limits.seconds * header.original_rate
            or recording.coarse_frames_per_packet > limits.packet_frames
            or payload_bytes(recording.coarse_frames_per_packet, header) > limits.packet_bytes
        )
        return
    assert payload_bytes(min(longest, reader.num_frames // header.coarse_stride), header) <= limits.packet_bytes
    assert reader.num_samples == recording.num_samples <= limits.seconds * header.original_rate


@given(data=st.binary(max_size=300))
def test_limits_report_the_same_errors_for_noise(data: bytes) -> None:
    content = SPEECH.to_bytes() + data
    assume(content != MINUTE.data)
    with pytest.raises((BitstreamError, LimitError)):
        read(io.BytesIO(content), limits=Limits(seconds=1, packet_frames=2))
