"""Train a small language model on a corpus of speech tokens that `opensnac tokenize` wrote.

    python examples/speech_lm/train.py tokens/train --valid tokens/valid -o run --minutes 60

Rows with a transcript are trained with it in front, the others without. The learning rate decays to zero over the given
minutes of processor time. The loss on held-out rows is printed in nats per code, with the unigram entropy (the loss of
knowing only the code frequencies of each slot) for comparison. RUN gets the weights, curve.json and curve.png.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from language_model import END, FIRST_CODE, Bytes, Shape, SpeechLM
from torch import Tensor

from opensnac import SNAC
from opensnac.corpus import Corpus, PackedTokens, TokenLoader
from opensnac.errors import OpensnacError
from opensnac.files import atomic_file

RATE, SLOW_RATE = 2e-3, 3e-4  # peak learning rates: of most weights, and of the embeddings and biases of tokens
WARM_UP, CLIP = 0.03, 1.0  # share of the time for warm-up; gradient norm
DASHES = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))  # line styles of the scales
EVALUATIONS = 12  # on the held-out rows


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", metavar="CORPUS")
    parser.add_argument("--valid", metavar="CORPUS", required=True, help="held-out rows")
    parser.add_argument("-o", "--out", metavar="RUN", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60, help="of processor time, over all threads")
    parser.add_argument("--width", type=int, default=Shape.width)
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--context", type=int, default=Shape.context)
    parser.add_argument("--batch", type=int, default=4, help="sequences per step")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    corpus, valid = Corpus(options.corpus), Corpus(options.valid)
    if corpus.facts["fingerprint"] != valid.facts["fingerprint"]:
        raise OpensnacError(f"{options.valid}: expected codes of the same model as {options.corpus}, got another's")
    config = corpus.config
    sizes = {"width": options.width, "layers": options.layers, "context": options.context}
    codebooks = config.codebook_size, config.codebook_dim
    model = SpeechLM(Shape(corpus.facts["model"], tuple(config.vq_strides), *codebooks, **sizes))
    counts = row_counts(model, corpus)
    model.initialise(SNAC.from_pretrained(corpus.facts["model"]), counts)
    train(model, corpus, valid, counts, options)


@dataclass
class Curve:
    """The learning curve: entropies in nats per code, and a point for each evaluation."""

    uniform: float
    unigram: float
    points: list[dict[str, Any]] = field(default_factory=list)


def train(model: SpeechLM, corpus: Corpus, valid: Corpus, counts: Tensor, options: argparse.Namespace) -> None:
    """Train until the time is over, with evaluations on held-out rows."""
    loader = TokenLoader(sequences(corpus, options.context, epochs=None, seed=options.seed), options.batch)
    held_out = [batch["input_ids"] for batch in TokenLoader(sequences(valid, options.context), options.batch)]
    if not held_out:
        raise OpensnacError(f"{valid.folder}: expected at least {options.context} tokens, got fewer; hold out more")
    curve = Curve(math.log(model.shape.codebook_size), unigram(model, counts, held_out))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters; nats per code: ", end="")
    print(f"uniform {curve.uniform:.3f}, unigram {curve.unigram:.3f}", flush=True)
    slow = [model.own.weight, model.bias]
    fast = [weight for weight in model.parameters() if all(weight is not other for other in slow)]
    groups = [{"params": fast, "peak": RATE}, {"params": slow, "peak": SLOW_RATE}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.01)
    began, evaluated, taken, recent = time.process_time(), 0, 0, []
    for batch in loader:
        share = (time.process_time() - began) / (60 * options.minutes)
        if share * EVALUATIONS >= evaluated or share >= 1:
            evaluated = math.floor(share * EVALUATIONS) + 1
            point = {"minutes": (time.process_time() - began) / 60, "tokens": taken, **scores(model, held_out)}
            point["train"] = sum(recent) / max(1, len(recent))
            curve.points.append(point)
            recent = []
            report(model, curve, options.out)
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * min(share / WARM_UP, 1) * (1 + math.cos(math.pi * share)) / 2
        losses, targets = model.losses(batch["input_ids"])
        loss = losses.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        taken += losses.numel()
        recent.append(losses[targets >= FIRST_CODE].detach().mean().item())


def sequences(corpus: Corpus, context: int, epochs: int | None = 1, seed: int | None = None) -> PackedTokens:
    """Concatenated rows in pieces of `context` + 1 tokens; shuffled if there is a seed."""
    tokenizer = Bytes() if "text" in corpus.facts["columns"] else None
    layout = f"tree:{FIRST_CODE}"
    shuffled = {"shuffle": seed is not None, "seed": seed or 0}
    return PackedTokens(
        corpus, context + 1, epochs=epochs, layout=layout, tokenizer=tokenizer, end=END, rank=0, world=1, **shuffled
    )


def row_counts(model: SpeechLM, corpus: Corpus) -> Tensor:
    """The frequency of each row of the model's table in a corpus, plus one."""
    counts = torch.ones(len(model.bias), dtype=torch.float64)
    for batch in TokenLoader(sequences(corpus, model.shape.context), 64):
        counts += torch.bincount(model.row_of(batch["input_ids"].flatten()), minlength=len(counts))
    return counts


