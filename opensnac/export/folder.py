"""Writes a folder with a model's graphs and the files that other programs need."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from string import Template

import onnx
from onnx import ModelProto

from opensnac.errors import ConfigError
from opensnac.export.graph import STORED, Metadata, metadata_of
from opensnac.export.models import STREAMS, WHOLE, facts
from opensnac.export.naming import ABOUT, FOLDER, file_name
from opensnac.export.weights import Weights
from opensnac.files import atomic_folder

README = Path(__file__).with_name("readme.md")
LARGEST = 2**31 - 2**20  # bytes of a graph in one file; a larger one has its weights in a second file


def export(
    weights: Weights, folder: Path, stored: Sequence[str] = ("fp32",), *, noise: bool = True, stream: bool = False
) -> None:
    """Write a model's encoder and decoder into FOLDER, with `stream` also the streaming ones, in each kind of `stored`.

    `noise=False` omits the decoder's noise. The folder is written atomically. Raises FileExistsError if it exists and
    is not empty, ConfigError for a kind of storage other than "fp32", "fp16" and "int8".
    """
    for kind in stored:
        if kind not in STORED:
            raise ConfigError(f"weights: expected {', '.join(STORED)}, got {kind!r}")
    makers = WHOLE | (STREAMS if stream else {})
    with atomic_folder(folder) as unfinished:
        (unfinished / FOLDER).mkdir()
        about, graphs = facts(weights), {}
        for kind in dict.fromkeys(stored):
            for name, make in makers.items():
                model = make(weights, kind, noise)
                _save(model, unfinished / FOLDER / file_name(name, kind))
                graphs[file_name(name, kind)] = {k: v for k, v in metadata_of(model).items() if k not in about}
        _write_json(unfinished / ABOUT, {**about, "graphs": graphs})
        (unfinished / "README.md").write_text(readme(weights), encoding="utf-8")
        _write_json(unfinished / "config.json", transformers_config(weights))
        _write_json(unfinished / "preprocessor_config.json", preprocessor_config(weights))


def readme(weights: Weights) -> str:
    """The folder's README: how to use the graphs from several languages."""
    config = weights.config
    names = [f"audio_codes.{i}" for i, _ in enumerate(config.vq_strides)]
    return Template(README.read_text(encoding="utf-8")).substitute(
        name=weights.name,
        fingerprint=weights.fingerprint,
        rate=config.sampling_rate,
        bits=round(config.bits_per_second),
        group=config.frame_multiple * config.hop_length,
        scales=len(names),
        names=", ".join(f'"{name}"' for name in names),
        pairs=", ".join(f'"{name}" => &codes["{name}"]' for name in names),
    )


def transformers_config(weights: Weights) -> Metadata:
    """`config.json`: the published keys, and those that hubs and transformers.js read."""
    return {"model_type": "snac", "architectures": ["SnacModel"], **weights.config.to_dict()}


def preprocessor_config(weights: Weights) -> Metadata:
    """`preprocessor_config.json` of transformers.js."""
    rate = weights.config.sampling_rate
    return {"feature_extractor_type": "SnacFeatureExtractor", "feature_size": 1, "sampling_rate": rate}


def _save(model: ModelProto, path: Path) -> None:
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) < LARGEST:
        path.write_bytes(model.SerializeToString())
    else:
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}_data")


def _write_json(path: Path, values: Metadata) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
