"""Tokens for language models: the published layout in both directions, and streaming decoding of tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

import configs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opensnac import SNAC
from opensnac.errors import CodesError, ConfigError
from opensnac.streaming.tokens import RowLayout, TokenLayout, TokenReader, TokenStream

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


def test_tokens_one_by_one_decode_as_the_whole(model: SNAC, codes: list[torch.Tensor]) -> None:
    stream = TokenStream(model, 500, seed=4)
    pieces = [stream.push(token) for token in stream.layout.flatten(codes)[0].tolist()]
    audio = torch.cat([*pieces, stream.finish()])
    assert stream.frames == codes[0].shape[1]
    torch.testing.assert_close(audio, model.decode(codes, seed=4)[0, 0], atol=1e-5, rtol=0)


def test_invalid_tokens_are_refused_and_change_nothing(model: SNAC, codes: list[torch.Tensor]) -> None:
    stream = TokenStream(model, seed=4)
    pieces = []
    for token in stream.layout.flatten(codes)[0].tolist():
        for wrong in (token + 64, -1, 7 * 64):
            with pytest.raises(CodesError, match=r"expected \d+ to \d+ in slot \d of 7"):
                stream.push(wrong)
        pieces.append(stream.push(token))
    audio = torch.cat([*pieces, stream.finish()])
    torch.testing.assert_close(audio, model.decode(codes, seed=4)[0, 0], atol=1e-5, rtol=0)


def test_repair_drops_tokens_that_are_not_codes(model: SNAC, codes: list[torch.Tensor]) -> None:
    stream = TokenStream(model, 500, repair=True, seed=4)
    pieces = []
    for token in stream.layout.flatten(codes)[0].tolist():
        pieces += [stream.push(3), stream.push(token)]
    audio = torch.cat([*pieces, stream.finish()])
    assert (stream.ignored, stream.concealed) == (codes[0].shape[1] * 7, 0)
    torch.testing.assert_close(audio, model.decode(codes, seed=4)[0, 0], atol=1e-5, rtol=0)


class Recorded(TokenReader):
    """A reader that records the codes of every coarse frame, None for a concealed one."""

    def __init__(self, layout: TokenLayout) -> None:
        super().__init__(layout, repair=True)
        self.heard: list[tuple[int, ...] | None] = []

    def _complete(self, row: Sequence[int | None]) -> list[list[int]]:
        self.heard.append(None if None in row else tuple(row))
        return super()._complete(row)


FRAMES = 12
LAYOUTS = {
    "orpheus": TokenLayout((4, 2, 1), 64, 100),
    "two scales": TokenLayout((2, 1), 64),
    "by scale": TokenLayout((4, 2, 1), 64, slots=(0, 1, 1, 2, 2, 2, 2)),
    "separated": TokenLayout((4, 2, 1), 64, 100, separator=99),
    "one range a scale": TokenLayout((4, 2, 1), 64, 100, ranges="scale"),
    "one range a scale, separated": TokenLayout((4, 2, 1), 64, 100, ranges="scale", separator=5),
}


def edited(tokens: list[int], edits: list[tuple[str, int, int]], layout: TokenLayout) -> list[int]:
    """Tokens after edits: the operation, its position, and its token."""
    tokens = list(tokens)
    for kind, where, number in edits:
        at = where % len(tokens)
        other = layout.offset + number % len(layout.vocabulary)
        if kind == "drop":
            del tokens[at]
        elif kind == "double":
            tokens.insert(at, tokens[at])
        else:
            tokens[at] = other
    return tokens


@cache
def frames_of(layout: TokenLayout, seed: int = 0) -> tuple[list[tuple[int, ...]], list[int]]:
    """Distinct coarse frames, and their tokens."""
    generator = torch.Generator().manual_seed(seed)
    codes = [
        torch.randint(layout.codebook_size, (1, FRAMES * layout.strides[0] // stride), generator=generator)
        for stride in layout.strides
    ]
    tokens = layout.flatten(codes)[0].tolist()
    stream = Recorded(layout)
    for token in tokens:
        stream.push(token)
    stream.finish()
    return stream.heard, tokens


def kept(whole: list[tuple[int, ...]], heard: list[tuple[int, ...] | None]) -> int:
    """The number of frames preserved in order: the longest common subsequence."""
    row = [0] * (len(heard) + 1)
    for frame in whole:
        before = row[:]
        for i, other in enumerate(heard):
            row[i + 1] = before[i] + 1 if frame == other else max(before[i + 1], row[i])
    return row[-1]


EDITS = st.lists(
    st.tuples(st.sampled_from(["drop", "double", "replace"]), st.integers(0, 1000), st.integers(0, 1000)), max_size=6
)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if "range" not in name])
@given(edits=EDITS)
def test_edits_spoil_hardly_more_frames_than_they_are(name: str, edits: list[tuple[str, int, int]]) -> None:
    layout = LAYOUTS[name]
    whole, tokens = frames_of(layout)
    stream = Recorded(layout)
    for token in edited(tokens, edits, layout):
        stream.push(token)
    stream.finish()
    assert kept(whole, stream.heard) >= FRAMES - len(edits) - 1
    assert stream.concealed <= len(edits) + 1


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kind", ["drop", "double", "replace"])
def test_one_edit_anywhere_spoils_one_frame_and_moves_none(name: str, kind: str) -> None:
    layout = LAYOUTS[name]
    whole, tokens = frames_of(layout)
    for at in range(len(tokens)):
        stream = Recorded(layout)
        for token in edited(tokens, [(kind, at, 3 * at)], layout):
            stream.push(token)
        stream.finish()
        assert len(stream.heard) == FRAMES
        assert sum(a != b for a, b in zip(whole, stream.heard, strict=True)) <= 1 + ("range" in name)


@given(st.lists(st.integers(0, 600), max_size=60))
def test_any_tokens_end_in_whole_frames(tokens: list[int]) -> None:
    for layout in LAYOUTS.values():
        stream = Recorded(layout)
        for token in tokens:
            stream.push(token)
        stream.finish()
        assert stream.frames == len(stream.heard)
        assert stream.frames <= len(tokens)
        assert all(frame is None or len(frame) == len(layout.slots) for frame in stream.heard)


@pytest.mark.parametrize("name", LAYOUTS)
@given(edits=EDITS, where=st.integers(0, 1000))
def test_a_saved_reader_continues(name: str, edits: list[tuple[str, int, int]], where: int) -> None:
    layout = LAYOUTS[name]
    tokens = [*edited(frames_of(layout)[1], edits, layout), -5]
    whole = TokenReader(layout, repair=True, group=2)
    rows = [row for token in tokens for row in whole.push(token)] + whole.finish()
    first = TokenReader(layout, repair=True, group=2)
    heard = [row for token in tokens[: where % len(tokens)] for row in first.push(token)]
    saved = json.loads(json.dumps(first.save()))
    second = TokenReader(layout, repair=True, group=2)
    second.resume(saved)
    heard += [row for token in tokens[saved["tokens"] :] for row in second.push(token)] + second.finish()
    assert heard == rows
    assert second.save() == whole.save()


def test_an_invalid_saved_reader_is_refused(model: SNAC) -> None:
    reader = TokenReader(TokenLayout.of(model.config))
    reader.push(5)
    saved = reader.save()
    for wrong in (
        {"row": [64]},
        {"row": []},
        {"row": [None]},
        {"row": "5"},
        {"place": 7},
        {"tokens": -1},
        {"last": [1]},
    ):
        with pytest.raises(CodesError, match="expected"):
            reader.resume(saved | wrong)
    for wrong in ({"frames": True}, {"more": 1}):
        with pytest.raises(CodesError, match="expected concealed, frames, ignored, last, place, row, tokens"):
            reader.resume(saved | wrong)
    assert reader.save() == saved


def test_a_concealed_frame_repeats_the_last_complete_one(model: SNAC, codes: list[torch.Tensor]) -> None:
    tokens = TokenLayout.of(model.config).flatten(codes)[0].tolist()
    stream = TokenStream(model, repair=True, seed=4)
    pieces = [stream.push(token) for token in [*tokens[:30], *tokens[31:]]]  # one of the fifth frame is dropped
    audio = torch.cat([*pieces, stream.finish()])
    assert stream.concealed == 1
    repeated = [code.clone() for code in codes]
    for scale, stride in zip(repeated, (4, 2, 1), strict=True):
        n = 4 // stride
        scale[:, 4 * n : 5 * n] = scale[:, 3 * n : 4 * n]
    torch.testing.assert_close(audio, model.decode(repeated, seed=4)[0, 0], atol=1e-5, rtol=0)


def test_broken_first_frames_take_the_first_complete_one(model: SNAC, codes: list[torch.Tensor]) -> None:
    tokens = TokenLayout.of(model.config).flatten(codes)[0].tolist()
    stream = TokenStream(model, repair=True, seed=4)
    pieces = [stream.push(token) for token in tokens[1:]]
    audio = torch.cat([*pieces, stream.finish()])
    repeated = [code.clone() for code in codes]
    for scale, stride in zip(repeated, (4, 2, 1), strict=True):
        scale[:, : 4 // stride] = scale[:, 4 // stride : 8 // stride]
    torch.testing.assert_close(audio, model.decode(repeated, seed=4)[0, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("came", range(7))
def test_hardly_a_token_is_silence_or_an_error(model: SNAC, came: int) -> None:
    for repair in (True, False):
        stream = TokenStream(model, repair=repair)
        assert all(stream.push(64 * slot).shape == (0,) for slot in range(came))
        if repair:
            audio = stream.finish()
            assert audio.shape == ((128 if came else 0),)
            assert not audio.any()
        else:
            message = f"the last coarse frame, got {came}" if came else "a coarse frame, got none"
            with pytest.raises(CodesError, match=f"7 tokens for {message}; push .*, or use repair"):
                stream.finish()


def test_a_repaired_end_fills_the_groups_of_an_attention_window() -> None:
    torch.manual_seed(0)
    model = SNAC(**configs.TINY | {"encoder_dim": 8, "decoder_dim": 64, "attn_window_size": 8}).eval()
    layout = TokenLayout.of(model.config)
    stream = TokenStream(model, repair=True)
    codes = [torch.randint(64, (1, 3 * 4 // stride)) for stride in (4, 2, 1)]
    pieces = [stream.push(token) for token in layout.flatten(codes)[0].tolist()]
    assert torch.cat([*pieces, stream.finish()]).shape == (3 * 128,)


def test_all_samples_are_on_the_models_device(model: SNAC) -> None:
    elsewhere = model.freeze(backend="torch", device="meta")
    for repair in (True, False):
        stream = TokenStream(elsewhere, repair=repair)
        assert stream.push(5).device.type == "meta"
    stream = TokenStream(elsewhere, repair=True)
    assert stream.push(-1).device.type == "meta"
    assert stream.finish().device.type == "meta"
    stream.push(5)
    assert stream.finish().device.type == "meta"


def test_an_unfinished_frame_is_named(model: SNAC) -> None:
    stream = TokenStream(model)
    for slot in range(9):
        stream.push(64 * (slot % 7))
    with pytest.raises(CodesError, match="7 tokens for the last coarse frame, got 2"):
        stream.finish()


def test_invalid_token_lists_are_refused() -> None:
    layout = TokenLayout((2, 1), 10, 100)
    with pytest.raises(CodesError, match="tokens: expected a multiple of 3, got 4"):
        layout.unflatten(torch.tensor([[100, 110, 120, 100]]))
    with pytest.raises(CodesError, match="token 4: expected 110 to 119 in slot 1 of 3, got 120"):
        layout.unflatten(torch.tensor([[100, 110, 120, 100, 120, 120]]))
    with pytest.raises(CodesError, match=r"frames of each scale for strides \[2, 1\], got \[1, 3\] codes"):
        layout.flatten([torch.zeros(1, 1).long(), torch.zeros(1, 3).long()])
    with pytest.raises(ConfigError, match=r"strides: expected .*, got \[3, 2\]"):
        TokenLayout((3, 2), 10)
    with pytest.raises(ConfigError, match=r"slots: expected .*\[0, 1, 1\] in any order, got \[0, 1\]"):
        TokenLayout((2, 1), 10, slots=(0, 1))
    with pytest.raises(ConfigError, match="separator: expected a token outside .*, got 5"):
        TokenLayout((2, 1), 10, separator=5)
    with pytest.raises(CodesError, match="token 0: expected the separator 99 before a coarse frame, got 3"):
        TokenLayout((2, 1), 10, separator=99).unflatten(torch.tensor([[3, 4, 5, 6]]))


@st.composite
def layouts(draw: st.DrawFn) -> TokenLayout:
    strides = [1]
    for ratio in draw(st.lists(st.integers(1, 3), max_size=3)):
        strides.insert(0, strides[0] * ratio)
    size, offset = draw(st.integers(1, 100)), draw(st.integers(0, 1000))
    slots = draw(st.sampled_from([(), TokenLayout(tuple(strides), size).slots]))
    return TokenLayout(
        tuple(strides),
        size,
        offset,
        slots=tuple(draw(st.permutations(slots))),
        ranges=draw(st.sampled_from(["slot", "scale"])),
        separator=draw(st.sampled_from([None, -1, offset + 100_000])),
    )


@given(layout=layouts(), batch=st.integers(1, 3), coarse=st.integers(0, 4), seed=st.integers(0, 99))
def test_every_layout_has_its_inverse(layout: TokenLayout, batch: int, coarse: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, coarse * layout.strides[0] // stride) for stride in layout.strides]
    codes = [torch.randint(layout.codebook_size, shape, generator=generator) for shape in shapes]
    tokens = layout.flatten(codes)
    assert tokens.shape == (batch, coarse * layout.tokens_per_frame)
    assert all(torch.equal(a, b) for a, b in zip(layout.unflatten(tokens), codes, strict=True))
    for row in tokens.tolist():
        assert layout.from_text(layout.to_text(row)) == row or layout.separator == -1


def test_custom_tokens_as_text_by_hand() -> None:
    layout = TokenLayout((4, 2, 1), 4096, ORPHEUS_OFFSET)
    text = "<custom_token_10><custom_token_4107> well <custom_token_24585>"
    assert layout.from_text(text) == [ORPHEUS_OFFSET, ORPHEUS_OFFSET + 4097, ORPHEUS_OFFSET + 24575]
    assert layout.to_text([ORPHEUS_OFFSET, ORPHEUS_OFFSET + 4097]) == "<custom_token_10><custom_token_4107>"
    other = TokenLayout((2, 1), 10, text="[a{}]", first=0)
    assert other.from_text(other.to_text([0, 12, 29])) == [0, 12, 29]


def test_ranges_by_scale_and_separators_by_hand() -> None:
    layout = TokenLayout((2, 1), 10, 100, ranges="scale", separator=7)
    codes = [torch.tensor([[1, 2]]), torch.tensor([[3, 4, 5, 6]])]
    assert layout.flatten(codes).tolist() == [[7, 101, 113, 114, 7, 102, 115, 116]]


def test_rows_with_delays_by_hand() -> None:
    codes = [torch.tensor([[1, 2]]), torch.tensor([[3, 4, 5, 6]])]
    by_scale = RowLayout((2, 1), 10, delays=(0, 1))
    assert by_scale.to_rows(codes).tolist() == [[[1, 1, 2, 2, 10], [10, 3, 4, 5, 6]]]
    by_slot = RowLayout((2, 1), 10, delays=(0, 1, 2), pad=99, rows="slot")
    assert by_slot.to_rows(codes).tolist() == [[[1, 2, 99, 99], [99, 3, 5, 99], [99, 99, 4, 6]]]


@given(data=st.data(), batch=st.integers(1, 3), coarse=st.integers(0, 4), size=st.integers(1, 50))
def test_rows_have_their_inverse(data: st.DataObject, batch: int, coarse: int, size: int) -> None:
    strides = data.draw(st.sampled_from([(1,), (2, 1), (4, 2, 1), (8, 4, 2, 1), (6, 3, 1), (4, 4, 2)]))
    rows = data.draw(st.sampled_from(["scale", "slot"]))
    count = len(RowLayout(strides, size, rows=rows).delays)
    delays = tuple(data.draw(st.lists(st.integers(0, 5), min_size=count, max_size=count)))
    layout = RowLayout(strides, size, delays, rows=rows)
    codes = [torch.randint(size, (batch, coarse * strides[0] // stride)) for stride in strides]
    assert all(torch.equal(a, b) for a, b in zip(layout.from_rows(layout.to_rows(codes)), codes, strict=True))


def test_invalid_delayed_rows_are_refused() -> None:
    layout = RowLayout((2, 1), 10, (0, 1))
    with pytest.raises(ConfigError, match=r"delays: expected 2 numbers of steps from 0 on, got \[0\]"):
        RowLayout((2, 1), 10, (0,))
    with pytest.raises(ConfigError, match="pad: expected .*, got the code 3"):
        RowLayout((2, 1), 10, pad=3)
    with pytest.raises(CodesError, match=r"rows: expected \(batch, 2, steps\), got \(1, 3, 4\)"):
        layout.from_rows(torch.zeros(1, 3, 4).long())
    with pytest.raises(CodesError, match="rows: expected 1 steps of delay and a multiple of 2, got 4"):
        layout.from_rows(torch.zeros(1, 2, 4).long())
    with pytest.raises(CodesError, match="row 1: expected 0 to 9, got 0 to 10"):
        layout.from_rows(torch.tensor([[[0, 0, 10], [10, 0, 10]]]))
