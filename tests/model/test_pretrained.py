"""Weights in folders: written and read in every published form; broken ones are reported."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from opensnac import SNAC, models
from opensnac.errors import ConfigError, ModelError
from opensnac.model import pretrained

AUDIO = 0.3 * torch.randn(1, 1, 2000, generator=torch.Generator().manual_seed(0))


def same(a: SNAC, b: SNAC) -> bool:
    codes = a.encode(AUDIO)
    audio = torch.allclose(a.decode(codes), b.decode(codes), atol=1e-6)
    return audio and all(torch.equal(x, y) for x, y in zip(codes, b.encode(AUDIO), strict=True))


def published_folder(model: SNAC, folder: Path) -> Path:
    """As the published repositories are: config.json and a plain state dict in pytorch_model.bin."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


@torch.inference_mode()
def test_round_trip(tiny: SNAC, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    loaded = SNAC.from_pretrained(tmp_path / "model")
    assert same(tiny, loaded)
    assert loaded.fingerprint == tiny.fingerprint
    next(loaded.parameters()).add_(1e-3)
    assert loaded.fingerprint != tiny.fingerprint
    assert loaded.name == "model"
    assert not loaded.training
    assert loaded.config == tiny.config


@torch.inference_mode()
def test_published_form(tiny: SNAC, tmp_path: Path) -> None:
    loaded = SNAC.from_pretrained(str(published_folder(tiny, tmp_path / "hub")))
    assert same(tiny, loaded)
    assert loaded.fingerprint == tiny.fingerprint


@torch.inference_mode()
def test_safetensors_come_first(tiny: SNAC, tmp_path: Path) -> None:
    folder = published_folder(tiny, tmp_path / "both")
    tiny.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"not weights")
    assert same(tiny, SNAC.from_pretrained(folder))


@torch.inference_mode()
def test_folded_form_keeps_its_identity(tiny: SNAC, tmp_path: Path) -> None:
    folded = SNAC.from_config(tiny.config).eval()
    folded.load_state_dict(tiny.state_dict())
    folded.fold_weight_norm().save_pretrained(tmp_path / "folded")
    loaded = SNAC.from_pretrained(tmp_path / "folded")
    assert same(tiny, loaded)
    assert loaded.fingerprint == tiny.fingerprint


@torch.inference_mode()
def test_a_half_precision_file_has_the_fingerprint_of_its_values(tiny: SNAC, tmp_path: Path) -> None:
    pretrained.save(tiny, tmp_path / "half", torch.float16)
    loaded = SNAC.from_pretrained(tmp_path / "half")
    assert next(loaded.parameters()).dtype == torch.float32
    assert loaded.fingerprint != tiny.fingerprint
    loaded.save_pretrained(tmp_path / "again")
    assert SNAC.from_pretrained(tmp_path / "again").fingerprint == loaded.fingerprint


def test_nothing_is_unpickled(tiny: SNAC, tmp_path: Path) -> None:
    folder = published_folder(tiny, tmp_path / "evil")
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Evil()}))
    with pytest.raises(ModelError, match="expected tensors only"):
        SNAC.from_pretrained(folder)
    assert not marker.exists()


def broken(kind: str, tiny: SNAC, folder: Path) -> Path:
    tiny.save_pretrained(folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    if kind == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "other shape":
        config.write_text(json.dumps(tiny.config.to_dict() | {"codebook_size": 65}))
    elif kind == "unknown key":
        config.write_text(json.dumps(tiny.config.to_dict() | {"dropout": 0.1}))
    elif kind == "no weights":
        weights.unlink()
    elif kind == "no json":
        config.write_text("{")
    return folder


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("cut", ModelError, "expected readable weights"),
        ("other shape", ModelError, "expected the weights of .*config.json"),
        ("unknown key", ConfigError, "config.json: unknown configuration key 'dropout'"),
        (
            "no weights",
            ModelError,
            "model.safetensors or pytorch_model.bin, got config.json",
        ),
        ("no json", ConfigError, "expected JSON, got"),
    ],
)
def test_broken_folders_are_named(tiny: SNAC, tmp_path: Path, kind: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SNAC.from_pretrained(broken(kind, tiny, tmp_path / "model"))


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(
        ModelError, match="expected speech, music, a bundled name .* or a hub id .*, got 'speech_25khz'"
    ):
        SNAC.from_pretrained("speech_25khz")


def test_hub_models_come_from_the_cache(tiny: SNAC, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub cache in huggingface_hub's layout, read without a network."""
    commit = "0" * 40
    repository = tmp_path / "models--somebody--tiny_codec"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    published_folder(tiny, tmp_path / "model").rename(repository / "snapshots")
    (repository / "snapshots").rename(repository / "moved")
    (repository / "snapshots").mkdir()
    (repository / "moved").rename(repository / "snapshots" / commit)
    loaded = SNAC.from_pretrained("somebody/tiny_codec", cache_dir=tmp_path, local_files_only=True)
    assert loaded.name == "somebody/tiny_codec"
    assert loaded.fingerprint == tiny.fingerprint
    assert models.cached_models(tmp_path) == ["somebody/tiny_codec"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as HF_HUB_OFFLINE=1 sets it
    assert SNAC.from_pretrained("somebody/tiny_codec", cache_dir=tmp_path).fingerprint == tiny.fingerprint
    (repository / "snapshots" / commit / "pytorch_model.bin").unlink()
    assert models.cached_models(tmp_path) == []
    with pytest.raises(ModelError, match="expected model.safetensors or pytorch_model.bin beside config.json"):
        SNAC.from_pretrained("somebody/tiny_codec", cache_dir=tmp_path)
    with pytest.raises(ModelError, match="hub model somebody/tiny_codec could not be fetched"):
        SNAC.from_pretrained("somebody/tiny_codec", revision="v2", cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(ModelError, match="hub model somebody/other could not be fetched"):
        SNAC.from_pretrained("somebody/other", cache_dir=tmp_path, local_files_only=True)


def test_push_to_hub_uploads_a_whole_model(tiny: SNAC, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through huggingface_hub's client, mocked to record its calls."""
    calls: list[tuple] = []

    class Notes:
        def __init__(self, token: str | None = None) -> None:
            calls.append(("token", token))

        def create_repo(self, repo_id: str, **options: object) -> None:
            calls.append(("create", repo_id, options))

        def upload_folder(self, repo_id: str, folder_path: str, **options: object) -> str:
            calls.append(("upload", repo_id, SNAC.from_pretrained(folder_path).fingerprint, options))
            return f"https://hub.example/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Notes)
    url = tiny.push_to_hub("me/codec", token="secret", private=True, commit_message="first")
    assert url == "https://hub.example/me/codec"
    assert calls == [
        ("token", "secret"),
        ("create", "me/codec", {"private": True, "exist_ok": True}),
        ("upload", "me/codec", tiny.fingerprint, {"commit_message": "first"}),
    ]
