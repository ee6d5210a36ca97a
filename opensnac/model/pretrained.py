"""Where trained weights lie and how they are read and written: bundled, in a folder, on the hub. No pickle runs."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from opensnac.errors import ModelError
from opensnac.files import whole_file

if TYPE_CHECKING:
    from opensnac.model.codec import SNAC

DEFAULT_MODEL = "speech_24khz_small"
BUNDLE = Path(__file__).parent.parent / "weights"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def bundled_models() -> dict[str, Path]:
    """Name and folder of every model that comes with the package."""
    return {path.parent.name: path.parent for path in sorted(BUNDLE.glob("*/config.json"))}


def cached_models(cache_dir: str | Path | None = None) -> list[str]:
    """Hub ids in the hub's cache on this machine that look like SNAC models."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(cache_dir).repos
    except CacheNotFound:
        return []
    return sorted(repo.repo_id for repo in repositories if _holds_codec(repo))


def _holds_codec(repo: Any) -> bool:
    for revision in repo.revisions:
        for file in revision.files:
            if file.file_name == "config.json":
                try:
                    return "vq_strides" in json.loads(Path(file.file_path).read_text(encoding="utf-8"))
                except (OSError, ValueError):
                    return False
    return False


def locate(
    name: str | Path | None, revision: str | None, cache_dir: str | Path | None, local_files_only: bool
) -> tuple[Path, str]:
    """Folder that holds the model, and the name to call it by. Raises ModelError when there is none."""
    name = DEFAULT_MODEL if name is None else name
    bundled = bundled_models()
    if str(name) in bundled:
        return bundled[str(name)], str(name)
    if Path(name).is_dir():
        _require_files(Path(name))
        return Path(name), Path(name).resolve().name
    if str(name).count("/") != 1 or str(name).startswith(("/", ".", "~")):
        raise ModelError(
            f"no model {str(name)!r}: it is neither bundled ({', '.join(bundled) or 'none'}) nor a folder nor a hub "
            "id such as hubertsiuzdak/snac_24khz; `opensnac models` lists what is here"
        )
    return _download(str(name), revision, cache_dir, local_files_only), str(name)


def _require_files(folder: Path) -> None:
    present = {path.name for path in folder.iterdir()}
    if "config.json" not in present or not present & set(WEIGHT_FILES):
        raise ModelError(
            f"{folder} holds no model: config.json and {' or '.join(WEIGHT_FILES)} were needed, "
            f"{', '.join(sorted(present)[:8]) or 'nothing'} is there"
        )


def _download(hub_id: str, revision: str | None, cache_dir: str | Path | None, local_files_only: bool) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    def fetch(filename: str) -> Path:
        return Path(
            hf_hub_download(hub_id, filename, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
        )

    try:
        config = fetch("config.json")
        for filename in WEIGHT_FILES:
            try:
                return fetch(filename).parent
            except LocalEntryNotFoundError:
                if not local_files_only:
                    raise
            except EntryNotFoundError:
                pass
        raise ModelError(f"hub model {hub_id} has {config.name} but neither {' nor '.join(WEIGHT_FILES)}")
    except (HfHubHTTPError, EntryNotFoundError, ValueError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"hub model {hub_id} could not be had: {reason} Check the name and the network, or give a local folder "
            "or one of the bundled models; `opensnac models` lists them"
        ) from error


def load_weights(model: SNAC, folder: Path) -> str | None:
    """Load a folder's weights strictly, with weight norm folded or not.

    Returns the fingerprint of the weights that a folded file was folded from, None for others.
    """
    path = next(folder / name for name in WEIGHT_FILES if (folder / name).exists())
    state, metadata = _read(path)
    folded = not any(".parametrizations." in key for key in state)
    if folded:
        model.fold_weight_norm()
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit {folder / 'config.json'}: {error}") from error
    return metadata.get("fingerprint", fingerprint(model.state_dict())) if folded else None


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path} cannot be read as weights: {reason}") from error
    except Exception as error:  # torch's unpickling error, for anything but tensors
        raise ModelError(
            f"{path} is damaged or holds more than tensors, and was not loaded, for safety; fetch it again, or have "
            "its author store model.safetensors"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} is no state dict: names and tensors were needed")
    return state, {}


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256, 64 hexadecimal digits, over every tensor's name, shape and float32 values, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {list(values.shape)}\n".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def save(model: SNAC, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write `config.json` and `model.safetensors`, each whole or not at all; `dtype` stores smaller numbers."""
    from safetensors.torch import save as to_bytes

    state = {name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()}
    # A folded model keeps the name of the weights it was folded from; others are named by what is stored.
    named = model.fingerprint if not any(".parametrizations." in name for name in state) else fingerprint(state)
    with whole_file(folder / "config.json", force=True) as path:
        path.write_text(json.dumps(model.config.to_dict(), indent=2) + "\n", encoding="utf-8")
    with whole_file(folder / "model.safetensors", force=True) as path:
        path.write_bytes(to_bytes(state, {"format": "pt", "fingerprint": named}))


def push_to_hub(model: SNAC, repo_id: str, **options: Any) -> str:
    """Upload through huggingface_hub; `private` goes to making the repository, `token` to both steps."""
    from huggingface_hub import HfApi

    api = HfApi(token=options.pop("token", None))
    api.create_repo(repo_id, private=options.pop("private", None), exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **options))
