"""Plays a recording's tokens one by one in real time, as from a language model, and reports latency and gaps.

    python benchmarks/token_stream.py [RECORDING] [--model M] [--threads 1] [--faster 1] [--picture FILE.png]

Reports the latency of the first sound, the time per coarse frame, and how often playback ran dry: it starts with one
coarse frame buffered and then consumes samples at their rate. The picture shows the streamed sound below that of the
whole recording decoded in one call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from opensnac import SNAC
from opensnac.evaluation import picture
from opensnac.recordings import audio
from opensnac.streaming.tokens import TokenStream

EXAMPLE = Path(__file__).parents[1] / "examples" / "lj_speech.flac"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", nargs="?", default=EXAMPLE)
    parser.add_argument("--model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--faster", type=float, default=1.0, help="rate of the tokens in multiples of real time")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = SNAC.from_pretrained(options.model).freeze()
    samples, rate = audio.read(options.recording)
    samples = audio.resample(samples[:1], rate, model.config.sampling_rate)
    codes = model.encode(torch.from_numpy(samples)[None])
    stream = TokenStream(model)
    tokens = stream.layout.flatten(codes)[0].tolist()
    for token in tokens[: 2 * len(stream.layout.slots)]:  # warm-up: one-time preparation is not part of the latency
        stream.push(token)
    streamed = play(model, tokens, options.faster)
    whole = model.decode(codes)[0, 0].numpy()
    error = float(np.abs(streamed - whole).max())
    print(f"the largest difference from the recording decoded in one call is {error:.1e}")
    if options.picture:
        titles = [("decoded in one call", ""), ("streamed token by token", f"largest difference {error:.1e}")]
        picture.draw(options.picture, np.stack([whole, streamed]), titles, model.config.sampling_rate)


def play(model: SNAC, tokens: list[int], faster: float) -> np.ndarray:
    """Push the tokens at their rate and print latency and gaps; returns the samples played."""
    stream = TokenStream(model)
    slots, rate = len(stream.layout.slots), model.config.sampling_rate
    group = model.config.vq_strides[0] * model.hop_length
    first_sample = start = None  # times of the first sample, and of playback, which buffers one coarse frame
    given, gaps, silence, costs = 0, 0, 0.0, []
    heard = []
    began = time.perf_counter()
    for i, token in enumerate(tokens):
        time.sleep(max(0.0, began + i * group / rate / slots / faster - time.perf_counter()))
        pushed = time.perf_counter()
        heard.append(stream.push(token))
        samples = len(heard[-1])
        now = time.perf_counter()
        if (i + 1) % slots == 0:
            costs.append(now - pushed)
        if start is not None and samples and (late := now - start - given / rate) > 0:
            gaps, silence, start = gaps + 1, silence + late, start + late
        given += samples
        if samples and first_sample is None:
            first_sample = now
        if start is None and given >= group:
            start = now
    heard.append(stream.finish())
    given += len(heard[-1])
    assert first_sample is not None
    assert start is not None
    print(f"{len(tokens)} tokens, {given / rate:.2f} s of sound, at {faster:g} times real time")
    print(f"first samples after {1e3 * (first_sample - began):.0f} ms; playback, with a coarse frame buffered, after")
    print(f"{1e3 * (start - silence - began):.0f} ms; the look-ahead is {1e3 * stream.look_ahead / rate:.0f} ms")
    slow = sorted(costs)[int(0.95 * (len(costs) - 1))]
    print(f"a coarse frame takes {1e3 * statistics.median(costs):.1f} ms, 95 % under {1e3 * slow:.1f} ms")
    print(f"playback ran dry {gaps} times, {1e3 * silence:.0f} ms in total")
    return torch.cat(heard).numpy()


if __name__ == "__main__":
    main()
