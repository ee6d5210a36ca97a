"""Tokens for language models: the published layout, both ways, and sound from tokens one by one."""

from __future__ import annotations

import configs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opensnac import SNAC
from opensnac.errors import CodesError, ConfigError
from opensnac.streaming.tokens import TokenLayout, TokenStream

ORPHEUS_OFFSET = 128266


@pytest.fixture(scope="module")
def model() -> SNAC:
    torch.manual_seed(0)
    return SNAC(**configs.TINY).eval()


@pytest.fixture(scope="module")
def codes(model: SNAC) -> list[torch.Tensor]:
    audio = 0.3 * torch.randn(1, 1, 9 * 128, generator=torch.Generator().manual_seed(1))
    return model.encode(audio)


def test_the_layout_of_orpheus_by_hand() -> None:
    layout = TokenLayout((4, 2, 1), 4096, ORPHEUS_OFFSET)
    codes = [torch.tensor([[7]]), torch.tensor([[10, 11]]), torch.tensor([[20, 21, 22, 23]])]
    expected = [7, 4096 + 10, 2 * 4096 + 20, 3 * 4096 + 21, 4 * 4096 + 11, 5 * 4096 + 22, 6 * 4096 + 23]
    assert layout.slots == (0, 1, 2, 2, 1, 2, 2)
    assert layout.flatten(codes).tolist() == [[ORPHEUS_OFFSET + token for token in expected]]


@given(
    ratios=st.lists(st.integers(1, 3), max_size=3),
    batch=st.integers(1, 3),
    coarse=st.integers(0, 4),
    size=st.integers(1, 100),
    offset=st.integers(0, 1000),
)
def test_both_ways_for_any_strides(ratios: list[int], batch: int, coarse: int, size: int, offset: int) -> None:
    strides = [1]
    for ratio in ratios:
        strides.insert(0, strides[0] * ratio)
    codes = [torch.randint(size, (batch, coarse * strides[0] // stride)) for stride in strides]
    layout = TokenLayout(tuple(strides), size, offset)
    tokens = layout.flatten(codes)
    assert tokens.shape == (batch, coarse * len(layout.slots))
    assert tokens.unique().numel() == 0 or {int(tokens.min()), int(tokens.max())} <= set(layout.vocabulary)
    assert all(torch.equal(a, b) for a, b in zip(layout.unflatten(tokens), codes, strict=True))


def test_tokens_one_by_one_sound_as_the_whole(model: SNAC, codes: list[torch.Tensor]) -> None:
    stream = TokenStream(model, 500, seed=4)
    pieces = [stream.push(token) for token in stream.layout.flatten(codes)[0].tolist()]
    audio = torch.cat([*pieces, stream.finish()])
    assert stream.frames == codes[0].shape[1]
    torch.testing.assert_close(audio, model.decode(codes, seed=4)[0, 0], atol=1e-5, rtol=0)


def test_what_is_no_token_is_refused_and_changes_nothing(model: SNAC, codes: list[torch.Tensor]) -> None:
    stream = TokenStream(model, seed=4)
    pieces = []
    for token in stream.layout.flatten(codes)[0].tolist():
        for wrong in (token + 64, -1, 7 * 64):
            with pytest.raises(CodesError, match=r"was needed in slot \d of 7"):
                stream.push(wrong)
        pieces.append(stream.push(token))
    audio = torch.cat([*pieces, stream.finish()])
    torch.testing.assert_close(audio, model.decode(codes, seed=4)[0, 0], atol=1e-5, rtol=0)


def test_repair_takes_codes_of_other_slots_and_leaves_out_what_is_none(model: SNAC, codes: list[torch.Tensor]) -> None:
    stream = TokenStream(model, 500, repair=True, seed=4)
    vocabulary, pieces = stream.layout.vocabulary, []
    for i, token in enumerate(stream.layout.flatten(codes)[0].tolist()):
        pieces.append(stream.push(3))
        moved = token if i % 5 else (token + 64 if token + 64 in vocabulary else token - 64)
        pieces.append(stream.push(moved))
    pieces.append(stream.push(vocabulary[0]))
    audio = torch.cat([*pieces, stream.finish()])
    assert stream.ignored == codes[0].shape[1] * 7 + 1
    assert stream.repaired == -(-codes[0].shape[1] * 7 // 5)
    torch.testing.assert_close(audio, model.decode(codes, seed=4)[0, 0], atol=1e-5, rtol=0)


def test_an_unfinished_frame_is_named(model: SNAC) -> None:
    stream = TokenStream(model)
    for slot in range(9):
        stream.push(64 * (slot % 7))
    with pytest.raises(CodesError, match="last coarse frame has 2 of its 7 tokens"):
        stream.finish()


def test_lists_that_are_no_tokens_are_named() -> None:
    layout = TokenLayout((2, 1), 10, 100)
    with pytest.raises(CodesError, match="4 tokens came; 3 for each"):
        layout.unflatten(torch.tensor([[100, 110, 120, 100]]))
    with pytest.raises(CodesError, match="token 4 is 120; 110 to 119 was needed in slot 1 of 3"):
        layout.unflatten(torch.tensor([[100, 110, 120, 100, 120, 120]]))
    with pytest.raises(CodesError, match=r"codes of \[1, 3\] came; strides \[2, 1\]"):
        layout.flatten([torch.zeros(1, 1).long(), torch.zeros(1, 3).long()])
    with pytest.raises(ConfigError, match=r"strides are \[3, 2\]"):
        TokenLayout((3, 2), 10)
