"""Streams over WebSockets: every way in and out gives what is computed offline; states, errors, bounds."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import Running, sound
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from opensnac import Engine
from opensnac.recordings import audio
from opensnac.serving import messages
from opensnac.serving.client import AsyncClient, Client, ServerError
from opensnac.serving.pool import PoolLimits
from opensnac.serving.text import TextReader
from opensnac.streaming.tokens import TokenLayout

PAGE = Path(__file__).parents[2] / "docs/serving.md"


@pytest.fixture(scope="module")
def layout(engine: Engine) -> TokenLayout:
    return TokenLayout.of(engine.config, 500)


@pytest.fixture(scope="module")
def tokens(layout: TokenLayout, codes: list[torch.Tensor]) -> list[int]:
    return layout.flatten(codes)[0].tolist()


@pytest.fixture(scope="module")
def whole(engine: Engine, codes: list[torch.Tensor]) -> np.ndarray:
    return engine.decode(codes, seed=5)[0, 0].numpy()


def socket_of(server: Running, kind: str = "decode"):
    return connect(server.url.replace("http", "ws") + f"/v1/{kind}", compression=None, max_size=None, proxy=None)


def said_by(socket) -> Iterator[str]:
    """What a server says until it closes the connection."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            yield socket.recv(timeout=30)


@pytest.mark.parametrize("form", ["array", "message", "int32", "text"])
def test_tokens_in_every_form_sound_as_offline(
    server: Running, layout: TokenLayout, tokens: list[int], whole: np.ndarray, form: str
) -> None:
    heard = b""
    with socket_of(server) as socket:
        socket.send(json.dumps({"type": "start", "offset": 500, "format": "float32", "seed": 5}))
        assert json.loads(socket.recv())["type"] == "ready"
        for start in range(0, len(tokens), 10):
            part = tokens[start : start + 10]
            if form == "array":
                socket.send(json.dumps(part))
            elif form == "message":
                socket.send(json.dumps({"type": "tokens", "tokens": part}))
            elif form == "int32":
                socket.send(np.array(part, "<i4").tobytes())
            else:
                text = f"Hm, <custom_{layout.to_text(part)}<"
                for piece in (text[:17], text[17:40], text[40:]):
                    socket.send(json.dumps({"type": "text", "text": piece}))
        socket.send('{"type": "flush"}')
        while isinstance(message := socket.recv(), bytes):
            heard += message
    assert json.loads(message) == {
        "type": "done", "samples": len(whole), "frames": 20, "tokens": len(tokens), "concealed": 0, "ignored": 0,
    }  # fmt: skip
    assert np.array_equal(np.frombuffer(heard, "<f4"), whole)


