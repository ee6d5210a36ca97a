"""Ablations: variants of one run, trained alike from several seeds, and a table of their results."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from opensnac.engine.codec import SNAC
from opensnac.errors import ConfigError, OpensnacError
from opensnac.files import atomic_file
from opensnac.training import loop
from opensnac.training.config import CONFIGS, TrainConfig, changed, read_toml, toml_value
from opensnac.training.forms import timed
from opensnac.training.processes import Processes
from opensnac.training.validation import find_clips, validate

RECIPES = CONFIGS / "ablations"
RESULT, TABLE, RESULTS = "result.json", "table.md", "results.json"
SPEED_SECONDS, SPEED_ROUNDS = 5.0, 3
COLUMNS = {  # of the table: heading and digits of each result
    "bits_per_second": ("b/s", 0),
    "mel": ("mel", 3),
    "stft_distance": ("STFT", 3),
    "si_sdr": ("SI-SDR, dB", 2),
    "pesq_wb": ("PESQ-WB", 3),
    "stoi": ("STOI", 3),
    "codes_used": ("codes used", 3),
    "perplexity": ("perplexity", 0),
    "parameters": ("M parameters", 2),
    "times_real_time": ("x real time", 1),
}


@dataclass(frozen=True)
class Ablation:
    """A recipe: the shared configuration, each variant's changes, and the seeds."""

    base: dict[str, Any]
    variants: dict[str, list[str]]
    seeds: tuple[int, ...]

    @classmethod
    def from_toml(cls, path: Path, changes: Sequence[str] = ()) -> Ablation:
        """Read a recipe; `changes` (`section.key=value`) apply to all its runs. ConfigError names what is wrong."""
        recipe = read_toml(path)
        unknown = sorted(set(recipe) - {"base", "seeds", "set", "variants"})
        if unknown or not isinstance(recipe.get("base"), str) or not recipe.get("variants"):
            got = f"unknown key {', '.join(unknown)}" if unknown else "no base or no [variants.NAME]"
            raise ConfigError(f"{path}: expected base, seeds, [set] and [variants.NAME], got {got}")
        base = loop.find_config(recipe["base"])
        shared = changed(changed(read_toml(base), _as_changes(recipe.get("set", {}))), changes)
        variants = {name: _as_changes(keys) for name, keys in recipe["variants"].items()}
        return cls(shared, variants, tuple(recipe.get("seeds", [0])))

    def config(self, variant: str, seed: int) -> TrainConfig:
        """The configuration of one run."""
        try:
            config = TrainConfig.from_dict(changed(self.base, [*self.variants[variant], f"seed={seed}"]))
        except ConfigError as error:
            raise ConfigError(f"variant {variant}: {error}") from error
        if config.schedule.minutes is not None:
            raise ConfigError("[schedule] minutes: expected none, as equal budgets need steps, got a time limit")
        return config


def _as_changes(keys: Mapping[str, Any]) -> list[str]:
    return [f"{key}={toml_value(value)}" for key, value in keys.items()]


def find_recipe(name: str) -> Path:
    """A recipe file: a path, or a shipped one's name."""
    shipped = RECIPES / f"{name}.toml"
    return shipped if not Path(name).is_file() and shipped.is_file() else Path(name)


def ablate(recipe: Path, out: Path, changes: Sequence[str] = (), only: Sequence[str] = ()) -> Path:
    """Train every variant from every seed into `out`/VARIANT/SEED and write the table there; returns its path.

    Finished runs are not repeated, and interrupted ones are resumed. `only` names the variants to train.
    """
    ablation = Ablation.from_toml(recipe, changes)
    unknown = sorted(set(only) - set(ablation.variants))
    if unknown:
        raise ConfigError(f"{recipe}: expected variants of {', '.join(ablation.variants)}, got {', '.join(unknown)}")
    chosen = list(only) or list(ablation.variants)
    runs = {(variant, seed): ablation.config(variant, seed) for seed in ablation.seeds for variant in chosen}
    results: dict[str, list[dict[str, float]]] = {}
    for (variant, seed), config in runs.items():
        results.setdefault(variant, []).append(_result(config, out / variant / str(seed)))
        _write(out / TABLE, table(results, len(ablation.seeds)))
        _write(out / RESULTS, json.dumps(results, indent=2) + "\n")
    return out / TABLE


def _result(config: TrainConfig, out: Path) -> dict[str, float]:
    """The results of one run, which is trained first if it is not finished."""
    path, wanted = out / RESULT, json.loads(json.dumps(config.to_dict()))
    if path.exists():
        done = json.loads(path.read_text(encoding="utf-8"))
        if TrainConfig.from_dict(done["config"]) != config:
            raise OpensnacError(f"{path}: expected this configuration's result, got another's; choose another --out")
        return dict(done["figures"])
    loop.train(config, out, resume=(out / loop.CHECKPOINT).exists())
    figures = measure(SNAC.from_pretrained(out / "last"), config)
    _write(path, json.dumps({"config": wanted, "figures": figures}, indent=2) + "\n")
    return figures


def measure(model: SNAC, config: TrainConfig) -> dict[str, float]:
    """Quality on the validation clips, use of the codebooks (mean over scales), size and speed."""
    processes = Processes(config.device)
    model = model.to(processes.device)
    clips = find_clips(config.data.valid, config.model.sampling_rate)
    if not clips:
        raise ConfigError("[data] valid: expected recordings to measure on, got none")
    decoded = validate(model, clips, processes)
    noise = 0.1 * torch.randn(1, 1, int(SPEED_SECONDS * config.model.sampling_rate), device=processes.device)
    engine = model.freeze()
    seconds = min(timed(lambda: engine.decode(engine.encode(noise)), processes.device) for _ in range(SPEED_ROUNDS))
    return {
        "bits_per_second": config.model.bits_per_second,
        **decoded.quality,
        "codes_used": statistics.mean(decoded.codes) / config.model.codebook_size,
        "perplexity": statistics.mean(decoded.perplexity),
        "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "times_real_time": SPEED_SECONDS / seconds,
    }


def table(results: Mapping[str, Sequence[Mapping[str, float]]], seeds: int) -> str:
    """Markdown: one row per variant, mean and sample standard deviation over its seeds."""
    columns = [name for name in COLUMNS if any(name in figures for runs in results.values() for figures in runs)]
    rows = [
        ["variant", "seeds", *(COLUMNS[name][0] for name in columns)],
        ["---", *("---:" for _ in range(len(columns) + 1))],
    ]
    for variant, runs in results.items():
        cells = [_cell([figures[name] for figures in runs if name in figures], COLUMNS[name][1]) for name in columns]
        rows.append([variant, f"{len(runs)} of {seeds}", *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.{digits}f}"
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean} ± {spread:.{digits}f}" if spread else mean


def _write(path: Path, text: str) -> None:
    with atomic_file(path, force=True) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
