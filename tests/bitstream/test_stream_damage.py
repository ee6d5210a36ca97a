"""Every change to a stream is detected, the part before it is kept, and declared sizes are not trusted."""

import io
import pickle
import tracemalloc
import zlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from streams import SPEECH, Sample, assert_same_codes, sample, samples

from opensnac.bitstream import Header, Reader, Writer, read
from opensnac.bitstream.packets import checksum
from opensnac.errors import BitstreamError, CorruptStreamError, DamagedStreamError, TruncatedStreamError

STEREO = replace(SPEECH, model_name="m", channels=2, vq_strides=(2, 1), codebook_size=1000, frame_multiple=2)
ATTENTION = replace(SPEECH, model_name="m", frame_multiple=8)
SMALL = [
    sample(STEREO, multiples=4, coarse_frames_per_packet=1),
    sample(STEREO, multiples=5, coarse_frames_per_packet=2),
    sample(ATTENTION, multiples=2, coarse_frames_per_packet=3),
]


def packet_bounds(recording: Sample) -> list[int]:
    """The position of each packet of a stream, and of the end record last."""
    reader = Reader(io.BytesIO(recording.data))
    return [reader.num_bytes, *(reader.num_bytes for _ in reader)]


def assert_salvages_a_prefix(data: bytes, recording: Sample) -> None:
    """Salvaged codes, if there are any, are the recording's first, in whole frame multiples."""
    try:
        kept = read(io.BytesIO(data), salvage=True)
    except BitstreamError:
        return
    assert isinstance(kept.damage, DamagedStreamError)
    assert kept.num_frames % kept.header.frame_multiple == 0
    assert kept.header.fits(kept.num_frames, kept.num_samples)
    for came, expected in zip(kept.codes, recording.codes, strict=True):
        np.testing.assert_array_equal(came, expected[:, : came.shape[1]])


@pytest.mark.parametrize("recording", SMALL)
def test_every_flipped_bit_is_found(recording: Sample) -> None:
    size = len(recording.data)
    for position in range(8 * size):
        flipped = (int.from_bytes(recording.data) ^ 1 << position).to_bytes(size)
        with pytest.raises(BitstreamError):
            read(io.BytesIO(flipped))
        assert_salvages_a_prefix(flipped, recording)


@pytest.mark.parametrize("recording", SMALL)
def test_every_cut_is_found(recording: Sample) -> None:
    for size in range(1, len(recording.data)):
        with pytest.raises(TruncatedStreamError, match=f"the stream ends at byte {size}, "):
            read(io.BytesIO(recording.data[:size]))
        assert_salvages_a_prefix(recording.data[:size], recording)


@pytest.mark.parametrize("recording", SMALL)
def test_a_prefix_gives_every_complete_packet(recording: Sample) -> None:
    bounds = packet_bounds(recording)
    for size in range(bounds[0], len(recording.data)):
        reader = Reader(io.BytesIO(recording.data[:size]))
        with pytest.raises(TruncatedStreamError):
            list(reader)
        assert reader.num_packets == sum(bound <= size for bound in bounds[1:])
        assert reader.num_samples is None


def test_a_cut_says_where_it_is_and_what_can_be_kept() -> None:
    recording = sample(SPEECH, multiples=20, coarse_frames_per_packet=8)
    for size, message in [
        (30, "ends at byte 30, inside the header.*; without its header a stream cannot be decoded"),
        (
            59,
            "ends at byte 59, after the header, without end record; nothing before the damage can be decoded",
        ),
        (146, "after packet 1, without end record; decode with --salvage to keep the first 0.7 s"),
        (200, "inside packet 2: expected at least 31 more; decode with --salvage to keep the first 0.7 s"),
        (len(recording.data) - 1, "inside the end record: expected at least 1 more; .* the first 1.7 s"),
    ]:
        with pytest.raises(TruncatedStreamError, match=message):
            read(io.BytesIO(recording.data[:size]))


@given(st.binary(min_size=1, max_size=20))
@example(b"\0")
@example(SMALL[0].data)
def test_bytes_after_the_end_are_found_and_cost_nothing(more: bytes) -> None:
    recording = SMALL[0]
    count = "1 byte follows" if len(more) == 1 else f"{len(more)} bytes follow"
    with pytest.raises(CorruptStreamError, match=f"{count} the end of the stream at byte {len(recording.data)};"):
        read(io.BytesIO(recording.data + more))
    kept = read(io.BytesIO(recording.data + more), salvage=True)
    assert kept.num_samples == recording.num_samples
    assert_same_codes(kept.codes, recording.codes)


