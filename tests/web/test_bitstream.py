"""The JavaScript reader and writer of `.snac` streams beside the Python ones: the golden file, damage of all kinds."""

import base64
import io
import json
import random
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bitstream.streams import SPEECH, Sample, sample, samples
from hypothesis import given, settings
from hypothesis import strategies as st

from opensnac.bitstream import Header, Reader, Writer, read
from opensnac.bitstream.packets import checksum
from opensnac.errors import BitstreamError, DamagedStreamError

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/tiny_v1.snac"
EXPECTED = json.loads(GOLDEN.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def ask():
    """JavaScript's answers to a list of calls of tests/web/bitstream.mjs, or to one."""
    if (node := shutil.which("node")) is None:
        pytest.skip("no node found; apt-get install nodejs")
    script = Path(__file__).with_name("bitstream.mjs")
    with subprocess.Popen([node, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:

        def ask(*calls: dict[str, Any]) -> Any:
            program.stdin.write(json.dumps(calls) + "\n")
            program.stdin.flush()
            answers = json.loads(program.stdout.readline())
            return answers if len(calls) > 1 else answers[0]

        yield ask
        program.stdin.close()


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def camel(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a header under their JavaScript names."""
    return {(words := name.split("_"))[0] + "".join(map(str.title, words[1:])): fields[name] for name in fields}


def plain(codes: list) -> list[str]:
    """The codes of each scale in JavaScript's form: base64 of 16 bits each, one channel after the other."""
    return [base64.b64encode(np.asarray(scale, "<u2").tobytes()).decode() for scale in codes]


def known(error: BitstreamError) -> dict[str, str]:
    """Class and message of an error, without language-specific parts."""
    problem = error.problem if isinstance(error, DamagedStreamError) else str(error)
    return comparable({"kind": type(error).__name__, "problem": problem})


def comparable(failure: dict[str, str]) -> dict[str, str]:
    """Without representations of bytes and names of fields, which depend on the language."""
    for start in ("expected a .snac stream, which starts with", "the header has an invalid value"):
        if failure["problem"].startswith(start):
            return {**failure, "problem": start}
    return failure


def python_stream(data: bytes) -> dict[str, Any]:
    """The Python reader's result, in the form of `stream`."""
    answer: dict[str, Any] = {"packets": [], "failure": None}
    reader = None
    try:
        reader = Reader(io.BytesIO(data))
        for codes in reader:
            answer["packets"].append(plain(codes))
    except BitstreamError as error:
        answer["failure"] = known(error)
    if reader is not None:
        names = ("num_frames", "num_packets", "num_samples", "num_bytes", "usable_frames", "usable_samples")
        answer |= camel({name: getattr(reader, name) for name in names})
    return answer


def python_read(data: bytes, salvage: bool) -> dict[str, Any]:
    """Python's result for the whole, in the form of `read`."""
    try:
        whole = read(io.BytesIO(data), salvage=salvage)
    except BitstreamError as error:
        failure = known(error)
        return {"error": failure["kind"], "problem": failure["problem"]}
    damage = known(whole.damage) if whole.damage else None
    counts = camel({name: getattr(whole, name) for name in ("num_samples", "num_frames", "num_packets", "num_bytes")})
    return {"codes": plain(whole.codes), "damage": damage, **counts}


def assert_read_alike(ask, streams: list[bytes], size: int) -> None:
    """Both languages find the same in these streams: whole, salvaged, and in pieces of `size` bytes."""
    for data, (stream, whole, salvaged) in zip(streams, batched(ask(*_calls(streams, size)), 3), strict=True):
        if stream["failure"]:
            stream["failure"] = comparable(stream["failure"])
        for came, wanted in (
            (stream, python_stream(data)),
            (whole, python_read(data, False)),
            (salvaged, python_read(data, True)),
        ):
            came = comparable(came) if "error" in came else came
            assert {name: came[name] for name in wanted} == wanted


def _calls(streams: list[bytes], size: int) -> Iterator[dict[str, Any]]:
    for data in map(coded, streams):
        yield {"call": "stream", "data": data, "size": size}
        yield {"call": "read", "data": data, "salvage": False}
        yield {"call": "read", "data": data, "salvage": True}


def batched(values: list, count: int) -> list[list]:
    return [values[start : start + count] for start in range(0, len(values), count)]


def damaged(recording: Sample, chance: random.Random) -> bytes:
    """A stream with one thing wrong: bytes changed, lost, repeated or added, often with all checksums put right."""
    data = bytearray(recording.data)
    start, length = chance.randrange(len(data)), chance.randrange(1, 40)
    match chance.randrange(7):
        case 0:
            data[start] ^= 1 << chance.randrange(8)
        case 1:
            del data[start:]
        case 2:
            del data[start : start + length]
        case 3:
            data[start:start] = data[start : start + length]
        case 4:
            data[start : start + length] = chance.randbytes(length)
        case 5:
            data += chance.randbytes(length)
        case 6:
            first = chance.choice([0, 4, 17, chance.randrange(len(data))])  # heads are short: seek them
            data[min(first + chance.randrange(4), len(data) - 1)] = chance.choice([0, 1, 255, chance.randrange(256)])
    return mended(bytes(data), recording) if chance.random() < 0.5 else bytes(data)


def mended(data: bytes, recording: Sample) -> bytes:
    """Recompute the checksums at their places in the undamaged stream, so that a reader checks the content."""
    reader = Reader(io.BytesIO(recording.data))
    bounds = [reader.num_bytes, *(reader.num_bytes for _ in reader)]
    mended = bytearray(data)
    if len(data) >= bounds[0]:
        mended[bounds[0] - 4 : bounds[0]] = zlib.crc32(mended[: bounds[0] - 4]).to_bytes(4)
    for first, last in pairwise(bounds):
        if len(data) >= last:
            mended[last - 2 : last] = checksum(bytes(mended[first : last - 2]), bytes(mended[first - 2 : first]))
    if len(data) >= bounds[-1] + 10:
        mended[bounds[-1] + 6 : bounds[-1] + 10] = zlib.crc32(mended[: bounds[-1] + 6]).to_bytes(4)
    return bytes(mended)


def test_the_golden_file_is_read_and_written(ask):
    answer = ask({"call": "read", "data": coded(GOLDEN.read_bytes())})
    assert answer["header"] == camel(EXPECTED["header"])
    assert (answer["codes"], answer["numSamples"]) == (plain(EXPECTED["codes"]), EXPECTED["num_samples"])
    assert answer["damage"] is None
    written = {"header": camel(EXPECTED["header"]), "pieces": [EXPECTED["codes"]]}
    counts = camel({name: EXPECTED[name] for name in ("num_samples", "coarse_frames_per_packet")})
    came = ask({"call": "write", **written, **counts})
    assert base64.b64decode(came["data"]) == GOLDEN.read_bytes()


@given(samples(), st.integers(1, 300), st.booleans())
@settings(max_examples=60)
def test_streams_are_those_of_python(ask, recording, size, flush):
    header = recording.header
    assert_read_alike(ask, [recording.data], size)
    counts = header.codes_per_coarse_frame
    frames = recording.codes[0].shape[1] // counts[0]
    pieces = [
        [scale[:, at * n : (at + size) * n].tolist() for scale, n in zip(recording.codes, counts, strict=True)]
        for at in range(0, frames, size)
    ]
    file = io.BytesIO()
    writer = Writer(file, header, recording.coarse_frames_per_packet)
    for piece in pieces:
        writer.write([np.array(scale) for scale in piece])
        if flush:
            writer.flush()
    writer.close(recording.num_samples)
    came = ask(
        {
            "call": "write",
            "header": camel(asdict(header)),
            "pieces": pieces,
            "numSamples": recording.num_samples,
            "coarseFramesPerPacket": recording.coarse_frames_per_packet,
            "flush": flush,
        }
    )
    assert base64.b64decode(came["data"]) == file.getvalue()
    assert came["numBytes"] == len(file.getvalue())


@given(samples(), st.integers(1, 300), st.integers(0, 1 << 32))
@settings(max_examples=40)
def test_damage_is_reported_as_in_python(ask, recording, size, seed):
    chance = random.Random(seed)
    assert_read_alike(ask, [damaged(recording, chance) for _ in range(50)], size)


@given(st.binary(max_size=100), st.booleans(), st.integers(1, 50))
@settings(max_examples=100)
def test_arbitrary_bytes_are_reported_as_in_python(ask, data, headed, size):
    assert_read_alike(ask, [(SPEECH.to_bytes() if headed else b"") + data], size)


def test_every_truncation_is_reported_as_in_python(ask):
    recording = sample(SPEECH, multiples=5, coarse_frames_per_packet=2)
    assert_read_alike(ask, [recording.data[:size] for size in range(len(recording.data))], 7)


def test_header_values_have_the_bounds_of_python(ask):
    recording = sample(SPEECH, multiples=1)
    streams = []
    for place in range(len(SPEECH.to_bytes()) - 4):
        for value in (0, 1, 2, 127, 128, 251, 255):
            changed = bytearray(recording.data)
            changed[place] = value
            streams.append(mended(bytes(changed), recording))
    rates = [value.to_bytes(3) + rate.to_bytes(3) for value in (0, 1) for rate in (0, 1, (1 << 24) - 1)]
    streams += [mended(recording.data[:7] + both + recording.data[13:], recording) for both in rates]
    streams += [mended(recording.data[:13] + both + recording.data[17:], recording) for both in (bytes(4), b"\0\1\0\1")]
    assert_read_alike(ask, streams, 1000)


@given(samples())
@settings(max_examples=40)
def test_sample_counts_are_checked_as_in_python(ask, recording):
    header = recording.header
    frames = recording.codes[0].shape[1] * header.vq_strides[0]
    bounds = [0, 1 << 40, header.num_samples(frames), header.num_samples(max(0, frames - header.frame_multiple))]
    promises = {min(max(bound + more, 0), (1 << 40) - 1) for bound in bounds for more in range(-3, 4)}
    ends = [b"\0" + promise.to_bytes(5) for promise in promises]
    assert_read_alike(ask, [mended(recording.data[:-10] + end + bytes(4), recording) for end in ends], 1000)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"channels": 0}, "channels: expected an integer from 1 to 255, got 0"),
        ({"modelName": "a\x07"}, 'modelName: expected no control characters, got "a\\u0007"'),
        ({"modelName": "x" * 256}, "modelName: expected 1 to 255 bytes of UTF-8, got 256"),
        ({"weightsHash": "0"}, "weightsHash: expected the first 16 lower-case hex digits"),
        ({"vqStrides": [251, 241, 239]}, "expected at most 4096 codes per coarse frame"),
        ({"frameMultiple": 6}, "frameMultiple: expected a multiple of 4, the frames of a coarse frame, got 6"),
        ({"codebookSize": 1.5}, "codebookSize: expected an integer from 2 to 65536, got 1.5"),
    ],
)
def test_an_impossible_header_is_refused(ask, change, problem):
    header = camel(asdict(SPEECH)) | change
    answer = ask({"call": "whole", "header": header, "codes": [[[]], [[]], [[]]], "numSamples": 0})
    assert answer["error"] == "HeaderError"
    assert problem in answer["problem"]


