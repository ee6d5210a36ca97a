"""An excerpt read by seeking equals the same part of the recording read from its beginning."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_odd_files import CONTAINERS, SAMPLES, crashed, encoded, flac_total, written

from opensnac.recordings.excerpts import read_excerpt, scan
from opensnac.recordings.source import Source

LOSSLESS = {
    **{f"a crashed {kind}": crashed(kind) for kind in CONTAINERS},
    "a flac of a pipe": flac_total(encoded("flac"), 0),
    "a flac that counts wrongly": flac_total(encoded("flac"), 7),
    "two flacs": written("flac", SAMPLES[:20_000]) + flac_total(encoded("flac"), 0),
}


def whole(content: bytes) -> np.ndarray:
    with Source(io.BytesIO(content)) as recording:
        return np.concatenate([*recording.blocks()], axis=1)


@pytest.mark.parametrize("kind", LOSSLESS)
@given(start=st.integers(0, 90_000), length=st.integers(1, 90_000))
@settings(max_examples=10)
def test_an_excerpt_is_a_slice(kind: str, start: int, length: int) -> None:
    content = LOSSLESS[kind]
    layout = scan(io.BytesIO(content))
    assert pickle.loads(pickle.dumps(layout)) == layout
    np.testing.assert_array_equal(
        read_excerpt(io.BytesIO(content), layout, start, length), whole(content)[:, start : start + length]
    )


@pytest.mark.parametrize("kind", ["vorbis", "opus", "mp3"])
@pytest.mark.parametrize("start", [0, 25_000, 55_000, 59_999, 60_000, 100_000])
def test_excerpts_of_concatenated_lossy_recordings(kind: str, start: int) -> None:
    content = 2 * encoded(kind)
    samples = read_excerpt(io.BytesIO(content), scan(io.BytesIO(content)), start, 10_000)[0]
    np.testing.assert_allclose(samples, whole(content)[0, start : start + 10_000], atol=1e-6)


def test_unseekable_recordings_are_read_from_their_beginning() -> None:
    av = pytest.importorskip("av", reason="pip install 'opensnac[media]'")
    del av
    from test_media import encoded as media

    content = media("ipod", "alac", 24000)
    layout = scan(io.BytesIO(content))
    assert layout.parts == ()
    np.testing.assert_array_equal(read_excerpt(io.BytesIO(content), layout, 9000, 500), whole(content)[:, 9000:9500])
