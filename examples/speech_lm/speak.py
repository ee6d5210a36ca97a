"""Let a trained model continue a recording or speak a text, and play the speech while it is generated.

    python examples/speech_lm/speak.py run --prompt examples/lj_speech.flac -o continued.flac
    python examples/speech_lm/speak.py run --text "Thank you." -o said.flac
    python examples/speech_lm/speak.py run --prompt examples/lj_speech.flac -o - | aplay -t raw -f S16_LE -r 24000

Each sampled token goes through `opensnac.tokens.TokenStream`, and samples are written as soon as they are final.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import chain, islice
from pathlib import Path

import torch
from language_model import END, Bytes, SpeechLM

from opensnac import SNAC
from opensnac.recordings import audio
from opensnac.recordings.sink import Sink
from opensnac.tokens import TokenStream


def main() -> None:
    """Speak as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path, help="the output folder of train.py")
    parser.add_argument("--prompt", metavar="FILE", help="a recording to continue")
    parser.add_argument("--prompt-seconds", type=float, default=3.0, help="how much of it (default: 3)")
    parser.add_argument("--text", help="text to speak; with a prompt: its transcript and what follows")
    parser.add_argument("--seconds", type=float, default=8.0, help="to generate at most (default: 8)")
    parser.add_argument("-o", "--out", metavar="FILE", required=True, help="a .wav, .flac or .ogg, or - for a pipe")
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = SpeechLM.load(options.run)
    codec = SNAC.from_pretrained(model.shape.codec)
    text = Bytes()(options.text)["input_ids"] if options.text else []
    prompt = prompt_tokens(model, codec, options.prompt, options.prompt_seconds) if options.prompt else []
    generator = torch.Generator().manual_seed(options.seed)
    sampled = model.generate([END, *text, *prompt], options.temperature, options.top_p, generator)
    rate = model.layout.tokens_per_frame * codec.config.sampling_rate / (codec.hop_length * codec.config.coarse_stride)
    frames = int(options.seconds * rate) // model.layout.tokens_per_frame
    tokens = chain(prompt, islice(sampled, frames * model.layout.tokens_per_frame))
    target = sys.stdout.buffer if options.out == "-" else options.out
    with Sink(target, 1, codec.config.sampling_rate, ".raw" if options.out == "-" else None, force=True) as sink:
        play(TokenStream(codec, layout=model.layout), tokens, sink)


def prompt_tokens(model: SpeechLM, codec: SNAC, path: str, seconds: float) -> list[int]:
    """The tokens of a recording's first seconds."""
    samples, rate = audio.read(path)
    samples = audio.resample(samples.mean(axis=0, keepdims=True), rate, codec.config.sampling_rate)
    tokens = model.layout.flatten(codec.encode(torch.from_numpy(samples)[None]))[0].tolist()
    frame = codec.hop_length * codec.config.coarse_stride
    return tokens[: int(seconds * codec.config.sampling_rate / frame) * model.layout.tokens_per_frame]


def play(stream: TokenStream, tokens: chain[int], sink: Sink) -> None:
    """Write the sound of the tokens as they arrive; report the speed."""
    began, first = time.perf_counter(), None
    for token in tokens:
        if token == END:
            break
        samples = stream.push(token)
        if samples.numel():
            first = first or time.perf_counter() - began
            sink.write(samples[None].numpy())
    if stream.frames:
        sink.write(stream.finish()[None].numpy())
    taken, seconds = time.perf_counter() - began, sink.num_samples / sink.rate
    print(
        f"{seconds:.1f} s of sound in {taken:.1f} s, {seconds / taken:.1f} times real time; the first after "
        f"{(first or taken) * 1000:.0f} ms",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
