"""Compares size and speed of neural codecs on one CPU thread: a table in Markdown.

    python benchmarks/peers_speed.py [--seconds 5] [--rounds 3]

Every model is built from its published configuration with random weights, on which speed does not depend: opensnac
and `snac` in the 24 kHz layout, and EnCodec, DAC and Mimi from the package transformers. They alternate; figures are
medians in seconds of audio per second of processor time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import snac
import torch
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, MimiConfig, MimiModel

from opensnac import SNAC
from opensnac.training.config import TrainConfig

PUBLISHED = Path(__file__).parent.parent / "opensnac/training/configs/speech_24khz.toml"
RATE = 24_000


@dataclass
class Peer:
    """A codec as two functions, and its columns of the table."""

    name: str
    parameters: int
    bitrate: str
    encode: Callable[[torch.Tensor], Any]
    decode: Callable[[Any], Any]


def peers() -> list[Peer]:
    """All codecs, at 24 kHz and their lowest usual bitrate."""
    torch.manual_seed(0)
    config = TrainConfig.from_toml(PUBLISHED).model
    model = SNAC.from_config(config)
    engine, reference = model.freeze(), snac.SNAC(**config.to_dict()).eval()
    encodec = EncodecModel(EncodecConfig()).eval()
    rates = [2, 4, 5, 8]  # those of descript/dac_24khz; the class's default is the 16 kHz model
    layout = {"sampling_rate": RATE, "downsampling_ratios": rates, "upsampling_ratios": rates[::-1], "n_codebooks": 32}
    dac = DacModel(DacConfig(**layout, hop_length=320)).eval()
    mimi = MimiModel(MimiConfig()).eval()
    return [
        Peer("opensnac", size(model), "0.98", engine.encode, engine.decode),
        Peer("snac", size(reference), "0.98", reference.encode, reference.decode),
        Peer(
            "EnCodec",
            size(encodec),
            "1.5",
            lambda audio: encodec.encode(audio, bandwidth=1.5).audio_codes,
            lambda codes: encodec.decode(codes, [None]),
        ),
        Peer(
            "DAC",
            size(dac),
            "1.5",
            lambda audio: dac.encode(audio, n_quantizers=2).audio_codes,
            lambda codes: dac.decode(audio_codes=codes),
        ),
        Peer(
            "Mimi",
            size(mimi),
            "1.1",
            lambda audio: mimi.encode(audio, num_quantizers=8).audio_codes,
            mimi.decode,
        ),
    ]


def size(model: torch.nn.Module) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def timed(work: Callable[[], Any], seconds: float) -> tuple[Any, float]:
    """The result, and seconds of audio per second of processor time."""
    start = time.process_time()
    result = work()
    return result, seconds / (time.process_time() - start)


@torch.inference_mode()
def main() -> None:
    """Measure, alternating between codecs, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    audio = 0.1 * torch.randn(1, 1, int(options.seconds * RATE))
    contenders = peers()
    speeds: dict[str, list[tuple[float, float]]] = {peer.name: [] for peer in contenders}
    for turn in range(options.rounds + 1):  # the first is a warm-up
        for peer in contenders:
            codes, encoding = timed(lambda peer=peer: peer.encode(audio), options.seconds)
            _, decoding = timed(lambda peer=peer, codes=codes: peer.decode(codes), options.seconds)
            if turn:
                speeds[peer.name].append((encoding, decoding))
    print("| codec | parameters | kb/s | encode | decode |\n| --- | --- | --- | --- | --- |")
    for peer in contenders:
        encoding, decoding = (statistics.median(column) for column in zip(*speeds[peer.name], strict=True))
        print(f"| {peer.name} | {peer.parameters / 1e6:.1f} M | {peer.bitrate} | {encoding:.1f} | {decoding:.1f} |")


if __name__ == "__main__":
    main()
