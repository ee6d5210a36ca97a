"""Where trained weights lie and how they are read and written: bundled, in a folder, on the hub. No pickle runs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opensnac.config import CodecConfig
from opensnac.errors import ConfigError, ModelError
from opensnac.files import whole_file
from opensnac.model.codec import Codec
from opensnac.model.identity import fingerprint

DEFAULT_MODEL = "speech_24khz_small"
BUNDLE = Path(__file__).parent.parent / "weights"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def bundled_models() -> dict[str, Path]:
    """Name and folder of every model that comes with the package."""
    return {path.parent.name: path.parent for path in sorted(BUNDLE.glob("*/config.json"))}


def cached_models(cache_dir: str | Path | None = None) -> list[str]:
    """Hub ids in the hub's cache on this machine that load as SNAC models without a network."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(cache_dir).repos
    except CacheNotFound:
        return []
    names = sorted(repo.repo_id for repo in repositories if repo.repo_type == "model")
    return [name for name in names if _is_cached_codec(name, cache_dir)]


def _is_cached_codec(name: str, cache_dir: str | Path | None) -> bool:
    try:
        CodecConfig.from_json(_download(name, None, cache_dir, local_files_only=True) / "config.json")
    except (ModelError, ConfigError):
        return False
    return True


def locate(
    name: str | Path | None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
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
    return _download(str(name), revision, cache_dir, local_files_only, token), str(name)


def _require_files(folder: Path) -> None:
    present = {path.name for path in folder.iterdir()}
    if "config.json" not in present or not present & set(WEIGHT_FILES):
        raise ModelError(
            f"{folder} holds no model: config.json and {' or '.join(WEIGHT_FILES)} were needed, "
            f"{', '.join(sorted(present)[:8]) or 'nothing'} is there"
        )


def _download(
    hub_id: str,
    revision: str | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
    token: str | bool | None = None,
) -> Path:
    """Folder of a hub repository's configuration and weights; what is in the cache will do without a network."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    def fetch(filename: str) -> Path:
        options: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "token": token}
        return Path(hf_hub_download(hub_id, filename, local_files_only=local_files_only, **options))

    try:
        config, missing = fetch("config.json"), None
        for filename in WEIGHT_FILES:
            try:
                return fetch(filename).parent
            except EntryNotFoundError as error:  # not in the repository, or, without a network, not in the cache
                missing = error
        raise ModelError(f"hub model {hub_id} has {config.name} but neither {' nor '.join(WEIGHT_FILES)} ({missing})")
    except (HfHubHTTPError, EntryNotFoundError, ValueError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"hub model {hub_id} could not be fetched: {reason} Check the name and the network, or give a local folder "
            "or one of the bundled models; `opensnac models` lists them"
        ) from error


def load_weights(model: Codec, folder: Path) -> None:
    """Give a model a folder's weights, all of them, with weight norm folded or not; it may be on the meta device."""
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
        raise ModelError(f"{path} does not fit {folder / 'config.json'}: {error}") from error
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
        raise ModelError(f"{path} cannot be read as weights: {reason}") from error
    except Exception as error:  # torch's unpickling error, for anything but tensors
        raise ModelError(
            f"{path} is damaged or holds more than tensors, and was not loaded, for safety; fetch it again, or have "
            "its author store model.safetensors"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} is no state dict: names and tensors were needed")
    return state, {}


def save(model: Codec, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write `config.json` and `model.safetensors`, each whole or not at all; `dtype` stores smaller numbers."""
    from safetensors.torch import save as to_bytes

    state = {name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()}
    # A folded model keeps the name of the weights it was folded from; others are named by what is stored.
    named = model.fingerprint if model._folded_from else fingerprint(state)
    with whole_file(folder / "config.json", force=True) as path:
        path.write_text(json.dumps(model.config.to_dict(), indent=2) + "\n", encoding="utf-8")
    with whole_file(folder / "model.safetensors", force=True) as path:
        path.write_bytes(to_bytes(state, {"format": "pt", "fingerprint": named}))


def push_to_hub(model: Codec, repo_id: str, **options: Any) -> str:
    """Upload through huggingface_hub; `private` goes to making the repository, `token` to both steps."""
    from huggingface_hub import HfApi

    api = HfApi(token=options.pop("token", None))
    api.create_repo(repo_id, private=options.pop("private", None), exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **options))
