"""Streams round-trip for any division into packets and calls, at the documented size."""

import io
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import SPEECH, Sample, assert_same_codes, random_codes, sample, samples

from opensnac.bitstream import Reader, Writer, read, write
from opensnac.errors import BitstreamError, CodesError


@given(samples())
def test_recordings_round_trip(recording: Sample) -> None:
    back = read(io.BytesIO(recording.data))
    assert back.header == recording.header
    assert back.num_samples == recording.num_samples
    assert back.damage is None
    assert back.num_bytes == len(recording.data)
    assert_same_codes(back.codes, recording.codes)


@given(samples(), st.data())
def test_any_sequence_of_writes_and_flushes_keeps_the_codes(recording: Sample, data: st.DataObject) -> None:
    header = recording.header
    counts = header.codes_per_coarse_frame
    coarse_frames = recording.codes[0].shape[1] // counts[0]
    file = io.BytesIO()
    writer = Writer(file, header, recording.coarse_frames_per_packet)
    start = 0
    while start < coarse_frames:
        stop = data.draw(st.integers(start, coarse_frames), label="written up to")
        writer.write([scale[:, start * n : stop * n] for scale, n in zip(recording.codes, counts, strict=True)])
        start = stop
        if data.draw(st.booleans(), label="flush"):
            writer.flush()
            assert writer.num_frames == start * header.coarse_stride
    writer.close(recording.num_samples)
    assert writer.num_bytes == len(file.getvalue())
    assert_same_codes(read(io.BytesIO(file.getvalue())).codes, recording.codes)


