"""Checkpoints: written atomically, tensors and plain values only, so that nothing is unpickled.

The full form holds everything that the next step depends on. Random numbers and the position in the data are functions
of the seed and the step. The slim form has only the weights, in bfloat16, for transfer; a run that continues from it
starts with a warm-up, in which the optimisers' moments build up again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opensnac.config import CodecConfig
from opensnac.engine.codec import SNAC
from opensnac.errors import ModelError
from opensnac.files import atomic_file
from opensnac.training.adapt import adapt
from opensnac.training.step import Trainer
from opensnac.training.widen import can_widen, widen

CHECKPOINT, SLIM = "checkpoint.pt", "slim.safetensors"
SLIM_FORMAT = "opensnac slim checkpoint 1"
PARTS = ("generator", "ema", "discriminators")


def save(path: Path, trainer: Trainer, elapsed: float, best: float, window: dict[str, Tensor]) -> None:
    """Write a full checkpoint: `elapsed` seconds of training, `best` validation, `window` of values not yet logged."""
    state: dict[str, Any] = {
        "step": trainer.step,
        "skipped": trainer.skipped,
        "warm_from": trainer.warm_from,
        "quantize_from": trainer.quantize_from,
        "elapsed": elapsed,
        "best": best,
        "window": window,
        "config": json.dumps(trainer.config.to_dict()),
        **{part: getattr(trainer, part).state_dict() for part in PARTS},
        "generator_optimizers": {name: part.state_dict() for name, part in trainer.generator_optimizers.items()},
        "discriminator_optimizer": trainer.discriminator_optimizer.state_dict(),
        "codebook_health": trainer.health.state_dict(),
    }
    with atomic_file(path, force=True) as unfinished:
        torch.save(state, unfinished)


def load(path: Path, trainer: Trainer) -> tuple[float, float, dict[str, Tensor]]:
    """Restore a trainer from a full checkpoint; returns (elapsed, best, window)."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path}: expected a readable checkpoint, got {reason}") from error
    if not isinstance(state, dict) or "codebook_health" not in state:
        raise ModelError(f"{path}: expected a checkpoint of a training run, got something else; use another folder")
    came = json.loads(state["config"])
    _require_same(path, came, trainer, ("model", "discriminator"))
    if set(state["generator_optimizers"]) != set(trainer.generator_optimizers):
        raise ModelError(
            f"{path}: expected the configuration's matrix_learning_rate, got a run "
            f"{'with' if came['optimizer']['matrix_learning_rate'] else 'without'} one; use another output folder"
        )
    if came.get("freeze", []) != list(trainer.config.freeze):
        raise ModelError(
            f"{path}: expected freeze = {list(trainer.config.freeze)}, got {came.get('freeze', [])}; "
            "use another output folder"
        )
    trainer.step, trainer.skipped = state["step"], state["skipped"]
    trainer.warm_from = state.get("warm_from", 0)
    trainer.quantize_from = state.get("quantize_from", trainer.quantize_from)
    for part in PARTS:
        getattr(trainer, part).load_state_dict(state[part])
    for name, optimizer in trainer.generator_optimizers.items():
        optimizer.load_state_dict(state["generator_optimizers"][name])
    trainer.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
    trainer.health.load_state_dict(state["codebook_health"])
    return state["elapsed"], state["best"], state.get("window", {})


def _plain(trainer: Trainer) -> dict[str, Any]:
    """The configuration after a round trip through JSON."""
    values: dict[str, Any] = json.loads(json.dumps(trainer.config.to_dict()))
    return values


def _require_same(path: Path, came: dict[str, Any], trainer: Trainer, sections: tuple[str, ...]) -> None:
    wanted = _plain(trainer)
    for section in sections:
        if came[section] != wanted[section]:
            raise ModelError(
                f"{path}: expected the configuration's [{section}], got a different one; use another output folder"
            )


