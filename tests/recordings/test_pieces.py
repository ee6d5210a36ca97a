"""Recordings are coded in pieces as long as suits the device, with the same result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from opensnac import SNAC
from opensnac.engine.engine import Engine
from opensnac.recordings import transcode
from opensnac.streaming.arrays import ArrayDecoder


@pytest.mark.parametrize("gather", [False, True])
@given(lengths=st.lists(st.integers(0, 9), max_size=9), steps=st.integers(1, 5))
@settings(max_examples=50)
def test_pieces_are_the_signal_and_no_longer_than_asked(gather: bool, lengths: list[int], steps: int) -> None:
    fine = np.split(np.arange(8 * sum(lengths))[None], np.cumsum(lengths)[:-1] * 8, axis=1)
    pieces = [*transcode.in_pieces(([x[:, ::4], x] for x in fine), [4, 1], 4 * steps, gather)]
    sizes = [piece[1].shape[1] for piece in pieces]
    assert all(0 < size <= 4 * steps for size in sizes)
    assert sum(sizes) == 8 * sum(lengths)
    if gather:
        assert all(size == 4 * steps for size in sizes[:-1])
    if pieces:
        for stride, arrays in zip([4, 1], zip(*pieces, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(arrays, axis=1)[0], np.arange(8 * sum(lengths))[::stride])


def test_a_device_with_more_memory_takes_longer_pieces(
    tiny: SNAC, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[int] = []
    push = ArrayDecoder.push

    def counting(self: ArrayDecoder, codes: Sequence[Any]) -> np.ndarray:
        pushed.append(codes[-1].size)
        return push(self, codes)

    def code(name: str) -> tuple[bytes, np.ndarray, int]:
        pushed.clear()
        transcode.encode_file(tmp_path / "a.wav", tmp_path / f"{name}.snac", tiny)
        transcode.decode_file(tmp_path / f"{name}.snac", tmp_path / f"{name}.wav", tiny)
        return (tmp_path / f"{name}.snac").read_bytes(), soundfile.read(tmp_path / f"{name}.wav")[0], len(pushed)

    monkeypatch.setattr(ArrayDecoder, "push", counting)
    noise = 0.1 * np.random.default_rng(0).standard_normal(300_000)
    soundfile.write(tmp_path / "a.wav", noise, 24000)
    short, expected, several = code("short")
    monkeypatch.setattr(Engine, "piece_samples", property(lambda engine: 400_000))
    long, samples, one = code("long")
    assert short == long
    np.testing.assert_allclose(samples, expected, atol=1 / 32768 + 1e-5)
    assert (several, one) == (7, 1)  # 12.5 s in pieces of 2 s, and in one
