"""Locating trained models: bundled, in a folder, or on the hub."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from opensnac.config import CodecConfig
from opensnac.errors import ConfigError, ModelError

DEFAULT_MODEL = "speech_24khz_medium"
SHORT_NAMES = {"speech": DEFAULT_MODEL, "music": "music_32khz_small"}  # of bundled models, by what they are for
BUNDLE = Path(__file__).parent / "weights"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def bundled_models() -> dict[str, Path]:
    """Name and folder of every bundled model."""
    return {path.parent.name: path.parent for path in sorted(BUNDLE.glob("*/config.json"))}


def cached_models(cache_dir: str | Path | None = None) -> list[str]:
    """Hub ids in this machine's hub cache that load as SNAC models without a network."""
    if find_spec("huggingface_hub") is None:
        return []
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
    """The folder of a model, and its full name. ModelError when there is none."""
    name = DEFAULT_MODEL if name is None else SHORT_NAMES.get(str(name), name)
    bundled = bundled_models()
    if str(name) in bundled:
        return bundled[str(name)], str(name)
    if Path(name).is_dir():
        _require_files(Path(name))
        return Path(name), Path(name).resolve().name
    if str(name).count("/") != 1 or str(name).startswith(("/", ".", "~")):
        raise ModelError(
            f"model: expected {', '.join(SHORT_NAMES)}, a bundled name ({', '.join(bundled) or 'none'}), a folder or a "
            f"hub id such as hubertsiuzdak/snac_24khz, got {str(name)!r}; `opensnac models` lists what is available"
        )
    return _download(str(name), revision, cache_dir, local_files_only, token), str(name)


def _require_files(folder: Path) -> None:
    present = {path.name for path in folder.iterdir()}
    if "config.json" not in present or not present & set(WEIGHT_FILES):
        raise ModelError(
            f"{folder}: expected config.json and {' or '.join(WEIGHT_FILES)}, "
            f"got {', '.join(sorted(present)[:8]) or 'an empty folder'}"
        )


def _download(
    hub_id: str,
    revision: str | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
    token: str | bool | None = None,
) -> Path:
    """Folder of a hub repository's configuration and weights; without a network, from the cache."""
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
        raise ModelError(f"hub model {hub_id}: expected {' or '.join(WEIGHT_FILES)} beside {config.name} ({missing})")
    except (HfHubHTTPError, EntryNotFoundError, ValueError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"hub model {hub_id} could not be fetched: {reason} Check the name and the network, or give a local folder "
            "or a bundled model; `opensnac models` lists them"
        ) from error
