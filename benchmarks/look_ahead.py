"""The cost of a smaller look-ahead in streams: codes that differ, and quality, over the recordings in examples/.

    python benchmarks/look_ahead.py [--model M] [FILE...]

Each row streams one coarse frame at a time. Encoder: share of codes equal to the exact ones, and the quality of the
codes decoded in one call. Decoder: the exact codes streamed, and the difference from decoding them in one call.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from opensnac import SNAC
from opensnac.evaluation.metrics import METRICS
from opensnac.recordings import audio
from opensnac.streaming.streams import StreamDecoder, StreamEncoder

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.flac"))
SHARES = (1.0, 0.5, 0.25, 0.125, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="*", type=Path, default=EXAMPLES)
    parser.add_argument("--model")
    options = parser.parse_args()
    model = SNAC.from_pretrained(options.model).freeze()
    exact = StreamEncoder(model).exact_look_ahead
    table = Table(title=f"{model.name}: means over {len(options.recordings)} recordings")
    for heading in ("look-ahead", "encoder: exact codes", "STOI", "PESQ-WB", "decoder: SNR", "STOI", "PESQ-WB"):
        table.add_column(heading, justify="right")
    for share in SHARES:
        rows = [measure(model, path, share) for path in options.recordings]
        same, stoi, pesq, ratio, stoi_decoded, pesq_decoded = np.mean(rows, axis=0)
        milliseconds = f"{1e3 * share * exact / model.config.sampling_rate:.0f} ms"
        row = [milliseconds, f"{100 * same:.1f} %", f"{stoi:.3f}", f"{pesq:.3f}"]
        table.add_row(
            *row, "identical" if ratio > 200 else f"{ratio:.1f} dB", f"{stoi_decoded:.3f}", f"{pesq_decoded:.3f}"
        )
    Console(width=110).print(table)


@torch.inference_mode()
def measure(model: SNAC, path: Path, share: float) -> tuple[float, ...]:
    """Share of exact codes, STOI, PESQ-WB; then of the decoder SNR, STOI, PESQ-WB."""
    samples, rate = audio.read(path)
    clip = audio.resample(samples[:1], rate, model.config.sampling_rate)
    exact = model.encode(torch.from_numpy(clip)[None])
    codes = stream_encode(model, torch.from_numpy(clip)[None], share)
    same = np.mean([float((a == b).float().mean()) for a, b in zip(codes, exact, strict=True)])
    whole = model.decode(exact)[0, 0].numpy()
    streamed = stream_decode(model, exact, share)
    error = float(((streamed - whole) ** 2).sum())
    ratio = 10 * np.log10(float((whole**2).sum()) / max(error, 1e-20))
    return (
        same,
        *quality(model, clip[0], model.decode(codes)[0, 0].numpy()),
        ratio,
        *quality(model, clip[0], streamed),
    )


def stream_encode(model: SNAC, clip: torch.Tensor, share: float) -> list[torch.Tensor]:
    encoder = StreamEncoder(model, int(share * StreamEncoder(model).exact_look_ahead))
    state = encoder.start()
    pieces = [
        encoder.push(piece, state)[0] for piece in clip.split(model.config.coarse_stride * model.hop_length, dim=2)
    ]
    return [torch.cat(scale, dim=1) for scale in zip(*pieces, encoder.flush(state)[0], strict=True)]


def stream_decode(model: SNAC, codes: list[torch.Tensor], share: float) -> np.ndarray:
    decoder = StreamDecoder(model, int(share * StreamDecoder(model).exact_look_ahead))
    state, stride = decoder.start(), model.config.coarse_stride
    cut = [code.split(stride // s, dim=1) for code, s in zip(codes, model.config.vq_strides, strict=True)]
    pieces = [decoder.push(list(piece), state)[0] for piece in zip(*cut, strict=True)]
    return torch.cat([*pieces, decoder.flush(state)[0]], dim=1)[0].numpy()


def quality(model: SNAC, clip: np.ndarray, decoded: np.ndarray) -> list[float]:
    """STOI and PESQ-WB."""
    scores = [
        METRICS[name].measure(clip, decoded[: len(clip)], model.config.sampling_rate) for name in ("stoi", "pesq_wb")
    ]
    return [float("nan") if score is None else score for score in scores]


if __name__ == "__main__":
    main()
