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
    """What a graph is made from; `fingerprint` is that of the model as it was trained."""

    name: str
    config: CodecConfig
    fingerprint: str
    arrays: dict[str, Array]

    def __getitem__(self, name: str) -> Array:
        """ModelError for what is not there."""
        if name not in self.arrays:
            raise ModelError(f"the model {self.name} has no {name}, which its configuration asks for")
        return self.arrays[name]

    def get(self, name: str, shape: tuple[int, ...]) -> Array:
        """As self[name]; ModelError for another shape."""
        if self[name].shape != shape:
            raise ModelError(f"the model {self.name} has {name} of shape {self[name].shape}, expected {shape}")
        return self[name]

    @classmethod
    def of(cls, model: Any) -> Self:
        """Those of a model of PyTorch, `SNAC`, as they are now."""
        state = {name: value.detach().float().cpu().numpy() for name, value in model.state_dict().items()}
        return cls(model.name, model.config, model.fingerprint, folded(state))

    @classmethod
    def read(cls, folder: Path, name: str) -> Self:
        """Those in a folder with `config.json` and `model.safetensors`, by which `name` a file will know them.

        ModelError where they cannot be read or do not fit.
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
            raise ModelError(f"{path} cannot be read as weights: {reason}") from error
        trained = any(key.endswith(DIRECTION) for key in state)
        named = fingerprint(state) if trained else metadata.get("fingerprint", fingerprint(state))
        return cls(name, config, named, folded(state))


def folded(state: Mapping[str, Array]) -> dict[str, Array]:
    """A state dict with each gain and direction made the weight that they stand for."""
    plain = {name: value for name, value in state.items() if not name.endswith((GAIN, DIRECTION))}
    for name, direction in state.items():
        if name.endswith(DIRECTION):
            kernel = name.removesuffix(DIRECTION)
            norm = np.sqrt(np.square(direction.astype(np.float64)).sum(axis=(1, 2), keepdims=True))
            plain[f"{kernel}.weight"] = (state[kernel + GAIN] * (direction / norm)).astype(np.float32)
    return plain