@given(samples())
def test_writing_in_pieces_gives_the_same_bytes(recording: Sample) -> None:
    counts = recording.header.codes_per_coarse_frame
    file = io.BytesIO()
    writer = Writer(file, recording.header, recording.coarse_frames_per_packet)
    for k in range(recording.codes[0].shape[1] // counts[0]):
        writer.write([scale[:, k * n : (k + 1) * n] for scale, n in zip(recording.codes, counts, strict=True)])
    writer.close(recording.num_samples)
    assert file.getvalue() == recording.data


def test_packets_hold_the_coarse_frames_asked_for() -> None:
    recording = sample(SPEECH, multiples=7, coarse_frames_per_packet=3)
    reader = Reader(io.BytesIO(recording.data))
    assert reader.num_samples is None
    assert [packet[0].shape[1] for packet in reader] == [3, 3, 1]
    assert (reader.num_packets, reader.num_frames) == (3, 28)
    assert reader.num_samples == recording.num_samples
    assert reader.num_bytes == len(recording.data)


def test_a_recording_of_no_samples_is_a_header_and_an_end() -> None:
    back = read(io.BytesIO(sample(SPEECH, multiples=0).data))
    assert back.num_samples == back.num_frames == back.num_packets == 0
    assert [scale.shape for scale in back.codes] == [(1, 0)] * 3
    assert back.info()["file_bits_per_second"] == 0


def test_ten_seconds_of_speech_cost_at_most_64_bytes_and_one_percent() -> None:
    file = io.BytesIO()
    write(file, SPEECH, random_codes(SPEECH, 118), num_samples=441_000)
    payload = 118 * 7 * 12 / 8
    assert len(SPEECH.model_name) == 24
    assert len(file.getvalue()) - payload == 75
    assert len(file.getvalue()) <= payload * 1.01 + 64


def test_an_hour_is_packed_and_unpacked_in_little_time() -> None:
    recording = sample(SPEECH, multiples=42_188, coarse_frames_per_packet=64)
    start = time.process_time()
    back = read(io.BytesIO(recording.data))
    assert time.process_time() - start < 5
    assert_same_codes(back.codes, recording.codes)


def test_info_has_everything_but_the_codes() -> None:
    recording = sample(SPEECH, multiples=10, coarse_frames_per_packet=4)
    assert read(io.BytesIO(recording.data)).info() == {
        "format_version": 1,
        "payload_type": 0,
        "model_name": "a-name-of-24-characters.",
        "weights_hash": "0123456789abcdef",
        "sampling_rate": 24000,
        "original_rate": 44100,
        "channels": 1,
        "hop_length": 512,
        "vq_strides": [4, 2, 1],
        "codebook_size": 4096,
        "frame_multiple": 4,
        "num_samples": 37632,
        "duration_seconds": 37632 / 44100,
        "num_frames": 40,
        "codes_per_scale": [10, 20, 40],
        "bits_per_second": 984.375,
        "file_bits_per_second": 8 * len(recording.data) / (37632 / 44100),
        "num_packets": 3,
        "num_bytes": len(recording.data),
        "damage": None,
    }


def _zeros(*shapes: tuple[int, ...], dtype: type = np.int64) -> list[np.ndarray]:
    return [np.zeros(shape, dtype) for shape in shapes]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (_zeros((1, 1), (1, 2)), r"codes: expected 3 scales, got 2"),
        (
            _zeros((2, 1), (2, 2), (2, 4)),
            r"expected integers of shape \(1 channels, codes\), got int64 of shape \(2, 1\)",
        ),
        (_zeros((1,), (2,), (4,)), r"scale 0: .* got int64 of shape \(1,\)"),
        (_zeros((1, 1), (1, 2), (1, 4), dtype=np.float64), r"scale 0: .* got float64 of shape"),
        (_zeros((1, 1), (1, 2), (1, 4), dtype=np.bool_), r"scale 0: .* got bool of shape"),
        (
            _zeros((1, 1), (1, 2), (1, 3)),
            r"multiple of \[1, 2, 4\] codes per channel, got \[1, 2, 3\]",
        ),
        (_zeros((1, 2), (1, 2), (1, 4)), r"codes per channel, got \[2, 2, 4\]"),
        (
            [scale + 4096 for scale in _zeros((1, 1), (1, 2), (1, 4))],
            r"expected 0 to 4095, got 4096 to 4096",
        ),
        ([scale - 1 for scale in _zeros((1, 1), (1, 2), (1, 4))], r"scale 0: expected 0 to 4095, got -1 to -1"),
    ],
)
def test_codes_that_do_not_fit_are_refused_and_nothing_of_them_is_written(codes: list, message: str) -> None:
    file = io.BytesIO()
    writer = Writer(file, SPEECH, coarse_frames_per_packet=1)
    before = file.getvalue()
    with pytest.raises(CodesError, match=message):
        writer.write(codes)
    assert file.getvalue() == before


@pytest.mark.parametrize("num_samples", [-1, 0, 3763, 7529, 1 << 40])
def test_a_number_of_samples_that_does_not_fit_the_frames_is_refused(num_samples: int) -> None:
    writer = Writer(io.BytesIO(), SPEECH)
    writer.write(random_codes(SPEECH, 2))
    with pytest.raises(CodesError, match=f"close: expected .* frames for {num_samples} samples at 44100 Hz, got 8"):
        writer.close(num_samples)
    writer.close(3764)  # the shortest recording of 8 frames: the 2049th codec sample needs a second coarse frame


@pytest.mark.parametrize("count", [0, 256])
def test_packets_of_impossible_size_are_refused(count: int) -> None:
    with pytest.raises(BitstreamError, match=f"coarse_frames_per_packet: expected 1 to 255, got {count}"):
        Writer(io.BytesIO(), SPEECH, coarse_frames_per_packet=count)


def test_a_closed_writer_refuses_more() -> None:
    writer = Writer(io.BytesIO(), SPEECH)
    writer.close(0)
    for call in (lambda: writer.write(random_codes(SPEECH, 1)), writer.flush, lambda: writer.close(0)):
        with pytest.raises(BitstreamError, match="the stream is closed"):
            call()


def test_the_package_needs_no_torch() -> None:
    script = "import sys, opensnac.bitstream; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