@pytest.mark.parametrize(
    ("codes", "num_samples", "problem"),
    [
        ([[[1]], [[1, 2]]], 0, "codes: expected 3 scales, got 2"),
        ([[[1], [1]], [[1, 2]], [[1, 2, 3, 4]]], 0, "scale 0: expected 1 channels of one length, got 2"),
        ([[[1]], [[1, 2]], [[1, 2, 3]]], 0, "multiple of [1, 2, 4] codes per channel, got [1, 2, 3]"),
        ([[[1]], [[1, 2]], [[1, 2, 3, 4096]]], 0, "scale 2: expected 0 to 4095, got 4096"),
        ([[[1]], [[1, -2]], [[1, 2, 3, 4]]], 0, "scale 1: expected 0 to 4095, got -2"),
        ([[[1]], [[1, 2]], [[1, 2, 3, 4]]], 4000, "close: expected 8 frames for 4000 samples at 44100 Hz, got 4"),
        ([[[1]], [[1, 2]], [[1, 2, 3, 4]]], -1, "close: expected a whole number of samples, got -1"),
    ],
)
def test_codes_that_do_not_fit_are_refused(ask, codes, num_samples, problem):
    answer = ask({"call": "whole", "header": camel(asdict(SPEECH)), "codes": codes, "numSamples": num_samples})
    assert answer["error"] == "CodesError"
    assert problem in answer["problem"]


def test_the_largest_packet_is_read(ask):
    header = Header(**(asdict(SPEECH) | {"channels": 255, "vq_strides": (1,) * 16, "frame_multiple": 1}))
    recording = sample(header, multiples=20, coarse_frames_per_packet=20)
    answer = ask({"call": "read", "data": coded(recording.data)})
    assert answer["codes"] == plain(recording.codes)
