"""Streams of a pool: each as if alone, whoever came and went; what is bounded, what is fair, what is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import configs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opensnac import Engine, kernels
from opensnac.errors import AudioError, CodesError, LimitError, OpensnacError
from opensnac.serving import DecoderPool, EncoderPool, PoolLimits
from opensnac.serving.pool import Tick
from opensnac.serving.stream import Stream
from opensnac.streaming import State

ENGINES: dict[str, Engine] = {}


def engine_of(name: str, backend: str = "c") -> Engine:
    backend = backend if kernels.level() else "torch"
    if (key := f"{name} {backend}") not in ENGINES:
        ENGINES[key] = configs.model_of(configs.SMALL[name]).freeze(backend=backend)
    return ENGINES[key]


def run(coroutine: Coroutine[Any, Any, None], seconds: float = 60) -> None:
    asyncio.run(asyncio.wait_for(coroutine, seconds))


def audio_of(samples: int, seed: int) -> torch.Tensor:
    return 0.3 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(seed))


def codes_of(engine: Engine, coarse_frames: int, seed: int) -> list[torch.Tensor]:
    generator, config = torch.Generator().manual_seed(seed), engine.config
    frames = coarse_frames * config.coarse_stride
    return [torch.randint(config.codebook_size, (1, frames // s), generator=generator) for s in config.vq_strides]


def coarse(engine: Engine, codes: list[torch.Tensor], start: int, stop: int) -> list[torch.Tensor]:
    per_frame = [engine.config.coarse_stride // stride for stride in engine.config.vq_strides]
    return [code[:, start * n : stop * n] for code, n in zip(codes, per_frame, strict=True)]


def joined(pieces: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    return [torch.cat(scale) for scale in zip(*pieces, strict=True)]


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    """To the bit with the kernels, else to the rounding of sums."""
    torch.testing.assert_close(a, b, atol=0 if kernels.level() else 1e-5, rtol=0)


async def pushed(stream: Stream, engine: Engine, codes: list[torch.Tensor], cuts: list[int], pauses: list[int]) -> None:
    """Push coarse frames up to each cut, with so many turns of the event loop before."""
    start = 0
    for stop, pause in zip(cuts, pauses, strict=False):
        for _ in range(pause):
            await asyncio.sleep(0)
        if stop > start:
            await stream.push(coarse(engine, codes, start, stop))
            start = stop
    await stream.push(coarse(engine, codes, start, codes[0].shape[1]))
    await stream.finish()


SCHEDULE = st.lists(
    st.tuples(
        st.integers(1, 4),  # groups of frames
        st.lists(st.integers(0, 30), max_size=4),  # where pushes end
        st.lists(st.integers(0, 40), min_size=4, max_size=4),  # turns of the loop before each
        st.one_of(st.none(), st.integers(0, 3)),  # pieces after which the listener goes away
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("name", configs.SMALL)
@settings(max_examples=6)
@given(schedule=SCHEDULE, workers=st.integers(1, 3), batch=st.integers(1, 4), gather=st.sampled_from([0.0, 0.002]))
def test_decoding_is_as_if_alone(name: str, schedule: list[Any], workers: int, batch: int, gather: float) -> None:
    engine = engine_of(name)
    groups = engine.config.frame_multiple // engine.config.coarse_stride

    async def one(pool: DecoderPool, seed: int, plan: Any) -> None:
        count, cuts, pauses, leaves = plan
        codes = codes_of(engine, count * groups, seed)
        cuts = sorted(min(cut, count * groups - 1) for cut in cuts)
        heard: list[torch.Tensor] = []
        async with pool.open(seed=seed) as stream, asyncio.TaskGroup() as tasks:
            pushing = tasks.create_task(pushed(stream, engine, codes, cuts, pauses))
            async for piece in stream:
                heard.append(piece)
                if leaves is not None and len(heard) > leaves:
                    pushing.cancel()
                    return
        same(torch.cat(heard), engine.decode(codes, seed=seed)[0, 0])

    async def all_of_them() -> None:
        async with DecoderPool(engine, workers=workers, batch=batch, gather=gather) as pool:
            async with asyncio.TaskGroup() as tasks:
                for seed, plan in enumerate(schedule):
                    tasks.create_task(one(pool, seed, plan))
            counters = pool.counters
            assert counters.finished + counters.cancelled == counters.opened == len(schedule)
            assert (pool.open_streams, pool.queued) == (0, 0)

    run(all_of_them())


@pytest.mark.parametrize("name", configs.SMALL)
@settings(max_examples=6)
@given(lengths=st.lists(st.integers(1, 800), min_size=1, max_size=4), block=st.integers(30, 600), data=st.data())
def test_encoding_is_as_if_alone(name: str, lengths: list[int], block: int, data: st.DataObject) -> None:
    engine = engine_of(name)
    pauses = [data.draw(st.integers(0, 30)) for _ in lengths]

    async def one(pool: EncoderPool, seed: int) -> None:
        audio = audio_of(lengths[seed], seed)
        async with pool.open() as stream:
            for part in audio.split(block, dim=2):
                for _ in range(pauses[seed]):
                    await asyncio.sleep(0)
                await stream.push(part)
            await stream.finish()
            codes = joined([piece async for piece in stream])
        assert all(torch.equal(a, b[0]) for a, b in zip(codes, engine.encode(audio), strict=True))

    async def all_of_them() -> None:
        async with EncoderPool(engine, workers=2, gather=0.001) as pool, asyncio.TaskGroup() as tasks:
            for seed in range(len(lengths)):
                tasks.create_task(one(pool, seed))

    run(all_of_them())


def test_streams_that_are_ready_together_take_one_call() -> None:
    engine, ticks = engine_of("tiny"), []

    async def scene() -> None:
        async with DecoderPool(engine, workers=1, gather=0.05, watch=ticks.append) as pool:
            streams = [pool.open(seed=seed) for seed in range(6)]
            for stream in streams:
                await stream.push(codes_of(engine, 2, 0))
            while pool.counters.steps < 12:
                await asyncio.sleep(0.001)

    run(scene())
    assert [tick.streams for tick in ticks] == [6, 6]
    assert all(isinstance(tick, Tick) and len(tick.waits) == 6 and tick.seconds > 0 for tick in ticks)


def test_a_group_waits_for_others_no_longer_than_it_may() -> None:
    engine, waits = engine_of("tiny"), []

    async def scene() -> None:
        async with DecoderPool(engine, gather=0.03, watch=lambda tick: waits.extend(tick.waits)) as pool:
            streams = [pool.open() for _ in range(2)]  # the other one never says anything
            await streams[0].push(codes_of(engine, 1, 0))
            while not pool.counters.steps:
                await asyncio.sleep(0.001)

    run(scene())
    assert 0.025 < waits[0] < 1


def test_one_with_much_to_do_does_not_hold_up_the_others() -> None:
    engine = engine_of("tiny")

    async def scene() -> None:
        async with DecoderPool(engine, PoolLimits(buffered=1000), workers=1, batch=1, gather=0) as pool:
            busy, other = pool.open(), pool.open()
            await busy.push(codes_of(engine, 200, 0))
            await other.push(codes_of(engine, 20, 1))
            await other.finish()
            async for _ in other:
                pass
            assert pool.counters.steps < 60

    run(scene())


def test_a_slow_reader_holds_up_its_own_pushes_only() -> None:
    engine = engine_of("tiny")
    limits = PoolLimits(buffered=0.05)

    async def scene() -> None:
        async with DecoderPool(engine, limits) as pool:
            slow, quick = pool.open(), pool.open(seed=1)
            pushing = asyncio.create_task(slow.push(codes_of(engine, 60, 0)))
            codes = codes_of(engine, 20, 1)
            other = asyncio.create_task(pushed(quick, engine, codes, [], []))
            same(torch.cat([piece async for piece in quick]), engine.decode(codes, seed=1)[0, 0])
            await other
            assert not pushing.done()
            assert slow._unread < limits.buffered + 2 * pool.group_seconds
            heard = 0
            async for piece in slow:
                heard += len(piece)
                if pushing.done() and not slow._finishing:
                    await slow.finish()
            assert heard == 60 * pool.group_seconds * engine.config.sampling_rate

    run(scene())


def test_limits_of_streams_and_of_idleness() -> None:
    engine = engine_of("tiny")

    async def scene() -> None:
        async with DecoderPool(engine, PoolLimits(streams=2, idle=0.1)) as pool:
            first, second = pool.open(), pool.open()
            with pytest.raises(LimitError, match="expected at most 2 open streams"):
                pool.open()
            began = time.monotonic()
            while time.monotonic() < began + 0.3:  # one of them goes on
                await second.push(codes_of(engine, 1, 0))
                await asyncio.wait_for(anext(second), 1) if second._output else await asyncio.sleep(0.02)
            with pytest.raises(LimitError, match="push or a read within 0.1 s"):
                await first.push(codes_of(engine, 1, 0))
            with pytest.raises(LimitError, match="push or a read within 0.1 s"):
                await anext(first)
            assert not second.ended
            assert (pool.counters.refused, pool.counters.idle, pool.open_streams) == (1, 1, 1)
            pool.open()

    run(scene())


def test_bad_input_is_refused_and_changes_nothing() -> None:
    engine = engine_of("tiny")
    codes, audio = codes_of(engine, 5, 0), audio_of(1000, 0)

    async def scene() -> None:
        async with DecoderPool(engine) as pool, EncoderPool(engine) as encoders:
            stream = pool.open()
            for wrong in ([code + 64 for code in codes], codes[:2], [code[:, :1] for code in codes], 5):
                with pytest.raises(CodesError):
                    await stream.push(wrong)
            with pytest.raises(OpensnacError, match="this model and kind of stream"):
                pool.open(state=encoders._encoder.start())
            await pushed(stream, engine, codes, [], [])
            with pytest.raises(OpensnacError, match="has ended; open another"):
                await stream.push(codes)
            same(torch.cat([piece async for piece in stream]), engine.decode(codes)[0, 0])
            empty = pool.open()
            await empty.finish()
            with pytest.raises(CodesError, match="got no codes"):
                await anext(empty)
            recording = encoders.open()
            with pytest.raises(AudioError, match="NaN"):
                await recording.push(audio * torch.nan)
            recording.cancel()
            with pytest.raises(OpensnacError, match="was cancelled"):
                await recording.push(audio)
            assert pool.counters.failed == 1

    run(scene())


def test_a_worker_that_fails_ends_its_streams_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of("tiny")

    async def scene() -> None:
        async with DecoderPool(engine, workers=1, gather=0) as pool:
            good, bad = pool.open(), pool.open()
            step = pool._stepped
            monkeypatch.setattr(pool, "_stepped", lambda *_: 1 // 0)
            await bad.push(codes_of(engine, 1, 0))
            with pytest.raises(ZeroDivisionError):
                await anext(bad)
            monkeypatch.setattr(pool, "_stepped", step)
            codes = codes_of(engine, 5, 0)
            await pushed(good, engine, codes, [], [])
            same(torch.cat([piece async for piece in good]), engine.decode(codes)[0, 0])

    run(scene())


@pytest.mark.parametrize("name", configs.SMALL)
def test_a_saved_stream_goes_on_in_another_pool(name: str) -> None:
    engine = engine_of(name)
    codes, audio = codes_of(engine, 12, 3), audio_of(1500, 2)

    async def scene() -> None:
        heard, coded = [], []
        async with DecoderPool(engine) as pool, EncoderPool(engine) as encoders:
            decoding, encoding = pool.open(seed=3), encoders.open()
            await decoding.push(coarse(engine, codes, 0, 7))
            await encoding.push(audio[..., :901])
            saving = asyncio.create_task(decoding.save())
            while not saving.done():  # what is unread is not lost: the state waits until it is read
                if decoding._output:
                    heard.append(await anext(decoding))
                await asyncio.sleep(0)
            saved = saving.result().to_bytes()
            saving = asyncio.create_task(encoding.save())
            while not saving.done():
                if encoding._output:
                    coded.append(await anext(encoding))
                await asyncio.sleep(0)
        async with DecoderPool(engine) as pool, EncoderPool(engine) as encoders:
            decoding = pool.open(state=State.from_bytes(saved))
            await decoding.push(coarse(engine, codes, 7, 12))
            await decoding.finish()
            heard += [piece async for piece in decoding]
            encoding = encoders.open(state=saving.result())
            await encoding.push(audio[..., 901:])
            await encoding.finish()
            coded += [piece async for piece in encoding]
        same(torch.cat(heard), engine.decode(codes, seed=3)[0, 0])
        assert all(torch.equal(a, b[0]) for a, b in zip(joined(coded), engine.encode(audio), strict=True))

    run(scene())


def test_the_end_is_cut_to_the_samples_of_the_recording() -> None:
    engine = engine_of("tiny")
    codes = codes_of(engine, 10, 0)

    async def scene() -> None:
        async with DecoderPool(engine) as pool:
            stream = pool.open()
            await stream.push(codes)
            await stream.finish(1250)
            same(torch.cat([piece async for piece in stream]), engine.decode(codes, 1250)[0, 0])

    run(scene())