def test_endless_bytes_after_the_end_are_not_read_to_their_end() -> None:
    with pytest.raises(CorruptStreamError, match="65536 or more bytes follow the end"):
        read(io.BytesIO(SMALL[0].data + bytes(1 << 20)))


@given(samples(), st.data())
def test_overwritten_bytes_are_found(recording: Sample, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(recording.data) - 1))
    new = data.draw(st.binary(min_size=1, max_size=40))
    changed = recording.data[:start] + new + recording.data[start + len(new) :]
    assume(changed != recording.data)
    with pytest.raises(BitstreamError):
        read(io.BytesIO(changed))


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_arbitrary_bytes_are_a_clear_error(data: bytes, headed: bool, salvage: bool) -> None:
    with pytest.raises(BitstreamError, match=r".{20}"):
        read(io.BytesIO((SPEECH.to_bytes() if headed else b"") + data), salvage=salvage)


@given(packet=st.integers(0, 4), start=st.integers(0, 1000), burst=st.integers(1, 0xFFFF))
def test_a_burst_of_16_bits_is_found_in_its_packet(packet: int, start: int, burst: int) -> None:
    recording = sample(STEREO, multiples=5, coarse_frames_per_packet=1)
    bounds = packet_bounds(recording)
    low, high = 8 * (bounds[packet] + 1), 8 * bounds[packet + 1] - 16
    position = low + start % (high - low + 1)
    shift = 8 * len(recording.data) - position - 16
    changed = int.from_bytes(recording.data) ^ burst << shift
    name = f"packet {packet + 1} .bytes {bounds[packet]} to {bounds[packet + 1] - 1}. is corrupt"
    reader = Reader(io.BytesIO(changed.to_bytes(len(recording.data))))
    with pytest.raises(CorruptStreamError, match=name):
        list(reader)
    assert reader.num_packets == packet


@pytest.mark.parametrize(
    ("order", "intact"),
    [((0, 2, 3), 1), ((1, 2, 3), 0), ((0, 2, 1, 3), 1), ((0, 0, 1, 2, 3), 1), ((3, 2, 1, 0), 0)],
)
def test_lost_repeated_and_displaced_packets_are_found(order: tuple[int, ...], intact: int) -> None:
    data = SMALL[0].data
    bounds = packet_bounds(SMALL[0])
    packets = [data[start:stop] for start, stop in pairwise(bounds)]
    reader = Reader(io.BytesIO(data[: bounds[0]] + b"".join(packets[i] for i in order) + data[bounds[-1] :]))
    with pytest.raises(CorruptStreamError, match=f"packet {intact + 1} .* is corrupt, or one before it is missing"):
        list(reader)
    assert reader.num_packets == intact


def test_a_lost_last_packet_shows_at_the_end_record() -> None:
    data = SMALL[0].data
    bounds = packet_bounds(SMALL[0])
    with pytest.raises(CorruptStreamError, match=f"the end record at byte {bounds[-2]} does not match the stream"):
        read(io.BytesIO(data[: bounds[-2]] + data[bounds[-1] :]))


def test_salvage_keeps_what_a_model_can_decode() -> None:
    recording = sample(ATTENTION, multiples=3, coarse_frames_per_packet=1)
    bounds = packet_bounds(recording)
    kept = read(io.BytesIO(recording.data[: bounds[5] + 2]), salvage=True)
    assert (kept.num_packets, kept.num_frames) == (5, 16)  # 20 frames came; frames come in multiples of 8
    assert kept.num_samples == 16 * 512 * 44100 // 24000
    assert kept.duration == kept.num_samples / 44100
    assert kept.damage is not None
    assert kept.info()["damage"] == kept.damage.problem
    assert "--salvage" not in kept.damage.problem
    with pytest.raises(TruncatedStreamError, match="nothing before the damage can be decoded"):
        read(io.BytesIO(recording.data[: bounds[1]]), salvage=True)


def test_salvage_of_an_intact_stream_is_the_stream() -> None:
    kept = read(io.BytesIO(SMALL[1].data), salvage=True)
    assert kept.damage is None
    assert_same_codes(kept.codes, SMALL[1].codes)


