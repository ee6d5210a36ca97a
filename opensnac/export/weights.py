"""A trained model as NumPy arrays: its weights under the names of a state dict, weight norm folded, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from opensnac.config import CodecConfig
from opensnac.errors import ModelError
from opensnac.identity import fingerprint

Array = NDArray[np.float32]

GAIN, DIRECTION = ".parametrizations.weight.original0", ".parametrizations.weight.original1"


@dataclass(frozen=True)
class Weights:
    """The input of an export; `fingerprint` is that of the trained model."""

    name: str
    config: CodecConfig
    fingerprint: str
    arrays: dict[str, Array]

    def __getitem__(self, name: str) -> Array:
        """The array `name`; ModelError if it is missing."""
        if name not in self.arrays:
            raise ModelError(f"the model {self.name}: expected {name}, as its configuration requires, got none")
        return self.arrays[name]

    def get(self, name: str, shape: tuple[int, ...]) -> Array:
        """self[name]; ModelError unless it has this shape."""
        if self[name].shape != shape:
            raise ModelError(f"the model {self.name}: expected {name} of shape {shape}, got {self[name].shape}")
        return self[name]

    @classmethod
    def of(cls, model: Any) -> Self:
        """The current weights of a PyTorch model, `SNAC`."""
        state = {name: value.detach().float().cpu().numpy() for name, value in model.state_dict().items()}
        return cls(model.name, model.config, model.fingerprint, folded(state))

    @classmethod
    def read(cls, folder: Path, name: str) -> Self:
        """The weights in a folder with `config.json` and `model.safetensors`; exported files call the model `name`.

        ModelError if they cannot be read or do not fit.
        """
        from safetensors import SafetensorError, safe_open

        path = folder / "model.safetensors"
        config = CodecConfig.from_json(folder / "config.json")
        try:
            with safe_open(path, framework="np") as file:
                state = {key: file.get_tensor(key).astype(np.float32) for key in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{path}: expected readable weights, got {reason}") from error
        trained = any(key.endswith(DIRECTION) for key in state)
        named = fingerprint(state) if trained else metadata.get("fingerprint", fingerprint(state))
        return cls(name, config, named, folded(state))


def folded(state: Mapping[str, Array]) -> dict[str, Array]:
    """A state dict with weight norm folded: each gain and direction replaced by their weight."""
    plain = {name: value for name, value in state.items() if not name.endswith((GAIN, DIRECTION))}
    for name, direction in state.items():
        if name.endswith(DIRECTION):
            kernel = name.removesuffix(DIRECTION)
            norm = np.sqrt(np.square(direction.astype(np.float64)).sum(axis=(1, 2), keepdims=True))
            plain[f"{kernel}.weight"] = (state[kernel + GAIN] * (direction / norm)).astype(np.float32)
    return plain
