"""Streams in one graph: each equals a single stream, whichever others join or leave; nothing is copied."""

from __future__ import annotations

import configs
import pytest
import torch

from opensnac import SNAC, Engine, kernels
from opensnac.errors import BackendError, CodesError, OpensnacError
from opensnac.streaming.pool import DecoderPool

TOLERANCE = 1e-5
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


def codes_of(engine: Engine, groups: int, seed: int) -> list[torch.Tensor]:
    generator, frames = torch.Generator().manual_seed(seed), groups * engine.config.frame_multiple
    size = engine.config.codebook_size
    drawn = [torch.randint(size, (1, frames // stride), generator=generator) for stride in engine.config.vq_strides]
    return [code.to(engine.device) for code in drawn]


def group_of(engine: Engine, codes: list[torch.Tensor], n: int) -> list[torch.Tensor]:
    frames = engine.config.frame_multiple
    return [
        code[0, n * frames // s : (n + 1) * frames // s]
        for code, s in zip(codes, engine.config.vq_strides, strict=True)
    ]


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("name", configs.SMALL)
def test_each_stream_equals_a_single_one(name: str, device: str) -> None:
    """Five streams of different lengths in three slots; one is closed before it begins."""
    engine = configs.model_of(configs.SMALL[name]).freeze(backend="torch", device=device)
    pool = DecoderPool(engine, 3)
    groups, waiting, open_at, heard, done = [7, 3, 5, 1, 4], [0, 1, 2, 3, 4], {}, {}, {}
    codes = [codes_of(engine, count, seed) for seed, count in enumerate(groups)]
    assert pool.close(pool.open()).shape == (0,)
    turn = 0
    while waiting or open_at:
        while waiting and pool.free:
            stream = waiting.pop(0)
            open_at[stream] = pool.open(seed=stream, noise=stream != 2)
            heard[stream], done[stream] = [], 0
        turn += 1
        ready = [stream for stream in open_at if (stream + turn) % 3]  # not all of them at every turn
        pieces = pool.push({open_at[s]: group_of(engine, codes[s], done[s]) for s in ready}) if ready else {}
        for stream in ready:
            heard[stream].append(pieces[open_at[stream]])
            done[stream] += 1
            if done[stream] == groups[stream]:
                heard[stream].append(pool.close(open_at.pop(stream)))
    for stream, pieces in heard.items():
        alone = engine.decode(codes[stream], seed=stream, noise=stream != 2)[0, 0]
        torch.testing.assert_close(torch.cat(pieces), alone, atol=TOLERANCE, rtol=0)


def test_nothing_moves(tiny: SNAC) -> None:
    engine = tiny.freeze(backend="torch")
    pool = DecoderPool(engine, 2)
    state = [*pool._step.tails, *pool._step.inputs, pool._step.counts, pool._step.active]
    where = [tensor.data_ptr() for tensor in state]
    codes = codes_of(engine, 3, 0)
    place = pool.open()
    for n in range(3):
        pool.push({place: group_of(engine, codes, n)})
    pool.close(place)
    assert [tensor.data_ptr() for tensor in state] == where


def test_misuse_is_reported(tiny: SNAC) -> None:
    engine = tiny.freeze(backend="torch")
    pool = DecoderPool(engine, 1)
    place = pool.open()
    with pytest.raises(OpensnacError, match="expected a free place, got 1 in use"):
        pool.open()
    with pytest.raises(CodesError, match=r"place 0: expected an open stream and \[1, 2, 4\] codes, got \[2, 4, 8\]"):
        pool.push({place: [code[0] for code in codes_of(engine, 2, 0)]})
    with pytest.raises(CodesError, match="place 5: expected"):
        pool.push({5: group_of(engine, codes_of(engine, 1, 0), 0)})
    if kernels.level() is not None:
        with pytest.raises(BackendError, match="expected an engine with backend 'torch', got 'c'"):
            DecoderPool(tiny.freeze(backend="c"), 1)