def stream_of(header: Header, *packets: bytes, num_samples: int) -> bytes:
    """A stream of any packets (each a count and a payload), with valid checksums."""
    data = header.to_bytes()
    for body in packets:
        data += body + checksum(body, data[-2:])
    data += b"\0" + num_samples.to_bytes(5)
    return data + zlib.crc32(data).to_bytes(4)


@pytest.mark.parametrize("code", [1000, 1023])
def test_codes_beyond_the_codebook_are_found(code: int) -> None:
    payload = (code << 100).to_bytes(15)  # in the second place of 10 bits
    data = stream_of(STEREO, b"\2" + payload, num_samples=2 * 1881)
    message = f"packet 1, payload at byte 36: expected codes of 0 to 999, got {code}; nothing before"
    with pytest.raises(CorruptStreamError, match=message):
        read(io.BytesIO(data))


def test_padding_bits_must_be_zero() -> None:
    read(io.BytesIO(stream_of(STEREO, b"\1" + b"\0" * 8, num_samples=1881)))
    data = stream_of(STEREO, b"\1" + b"\0" * 7 + b"\4", num_samples=1881)
    with pytest.raises(CorruptStreamError, match=r"expected zero padding bits, got \[0, 1, 0, 0\]"):
        read(io.BytesIO(data))


@pytest.mark.parametrize("num_samples", [0, 1884, (1 << 40) - 1])
def test_a_sample_count_beyond_the_frames_is_found(num_samples: int) -> None:
    data = stream_of(STEREO, b"\1" + b"\0" * 8, num_samples=num_samples)
    message = f"end record at byte 46 declares {num_samples} samples at 44100 Hz: expected .* frames, got 2;"
    with pytest.raises(CorruptStreamError, match=message):
        read(io.BytesIO(data))
    assert read(io.BytesIO(data), salvage=True).num_samples == 1881


def test_frames_off_the_frame_multiple_are_found() -> None:
    header = replace(STEREO, frame_multiple=4)
    with pytest.raises(CorruptStreamError, match="expected 4 frames, got 2"):
        read(io.BytesIO(stream_of(header, b"\1" + b"\0" * 8, num_samples=1881)))


def test_huge_declared_sizes_take_no_memory(tmp_path: Path) -> None:
    largest = Header(
        model_name="x" * 255,
        weights_hash="f" * 16,
        sampling_rate=(1 << 24) - 1,
        original_rate=(1 << 24) - 1,
        channels=255,
        hop_length=65535,
        vq_strides=(1,) * 16,
        codebook_size=65536,
        frame_multiple=255,
    )
    promises = [
        largest.to_bytes() + b"\xff",  # 2 MB of payload
        largest.to_bytes() + b"\xff" + bytes(100),
        largest.to_bytes() + b"\0" + b"\xff" * 9,  # 10^12 samples
        b"SNAC\1" + b"\xff" * 300,
        b"SNAC\1" + b"\xff" * 15,
    ]
    for data in promises:
        (tmp_path / "promise.snac").write_bytes(data)
        # An unbuffered file allocates all bytes requested.
        with open(tmp_path / "promise.snac", "rb", buffering=0) as file:
            tracemalloc.start()
            with pytest.raises(DamagedStreamError):
                read(cast(BinaryIO, file), salvage=True)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 300_000


def test_a_packet_of_the_largest_size_is_read() -> None:
    header = replace(SPEECH, channels=255, vq_strides=(1,) * 16, frame_multiple=1, codebook_size=2)
    recording = sample(header, multiples=255, coarse_frames_per_packet=255)
    assert_same_codes(read(io.BytesIO(recording.data)).codes, recording.codes)


def test_damage_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(CorruptStreamError("broken", "mend it")))
    assert (str(error), error.problem, error.advice) == ("broken; mend it", "broken", "mend it")


def test_an_unclosed_stream_reads_as_truncated() -> None:
    file = io.BytesIO()
    writer = Writer(file, SPEECH, coarse_frames_per_packet=2)
    writer.write([np.zeros((1, 3 * n), int) for n in (1, 2, 4)])
    with pytest.raises(TruncatedStreamError, match="without end record"):
        read(io.BytesIO(file.getvalue()))
    assert read(io.BytesIO(file.getvalue()), salvage=True).num_frames == 8
