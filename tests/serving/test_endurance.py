"""Long streams, many connections, much coming and going: as offline, and in flat memory.

In seconds here; `make test-serving` takes an hour of sound, a thousand connections and ten minutes of churn.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import numpy as np
import pytest
import torch
from running import Program, sound, until
from websockets.asyncio.client import connect

from opensnac import SNAC, Engine
from opensnac.serving.client import AsyncClient, Client, ServerError
from opensnac.streaming.tokens import TokenLayout

MINUTES = float(os.environ.get("OPENSNAC_TEST_SERVING", "0"))  # of churn; the rest is thorough too
THOROUGH = MINUTES > 0
MODEL = "speech_24khz_tiny"
SOUND_SECONDS = 3600 if THOROUGH else 10
CONNECTIONS = 1000 if THOROUGH else 100
PLACES = 10  # for streams
CHURN_SECONDS = 60 * MINUTES if THOROUGH else 1.2
FLAT = (8 if THOROUGH else 32) << 20  # bytes that a process may grow by, once it has warmed up

WAYS = ["whole", "cancel", "vanish", "error", "recording"]  # to come and go


@pytest.fixture(scope="module")
def engine() -> Engine:
    return SNAC.from_pretrained(MODEL).freeze()


@pytest.fixture(scope="module")
def server(program: Callable[..., Program]) -> Program:
    return program("--max-streams", str(PLACES), model=MODEL)


def test_a_stream_of_an_hour_sounds_as_offline_and_takes_no_more_memory(server: Program, engine: Engine) -> None:
    config, generator = engine.config, torch.Generator().manual_seed(1)
    frames = round(SOUND_SECONDS * config.sampling_rate / engine.hop_length / config.coarse_stride)
    shapes = [(1, frames * config.coarse_stride // stride) for stride in config.vq_strides]
    codes = [torch.randint(config.codebook_size, shape, generator=generator) for shape in shapes]
    tokens = TokenLayout.of(config).flatten(codes)[0]
    whole = engine.decode(codes)[0, 0].numpy()
    heard, sizes = 0, []
    with Client(server.url) as client, client.decoding(format="float32") as stream:

        def push() -> None:
            for part in tokens.split(700):
                stream.push(part.tolist())
            stream.finish()

        pushing = threading.Thread(target=push)
        pushing.start()
        for piece in stream:
            assert np.array_equal(piece, whole[heard : heard + len(piece)]), heard
            heard += len(piece)
            if heard > len(whole) // 10:
                sizes.append(server.resident)
        pushing.join()
    assert heard == len(whole)
    assert sizes[-1] - sizes[0] < FLAT


def test_many_connections_are_held_and_served_up_to_the_limit(
    server: Program, engine: Engine, codes: list[torch.Tensor]
) -> None:
    address = server.url.replace("http", "ws") + "/v1/decode"
    doors = asyncio.Semaphore(50)

    async def scene() -> None:
        async with AsyncExitStack() as stack:

            async def come():
                async with doors:
                    return await stack.enter_async_context(connect(address, compression=None, proxy=None))

            async def begin(connection) -> str:
                await connection.send('{"type": "start"}')
                said = json.loads(await connection.recv())
                return said.get("code", said["type"])

            connections = await asyncio.gather(*(come() for _ in range(CONNECTIONS)))
            assert server.ready()
            answers = await asyncio.gather(*(begin(connection) for connection in connections))
            assert {answer: answers.count(answer) for answer in set(answers)} == {
                "ready": PLACES,
                "limit": CONNECTIONS - PLACES,
            }
            async with AsyncClient(server.url) as client:
                with pytest.raises(ServerError, match=rf"expected at most {PLACES} open streams"):
                    await hear(client, [])
                await connections[answers.index("ready")].close()
                until(lambda: server.streams < PLACES)
                tokens = TokenLayout.of(engine.config).flatten(codes)[0].tolist()
                assert np.array_equal(await hear(client, tokens), engine.decode(codes)[0, 0].numpy())

    before = server.files
    asyncio.run(scene())
    until(lambda: server.streams == 0 and server.files <= before)


async def hear(client: AsyncClient, tokens: list[int]) -> np.ndarray:
    async with client.decoding(format="float32") as stream:
        await stream.push(tokens)
        await stream.finish()
        return np.concatenate([piece async for piece in stream])


def test_coming_and_going_leaves_nothing_behind(server: Program, engine: Engine, codes: list[torch.Tensor]) -> None:
    tokens = TokenLayout.of(engine.config).flatten(codes)[0].tolist()
    whole = engine.decode(codes)[0, 0].numpy()
    recording = (sound(0.2) * 32767).astype("<i2").tobytes()
    until_when = time.monotonic() + CHURN_SECONDS
    done: dict[str, int] = {}

    async def visit(client: AsyncClient, how: str) -> None:
        if how == "recording":
            await client.decode(await client.encode(recording, raw=24_000))
        elif how == "whole":
            assert np.array_equal(await hear(client, tokens), whole)
        else:
            async with client.decoding() as stream:
                await stream.push(tokens[: random.randrange(len(tokens))])
                if how == "cancel":
                    await stream.cancel()
                elif how == "vanish":
                    stream._connection.transport.abort()
                elif how == "error":
                    await stream.push([1 << 20])
                    with pytest.raises(ServerError, match="bad_codes"):
                        async for _ in stream:
                            pass

    async def visitor() -> None:
        async with AsyncClient(server.url) as client:
            while time.monotonic() < until_when:
                for how in random.sample(WAYS, len(WAYS)):
                    try:
                        await visit(client, how)
                    except ServerError as error:
                        if error.code != "limit":
                            raise
                        how = "limit"
                    done[how] = done.get(how, 0) + 1

    async def watched() -> list[int]:
        sizes = []
        async with asyncio.TaskGroup() as tasks:
            for _ in range(PLACES + 6):
                tasks.create_task(visitor())
            while time.monotonic() < until_when:
                await asyncio.sleep(CHURN_SECONDS / 20)
                sizes.append(server.resident)
        return sizes

    before = server.files
    sizes = asyncio.run(watched())
    print(done, [size >> 20 for size in sizes])
    assert {*WAYS, "limit"} == set(done)
    assert max(sizes[-4:]) - max(sizes[6:10]) < FLAT, [size >> 20 for size in sizes]
    until(lambda: server.streams == 0 and server.files <= before)