def test_sound_in_every_form_is_the_offline_sound(client: Client, tokens: list[int], whole: np.ndarray) -> None:
    def stream(**options: object) -> list:
        with client.decoding(offset=500, seed=5, **options) as stream:
            stream.push(tokens)
            stream.finish()
            return list(stream)

    scaled = np.clip((whole * np.float32(32768)).round(), -32768, 32767)
    assert np.array_equal(np.concatenate(stream()), scaled)
    resampled = audio.resample(whole[None], 24_000, 44_100)[0]
    np.testing.assert_allclose(np.concatenate(stream(rate=44_100, format="float32")), resampled, atol=2e-7)
    packets = stream(format="opus")
    coder = av.CodecContext.create("libopus", "r")
    coder.sample_rate, coder.layout = 48_000, "mono"
    decoded = [frame.to_ndarray() for packet in packets for frame in coder.decode(av.Packet(packet))]
    assert len(packets) == -(-len(whole) // 480) + 1  # what libopus holds back fills one more
    assert sum(part.shape[1] for part in decoded) >= 2 * len(whole) - 960


@pytest.mark.parametrize("output", ["codes", "tokens", "text", "int32"])
def test_sound_becomes_the_offline_codes(client: Client, engine: Engine, layout: TokenLayout, output: str) -> None:
    samples = sound(0.2)
    codes = engine.encode(torch.from_numpy(samples)[None, None])
    with client.encoding(output=output, offset=500, format="float32") as stream:
        for part in np.array_split(samples, 9):
            stream.push(part)
        stream.finish()
        pieces = list(stream)
    assert stream.done["samples"] == len(samples)
    assert stream.done["frames"] == codes[0].shape[1]
    tokens = layout.flatten(codes)[0].tolist()
    if output == "codes":
        scales = [[code for piece in pieces for code in piece[scale]] for scale in range(3)]
        assert scales == [code[0].tolist() for code in codes]
    elif output == "text":
        assert "".join(pieces) == layout.to_text(tokens)
    else:
        assert [int(token) for piece in pieces for token in piece] == tokens


def test_sound_at_another_rate_is_resampled_as_offline(client: Client, engine: Engine) -> None:
    samples = (sound(0.2, 16_000) * 32767).astype(np.int16)
    resampled = audio.resample(samples[None].astype(np.float32) / 32768, 16_000, 24_000).clip(-1, 1)
    with client.encoding(rate=16_000) as stream:
        stream.push(samples)
        stream.finish()
        pieces = list(stream)
    finest = [code for piece in pieces for code in piece[2]]
    assert finest == engine.encode(torch.from_numpy(resampled)[None])[2][0].tolist()


def test_a_connection_serves_one_stream_after_the_other(server: Running, tokens: list[int]) -> None:
    with socket_of(server) as socket:
        for ending in ("cancel", "flush", "cancel after flush", "flush"):
            socket.send('{"type": "start", "offset": 500}')
            assert json.loads(socket.recv())["type"] == "ready"
            socket.send(json.dumps(tokens))
            if "flush" in ending:
                socket.send('{"type": "flush"}')
            if "cancel" in ending:
                socket.send('{"type": "cancel"}')
            while isinstance(message := socket.recv(), bytes):
                pass
            said = json.loads(message)["type"]
            assert said == ("done" if ending == "flush" else "cancelled") or ending == "cancel after flush"
            if said == "done" and ending == "cancel after flush":  # it came too late, and begins nothing
                assert json.loads(socket.recv())["code"] == "bad_message"
                return


def test_what_a_language_model_gets_wrong_is_concealed_if_asked(client: Client, tokens: list[int]) -> None:
    with client.decoding(offset=500, repair=True) as stream:
        stream.push([*tokens[:30], 3, *tokens[31:]])
        stream.finish()
        samples = sum(map(len, stream))
    assert stream.done["concealed"] == 1
    assert stream.done["ignored"] == 1
    assert samples == 20 * 128


@pytest.mark.parametrize("repair", [False, True])
def test_a_saved_stream_goes_on_at_another_server(
    serve: Callable[..., Running], client: Client, tokens: list[int], whole: np.ndarray, repair: bool
) -> None:
    options = {"offset": 500, "format": "float32", "seed": 5, "repair": repair}
    with client.decoding(**options) as stream:
        stream.push(tokens[:73])
        saved = stream.save()
        heard = list(stream._protocol.early)
    assert (saved[0]["reader"]["tokens"], saved[0]["samples"]) == (73, sum(map(len, heard)))
    with Client(serve().url) as other, other.decoding(saved=saved, **options) as stream:
        stream.push(tokens[73:])
        stream.finish()
        heard += list(stream)
    assert stream.done["tokens"] == len(tokens)
    assert np.array_equal(np.concatenate(heard), whole)


def test_a_saved_recording_goes_on(client: Client, engine: Engine) -> None:
    samples = sound(0.3)
    with client.encoding(format="float32") as stream:
        stream.push(samples[:5000])
        saved = stream.save()
        pieces = list(stream._protocol.early)
    with client.encoding(format="float32", saved=saved) as stream:
        stream.push(samples[5000:])
        stream.finish()
        pieces += list(stream)
    finest = [code for piece in pieces for code in piece[2]]
    assert finest == engine.encode(torch.from_numpy(samples)[None, None])[2][0].tolist()


WRONG = [
    ("decode", ["hello"], "bad_message"),
    ("decode", ["{}"], "bad_message"),
    ("decode", ["[1]"], "bad_message"),
    ("decode", [b"\0\0\0\0"], "bad_message"),
    ("decode", ['{"type": "start", "color": 5}'], "bad_message"),
    ("decode", ['{"type": "start", "seed": "5"}'], "bad_message"),
    ("decode", ['{"type": "start", "layout": {"slots": [0, 0]}}'], "bad_message"),
    ("decode", ['{"type": "start", "model": "nobody/knows"}'], "no_model"),
    ("decode", ['{"type": "start", "model": "/etc/passwd"}'], "no_model"),
    ("decode", ['{"type": "start", "format": "opus", "rate": 44100}'], "bad_state"),
    ("decode", ['{"type": "start"}', '{"type": "start"}'], "bad_message"),
    ("decode", ['{"type": "start"}', "[1.5]"], "bad_message"),
    ("decode", ['{"type": "start"}', "[99999999999]"], "bad_message"),
    ("decode", ['{"type": "start"}', "[500]"], "bad_codes"),
    ("decode", ['{"type": "start"}', b"\0\0\0"], "bad_message"),
    ("decode", ['{"type": "start"}', '{"type": "flush"}'], "bad_codes"),
    ("decode", ['{"type": "start", "rate": 16000}', '{"type": "save"}'], "bad_state"),
    ("decode", ['{"type": "start", "resume": {"tokens": 0, "ignored": 0, "frames": 0, "concealed": 0, "place": 0, '
                '"row": [], "last": null}}', b"no state"], "bad_state"),
    ("encode", ['{"type": "start"}', b"odd"], "bad_audio"),
    ("encode", ['{"type": "start"}', "[1]"], "bad_message"),
    ("encode", ['{"type": "start", "format": "float32"}', b"\0\0\xc0\x7f"], "bad_audio"),
    ("encode", ['{"type": "start"}', '{"type": "flush"}'], "bad_audio"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "said", "code"), WRONG)
def test_what_is_wrong_is_said_and_ends_the_connection(
    server: Running, kind: str, said: list[str | bytes], code: str
) -> None:
    with socket_of(server, kind) as socket:
        for message in said:
            socket.send(message)
        answers = [json.loads(message) for message in said_by(socket)]
    assert (answers[-1]["type"], answers[-1]["code"]) == ("error", code)
    assert len(answers[-1]["message"]) > 10
    assert server.service.open_streams == 0


@given(st.one_of(st.text(), st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
       lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("type"), inner | st.just("start")))
       .map(json.dumps)))  # fmt: skip
