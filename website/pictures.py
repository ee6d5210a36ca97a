"""Draws the documentation's pictures: python website/pictures.py

docs/codec.svg shows the published 24 kHz model, from its configuration; docs/layers.svg the package, from the import
contract in pyproject.toml. A test fails if they are out of date.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from xml.sax.saxutils import escape

from opensnac.config import CodecConfig

ROOT = Path(__file__).parent.parent
INK, PALE, SCALES = "#1f2933", "#7b8794", ("#1b6ca8", "#2a9d8f", "#e9a23b", "#d1495b")
ROOMS = {
    "cli": "the command line",
    "showcase": "demo and speed",
    "training": "trains codecs",
    "listening": "MUSHRA listening tests",
    "serving": "live streams, server",
    "corpus": "token data sets",
    "evaluation": "quality, other codecs",
    "recordings": "audio files in and out",
    "streaming": "live encoding, decoding, tokens",
    "engine": "runs a trained model",
    "model": "the trainable model",
    "spectra": "distances of sounds",
    "kernels": "arithmetic in C",
    "bitstream": "the .snac format",
    "runtime": "the codec without PyTorch",
    "export": "the codec as ONNX",
    "models": "finds models",
    "identity": "hashes of weights",
    "files": "atomic output files",
    "processor": "which kernels run here",
    "config": "the published configuration",
    "errors": "exceptions for bad input",
}


def main() -> None:
    """Write both pictures."""
    for name, picture in pictures().items():
        (ROOT / "docs" / name).write_text(picture, encoding="utf-8")


def pictures() -> dict[str, str]:
    """SVG by file name."""
    published = tomllib.loads((ROOT / "opensnac/training/configs/speech_24khz.toml").read_text(encoding="utf-8"))
    model = published["model"] | {"attn_window_size": published["model"]["attn_window_size"] or None}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return {"codec.svg": codec(CodecConfig.from_dict(model)), "layers.svg": layers(contract["layers"])}


def codec(config: CodecConfig) -> str:
    """Waveform, encoder, one row per scale, decoder, waveform; four coarse frames, codes as wide as they last."""
    top, middle = 64, 200
    samples = f"{config.sampling_rate:,} Hz"
    parts = [
        *_wave(20, middle, 96), _text(68, middle + 66, samples, PALE),
        *_stages(136, middle, config.encoder_rates, config.encoder_dim, down=True),
        _text(200, 32, "encoder", INK, 15), _text(200, 372, f"{config.frame_rate:.1f} Hz × {config.latent_dim}", PALE),
        *_scales(286, top, 388, config),
        _text(480, 32, "residual vector quantiser", INK, 15),
        _text(480, 372, f"{config.bits_per_second:.0f} bits per second", PALE),
        *_stages(700, middle, config.decoder_rates, config.decoder_dim, down=False),
        _text(764, 32, "decoder", INK, 15), _text(764, 372, "noise in every block", PALE),
        *_wave(844, middle, 96), _text(892, middle + 66, samples, PALE),
    ]  # fmt: skip
    title = (
        f"The {config.sampling_rate // 1000} kHz model: samples to codes at {len(config.vq_strides)} rates, and back"
    )
    return _svg(960, 392, title, parts)


def _stages(left: int, middle: int, rates: Sequence[int], channels: int, down: bool) -> Iterable[str]:
    """A bar for each block, as high as the logarithm of its signal's length, with its stride and channels."""
    lengths = list(accumulate(rates, lambda length, rate: length / rate, initial=math.prod(rates)))
    if not down:
        lengths = list(accumulate(rates, lambda length, rate: length * rate, initial=1.0))
    for n, rate in enumerate(rates):
        height = 40 + 24 * math.log2(max(lengths[n : n + 2]))
        width = channels * 2 ** (n + 1) if down else channels // 2 ** (n + 1)
        x = left + 33 * n
        box = f'x="{x}" y="{middle - height / 2:.0f}" width="27" height="{height:.0f}"'
        yield f'<rect {box} rx="4" fill="{SCALES[0]}"/>'
        yield _text(x + 13.5, middle + 5, f"{'÷' if down else '×'}{rate}", "#fff", 13)
        yield _text(x + 13.5, middle + height / 2 + 14, str(width), PALE, 11)


def _scales(left: int, top: int, width: int, config: CodecConfig) -> Iterable[str]:
    """A row for each scale, coarse to fine, of codes over four coarse frames."""
    frames, room = 4 * config.coarse_stride, 272 / len(config.vq_strides)
    for n, (stride, rate) in enumerate(zip(config.vq_strides, config.code_rates, strict=True)):
        y = top + n * room
        words = f"{rate:.1f} codes per second, codebook of {config.codebook_size}"
        yield _text(left, y + 10, words, PALE, 12, "start")
        yield _text(left + width, y + 10, f"{rate * config.bits_per_code:.0f} b/s", PALE, 12, "end")
        one = width / (frames // stride)
        for code in range(frames // stride):
            box = f'x="{left + code * one + 1:.1f}" y="{y + 18:.0f}" width="{one - 2:.1f}" height="{room - 36:.0f}"'
            yield f'<rect {box} rx="3" fill="{SCALES[n]}"/>'
    yield _text(left + width / 2, top + 284, f"{1000 * frames / config.frame_rate:.0f} ms", PALE, 12)


def _wave(left: int, middle: int, width: int) -> Iterable[str]:
    def height(x: float) -> float:
        return 34 * math.sin(math.pi * x / width) ** 2 * math.sin(x / 2.6) * (0.7 + 0.3 * math.sin(x / 9))

    points = " ".join(f"{left + x / 2:.1f},{middle - height(x / 2):.1f}" for x in range(2 * width + 1))
    yield f'<polyline points="{points}" fill="none" stroke="{INK}" stroke-width="1.5"/>'


def layers(contract: Sequence[str]) -> str:
    """A band for each layer; higher layers import from lower ones, never the other way."""
    rows = [[room.strip().removeprefix("opensnac.") for room in layer.split(":")] for layer in contract]
    parts, width, step = [], 680, 46
    for n, row in enumerate(rows):
        one = (width - 40) / len(row)
        for k, room in enumerate(row):
            x, y, shade = 20 + k * one, 20 + n * step, SCALES[n * len(SCALES) // len(rows)]
            parts.append(f'<rect x="{x + 3:.0f}" y="{y}" width="{one - 6:.0f}" height="38" rx="5" fill="{shade}"/>')
            parts.append(_text(x + one / 2, y + 17, room, "#fff", 14))
            parts.append(_text(x + one / 2, y + 31, ROOMS[room], "#fff", 11))
    return _svg(width, 2 * 20 + len(rows) * step - 8, "The layers of the package: imports run downwards", parts)


def _text(x: float, y: float, words: str, fill: str, size: int = 12, anchor: str = "middle") -> str:
    place = f'x="{x:g}" y="{y:g}" fill="{fill}" font-size="{size}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(words)}</text>"


def _svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="system-ui, sans-serif">'
    )
    ground = f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", ground, *parts, "</svg>\n"])


if __name__ == "__main__":
    main()
