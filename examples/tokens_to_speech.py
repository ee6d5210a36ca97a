"""Turn tokens into speech as they arrive, one by one, as a speech language model generates them.

    python examples/tokens_to_speech.py [RECORDING] [-o OUT.wav] [--faster 1]

The tokens are those of a recording and arrive in real time. Replace `generate` by your language model.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from opensnac import SNAC
from opensnac.recordings import audio
from opensnac.recordings.sink import Sink
from opensnac.tokens import TokenLayout, TokenStream

RECORDING = Path(__file__).parent / "lj_speech.flac"


def generate(tokens: list[int], per_second: float) -> Iterator[int]:
    """The tokens, each at its time."""
    start = time.perf_counter()
    for n, token in enumerate(tokens):
        time.sleep(max(0.0, start + n / per_second - time.perf_counter()))
        yield token


def main() -> None:
    """Tokenise a recording, then write the speech while its tokens arrive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", nargs="?", default=RECORDING)
    parser.add_argument("-o", "--out", default="speech.wav")
    parser.add_argument("--faster", type=float, default=1.0, help="speed of the tokens relative to real time")
    options = parser.parse_args()
    engine = SNAC.from_pretrained().freeze()
    rate, layout = engine.config.sampling_rate, TokenLayout.of(engine.config)
    samples = audio.resample(*audio.read(options.recording), rate)[:1]
    tokens = layout.flatten(engine.encode(torch.from_numpy(samples)[None]))[0].tolist()
    per_second = len(tokens) * rate / samples.shape[1]
    print(f"{len(tokens)} tokens, {per_second:.0f} per second, the first {tokens[: layout.tokens_per_frame]}")
    stream, start, first = TokenStream(engine, layout=layout), time.perf_counter(), None
    with Sink(options.out, 1, rate, force=True) as speech:
        for token in generate(tokens, per_second * options.faster):
            piece = stream.push(token)  # (samples,), empty until a group of frames is final
            if len(piece):
                first = first or time.perf_counter() - start
                speech.write(piece[None].numpy())
        speech.write(stream.finish()[None].numpy())
    print(f"first sound after {1000 * first:.0f} ms, {speech.num_samples / rate:.1f} s of speech in {options.out}")


if __name__ == "__main__":
    main()
