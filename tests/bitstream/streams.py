"""Recordings for the tests of the `.snac` stream: headers of every shape, codes that fit them."""

import io
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from opensnac.bitstream import Header, Writer

SPEECH = Header(
    model_name="a-name-of-24-characters.",
    weights_hash="0123456789abcdef",
    sampling_rate=24000,
    original_rate=44100,
    channels=1,
    hop_length=512,
    vq_strides=(4, 2, 1),
    codebook_size=4096,
    frame_multiple=4,
)


@dataclass(frozen=True)
class Sample:
    """A recording as a writer gets it."""

    header: Header
    codes: list[np.ndarray]
    num_samples: int
    coarse_frames_per_packet: int

    @property
    def data(self) -> bytes:
        file = io.BytesIO()
        writer = Writer(file, self.header, self.coarse_frames_per_packet)
        writer.write(self.codes)
        writer.close(self.num_samples)
        return file.getvalue()


def random_codes(header: Header, coarse_frames: int, seed: int = 0) -> list[np.ndarray]:
    """Codes of every scale, (channels, n_i), the largest code among them."""
    rng = np.random.default_rng(seed)
    codes = [
        rng.integers(0, header.codebook_size, (header.channels, coarse_frames * count))
        for count in header.codes_per_coarse_frame
    ]
    if coarse_frames:
        codes[-1][-1, -1] = header.codebook_size - 1
    return codes


def sample(header: Header, multiples: int, coarse_frames_per_packet: int = 1, seed: int = 0) -> Sample:
    """A recording of that many frame multiples, of the full length of its frames."""
    frames = multiples * header.frame_multiple
    codes = random_codes(header, frames // header.coarse_stride, seed)
    return Sample(header, codes, header.num_samples(frames), coarse_frames_per_packet)


STRIDES = st.sampled_from([(1,), (7,), (1, 1), (4, 2, 1), (6, 3, 1), (8, 4, 2, 1), (2, 3), (5, 1, 1, 1, 1)])
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    strides = draw(STRIDES)
    return Header(
        model_name=draw(NAMES),
        weights_hash=draw(st.binary(min_size=8, max_size=8)).hex(),
        sampling_rate=draw(st.sampled_from([16000, 24000, 32000, 44100])),
        original_rate=draw(st.integers(4000, 192000)),
        channels=draw(st.integers(1, 8)),
        hop_length=draw(st.integers(16, 1024)),
        vq_strides=strides,
        codebook_size=draw(st.one_of(st.integers(2, 65536), st.sampled_from([2, 1024, 4096, 65536]))),
        frame_multiple=draw(st.integers(1, 5)) * int(np.lcm.reduce(strides)),
    )


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    header = draw(headers())
    longest = sample(header, draw(st.integers(0, 4)), draw(st.integers(1, 255)), draw(st.integers(0, 99)))
    padding = header.num_samples(header.frame_multiple)
    shortest = max(longest.num_samples - padding + 2, min(longest.num_samples, 1))
    num_samples = draw(st.integers(min(shortest, longest.num_samples), longest.num_samples))
    return Sample(header, longest.codes, num_samples, longest.coarse_frames_per_packet)


def assert_same_codes(came: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(came) == len(expected)
    for one, other in zip(came, expected, strict=True):
        assert one.dtype == np.int64
        np.testing.assert_array_equal(one, other)
