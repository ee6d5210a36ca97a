"""Reading and writing trained weights. Nothing is unpickled."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opensnac.errors import ModelError
from opensnac.files import atomic_file
from opensnac.model.codec import Codec
from opensnac.model.identity import fingerprint
from opensnac.models import WEIGHT_FILES


def load_weights(model: Codec, folder: Path) -> None:
    """Load all of a folder's weights, with weight norm folded or not, into a model, which may be on the meta device."""
    path = next(folder / name for name in WEIGHT_FILES if (folder / name).exists())
    state, metadata = _read(path)
    folded = not any(".parametrizations." in key for key in state)
    if folded:
        model.fold()
    own = model.state_dict()
    state = {name: value.to(own[name].dtype) if name in own else value for name, value in state.items()}
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(f"{path}: expected the weights of {folder / 'config.json'}, got {error}") from error
    if folded:
        print_of_folded = fingerprint(model.state_dict())
        model._folded_from = (metadata.get("fingerprint", print_of_folded), print_of_folded)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path}: expected readable weights, got {reason}") from error
    except Exception as error:  # torch's unpickling error, for anything but tensors
        raise ModelError(
            f"{path}: expected tensors only, got a damaged file or other objects, which are not loaded, for safety; "
            "fetch it again, or ask its author for model.safetensors"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path}: expected a state dict of names and tensors, got {type(state).__name__}")
    return state, {}


def save(model: Codec, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write `config.json` and `model.safetensors`, each atomically; `dtype` converts the weights."""
    from safetensors.torch import save as to_bytes

    state = {name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()}
    # A folded model keeps the fingerprint from before folding; others get that of the stored weights.
    named = model.fingerprint if model._folded_from else fingerprint(state)
    with atomic_file(folder / "config.json", force=True) as path:
        path.write_text(json.dumps(model.config.to_dict(), indent=2) + "\n", encoding="utf-8")
    with atomic_file(folder / "model.safetensors", force=True) as path:
        path.write_bytes(to_bytes(state, {"format": "pt", "fingerprint": named}))


def push_to_hub(model: Codec, repo_id: str, **options: Any) -> str:
    """Upload through huggingface_hub. `private` is for creating the repository, `token` for both steps."""
    from huggingface_hub import HfApi

    api = HfApi(token=options.pop("token", None))
    api.create_repo(repo_id, private=options.pop("private", None), exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **options))