def unigram(model: SpeechLM, counts: Tensor, held_out: list[Tensor]) -> float:
    """Unigram entropy of held-out codes by the code frequencies of each scale, nats per code."""
    nats = torch.zeros_like(counts)
    for slot in reversed(range(len(model.layout.slots))):
        first, stop = model.rows_of(slot)
        nats[first:stop] = counts[first:stop].sum().log() - counts[first:stop].log()
    codes = torch.cat([batch[:, 1:].flatten() for batch in held_out])
    return float(nats[model.row_of(codes[codes >= FIRST_CODE])].mean())


@torch.inference_mode()
def scores(model: SpeechLM, held_out: list[Tensor]) -> dict[str, Any]:
    """Mean loss of held-out codes, overall and per scale, and of text if there is any."""
    model.eval()
    found = [model.losses(batch) for batch in held_out]
    model.train()
    losses, targets = (torch.cat(parts) for parts in zip(*found, strict=True))
    is_code = targets >= FIRST_CODE
    slots = (targets - FIRST_CODE) // model.shape.codebook_size
    which = torch.tensor(model.layout.slots)[slots.clamp(min=0)]
    scales = [float(losses[is_code & (which == scale)].mean()) for scale in range(len(model.shape.strides))]
    text = losses[targets < END]
    return {
        "held_out": float(losses[is_code].mean()),
        "scales": scales,
        "text": float(text.mean()) if text.numel() else None,
    }


def report(model: SpeechLM, curve: Curve, out: Path) -> None:
    """Print the last point, save the weights and the curve."""
    point = curve.points[-1]
    scales = ", ".join(f"{loss:.3f}" for loss in point["scales"])
    print(
        f"{point['minutes']:.1f} min, {point['tokens']:,} tokens: training {point['train']:.3f}, held out "
        f"{point['held_out']:.3f} (scales {scales})",
        flush=True,
    )
    model.save(out)
    with atomic_file(out / "curve.json", force=True) as part:
        part.write_text(json.dumps(vars(curve), indent=1) + "\n", encoding="utf-8")
    with atomic_file(out / "curve.png", force=True) as part:
        draw(curve, part)


def draw(curve: Curve, target: Path) -> None:
    """Plot the curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    minutes = [point["minutes"] for point in curve.points]
    for name, level in (("uniform", curve.uniform), ("unigram", curve.unigram)):
        axes.axhline(level, color="0.5", linestyle=":")
        axes.annotate(f"{name} {level:.2f}", (minutes[-1], level), ha="right", va="bottom", color="0.4")
    axes.plot(minutes, [point["held_out"] for point in curve.points], color="C0", label="held-out rows, all codes")
    for scale in range(len(curve.points[0]["scales"])):
        losses = [point["scales"][scale] for point in curve.points]
        axes.plot(minutes, losses, color="C0", alpha=0.6, linewidth=1, linestyle=DASHES[scale], label=f"scale {scale}")
    axes.plot(minutes[1:], [point["train"] for point in curve.points[1:]], color="C1", label="training")
    axes.set(xlabel="minutes of processor time", ylabel="nats per code")
    axes.legend()
    figure.savefig(target, format="png", dpi=110)


if __name__ == "__main__":
    main()