def save_slim(path: Path, trainer: Trainer, elapsed: float, best: float) -> None:
    """Write a slim checkpoint: the weights of generator, average and discriminators in bfloat16, and the step."""
    from safetensors.torch import save as to_bytes

    state = {
        f"{part}.{name}": value.detach().to("cpu", torch.bfloat16).contiguous()
        for part in PARTS
        for name, value in getattr(trainer, part).state_dict().items()
    }
    facts = {
        "format": SLIM_FORMAT,
        "step": str(trainer.step),
        "quantize_from": str(trainer.quantize_from),
        "elapsed": repr(elapsed),
        "best": repr(best),
        "config": json.dumps(trainer.config.to_dict()),
    }
    with atomic_file(path, force=True) as unfinished:
        unfinished.write_bytes(to_bytes(state, facts))


def load_slim(path: Path, trainer: Trainer) -> tuple[float, float]:
    """Load a slim checkpoint's weights and step into a trainer; returns (elapsed, best).

    If the codebooks had not been initialised yet, they will be as in that run; discriminators of another size than the
    configuration's start from scratch. ModelError for a different model, or a file that is not a slim checkpoint.
    """
    state, facts = _read_slim(path)
    came = json.loads(facts["config"])
    _require_same(path, came, trainer, ("model",))
    for part in PARTS:
        module = getattr(trainer, part)
        prefix = f"{part}."
        weights = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
        if part != "discriminators" or came["discriminator"] == _plain(trainer)["discriminator"]:
            module.load_state_dict({name: value.float() for name, value in weights.items()})
    trainer.step = trainer.warm_from = int(facts["step"])
    trainer.quantize_from = int(facts["quantize_from"])
    return float(facts["elapsed"]), float(facts["best"])


def is_slim(path: Path) -> bool:
    """Whether a path is a slim checkpoint, by its extension."""
    return path.suffix == ".safetensors" and path.is_file()


def _read_slim(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if facts.get("format") != SLIM_FORMAT:
                raise ModelError(f"{path}: expected a slim checkpoint, {SLIM} of a run's folder, got another file")
            return {key: file.get_tensor(key) for key in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: expected a readable slim checkpoint, got {error}") from error


def average_of(path: Path) -> SNAC:
    """The averaged model of a slim checkpoint, in eval mode: as in `best/` and `last/`, in bfloat16 precision."""
    state, facts = _read_slim(path)
    values = json.loads(facts["config"])["model"]
    model = SNAC.from_config(CodecConfig.from_dict(values))
    model.load_state_dict({name[4:]: value.float() for name, value in state.items() if name.startswith("ema.")})
    return model.eval()


def start_from(trainer: Trainer, name: str) -> tuple[float, float]:
    """Start from a trained model: a bundled name, a folder, a hub id or a slim checkpoint; returns (elapsed, best).

    A slim checkpoint continues its run at its step. A model starts a new run with the model's codebooks, which
    quantises from the first step. A narrower model than the configuration's is widened. With `adapt`, what fits of a
    model of another layout is kept, and codebooks are initialised from data as in a run from random weights.
    """
    if is_slim(Path(name)):
        return load_slim(Path(name), trainer)
    model = SNAC.from_pretrained(name)
    if not any(".parametrizations." in key for key in model.state_dict()):
        raise ModelError(f"the model {name}: expected weight norm for training, got folded weights")
    if model.config != trainer.config.model and can_widen(model.config, trainer.config.model):
        model = widen(model, trainer.config.model, torch.Generator().manual_seed(trainer.config.seed))
    if trainer.config.adapt and model.config != trainer.config.model:
        trainer.generator.load_state_dict(adapt(model, trainer.config.model).state_dict())
        trainer.sync_ema()
        return 0.0, float("inf")
    if model.config != trainer.config.model:
        came, wanted = model.config.to_dict(), trainer.config.model.to_dict()
        differ = [f"{key} {came[key]} instead of {wanted[key]}" for key in came if came[key] != wanted[key]]
        raise ModelError(
            f"the model {name}: expected that of [model], got {', '.join(differ)}; adapt = true keeps what fits"
        )
    trainer.generator.load_state_dict(model.state_dict())
    trainer.sync_ema()
    trainer.quantize_from = -1  # in the past: codebooks are not initialised
    return 0.0, float("inf")