@settings(max_examples=40)
def test_no_text_breaks_the_reading_of_messages(text: str) -> None:
    for kind in (messages.DECODING, messages.ENCODING):
        with contextlib.suppress(messages.MessageError):
            messages.parsed(text, kind)


@given(st.lists(st.integers(0, 448), max_size=12), st.lists(st.integers(0, 300), max_size=5), st.text(max_size=20))
def test_text_cut_anywhere_holds_the_same_tokens(tokens: list[int], cuts: list[int], word: str) -> None:
    layout = TokenLayout((4, 2, 1), 64, 500)
    word = word.replace("custom_token_", "")
    text = word.join(layout.to_text([token + 500]) for token in tokens)
    reader = TextReader(layout)
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    found = [token for a, b in pairwise(bounds) for token in reader.push(text[a:b])]
    assert found == [token + 500 for token in tokens]


def test_streams_are_bounded_and_idle_ones_end(serve: Callable[..., Running], tokens: list[int]) -> None:
    server = serve(streams=PoolLimits(streams=2, idle=0.5))
    with Client(server.url) as client, client.decoding(offset=500) as first, client.encoding() as second:
        with pytest.raises(ServerError, match=r"expected at most 2 open streams.*\(limit\)"), client.decoding():
            pass
        with pytest.raises(ServerError, match="push or a read within 0.5 s"):
            list(first)
        with pytest.raises(ServerError, match="push or a read within 0.5 s"):
            list(second)
        with client.decoding(offset=500) as third:
            third.push(tokens)
            third.finish()
            assert sum(map(len, third)) == 20 * 128


def test_many_clients_of_asyncio_at_once(server: Running, tokens: list[int], whole: np.ndarray) -> None:
    async def one(client: AsyncClient) -> None:
        async with client.decoding(offset=500, seed=5, format="float32") as stream:
            await stream.push(tokens)
            await stream.finish()
            assert np.array_equal(np.concatenate([piece async for piece in stream]), whole)

    async def all_of_them() -> None:
        async with AsyncClient(server.url) as client, asyncio.TaskGroup() as tasks:
            for _ in range(30):
                tasks.create_task(one(client))

    asyncio.run(all_of_them())
    until = time.monotonic() + 10
    while server.service.open_streams and time.monotonic() < until:
        time.sleep(0.01)
    assert server.service.open_streams == 0


def test_the_page_of_the_protocol_tells_of_every_message_and_field() -> None:
    page, document = PAGE.read_text(encoding="utf-8"), messages.asyncapi("1")
    schemas = document["components"]["schemas"]
    for kind in ("StartDecoding", "StartEncoding", "Ready", "State", "Done", "Error", "Layout"):
        for field in schemas[kind]["properties"]:
            assert f"`{field}`" in page, (kind, field)
    for kind in ("start", "tokens", "text", "flush", "cancel", "save", "ready", "codes", "state", "done", "cancelled"):
        assert f"`{kind}`" in page
    for reference in io.StringIO(json.dumps(document)).read().split('"$ref": "#/')[1:]:
        place = document
        for step in reference.split('"')[0].split("/"):
            place = place[step]
