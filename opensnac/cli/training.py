"""train, ablate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from opensnac.cli.app import TRAIN, command
from opensnac.cli.reporting import needs_extra, reporting
from opensnac.recordings.jobs import UsageError


@command(TRAIN, "opensnac train speech.toml --set data.batch_size=8 --out runs/speech")
def train(
    config: Annotated[str, typer.Argument(help="Training configuration: a TOML file, or a shipped one's name.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for checkpoints and logs.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as schedule.steps=100; repeatable."),
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Start from a bundled model, a folder, a hub id or a slim checkpoint.")
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(help="encoder or codebooks; repeatable; freeze both to keep existing tokens valid."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the last checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the configuration, sizes and memory, without training.")
    ] = False,
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Measure the speed of a training step by part, without training.")
    ] = False,
    against: Annotated[
        Path | None, typer.Option(help="With --benchmark: compare with another checkout of opensnac, on the CPU.")
    ] = None,
) -> None:
    """Train a model from a configuration file.

    On many GPUs: torchrun --nproc_per_node 8 -m opensnac.cli train ..., or accelerate launch in its place.
    """
    with reporting():
        needs_extra("train", "accelerate")
        from opensnac.training.config import TrainConfig
        from opensnac.training.loop import find_config
        from opensnac.training.loop import train as run_training

        given = [*(changes or []), *([f"init={json.dumps(init)}"] if init else [])]
        given += [f"freeze={json.dumps(freeze)}"] if freeze else []
        if against and not benchmark:
            raise UsageError("--against: expected --benchmark too, got none")
        path = find_config(config)
        if not path.is_file():
            raise UsageError(f"{config}: expected a TOML file or a shipped configuration's name, got neither")
        wanted = TrainConfig.from_toml(path, given)
        if dry_run:
            from opensnac.training.dry_run import describe

            print(describe(wanted))
        elif benchmark and against:
            from opensnac.training.against import compare

            print(compare(wanted, against))
        elif benchmark:
            from opensnac.training.benchmark import run_benchmark

            run_benchmark(wanted)
        else:
            run_training(wanted, out or Path("runs") / wanted.name, resume)


@command(TRAIN, "opensnac ablate speech_24khz --out runs/ablations")
def ablate(
    recipe: Annotated[str, typer.Argument(help="Ablation recipe: a TOML file, or a shipped one's name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the runs and the table.")] = Path("ablations"),
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of every run; repeatable.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Train only this variant; repeatable.")] = None,
) -> None:
    """Train variants of a model with equal budgets and several seeds, and write a table of their results."""
    with reporting():
        needs_extra("train", "accelerate")
        from opensnac.training import ablate as training

        path = training.find_recipe(recipe)
        if not path.is_file():
            raise UsageError(f"{recipe}: expected a TOML file or a shipped recipe's name, got neither")
        table = training.ablate(path, out, changes or [], only or [])
        print(table.read_text(encoding="utf-8"), end="")
