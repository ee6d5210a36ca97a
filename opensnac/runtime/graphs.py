"""Streaming graphs: loaded from a folder that `opensnac export` wrote, or built from a model's weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from opensnac.config import CodecConfig
from opensnac.errors import ModelError
from opensnac.export.naming import ABOUT, FOLDER, file_name
from opensnac.models import locate

ENCODER, DECODER = "encoder_stream", "decoder_stream"

Arrays = list[NDArray[Any]]


@dataclass(frozen=True)
class Graph:
    """A graph that takes a signal in pieces; positions are in samples (docs/export.md)."""

    session: onnxruntime.InferenceSession
    facts: Mapping[str, Any]

    @property
    def inputs(self) -> set[str]:
        """Names of its inputs."""
        return {value.name for value in self.session.get_inputs()}

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Its outputs for all of its inputs."""
        return [np.asarray(output) for output in self.session.run(None, dict(inputs))]


@dataclass(frozen=True)
class Model:
    """Where a model's graphs come from, and what it is."""

    name: str
    fingerprint: str
    config: CodecConfig
    source: Any  # the folder of its graphs, or its Weights
    stored: str

    @staticmethod
    def find(name: str | Path | None, stored: str, **options: Any) -> Model:
        """An exported folder, or a model as `SNAC.from_pretrained` finds it. ModelError if there is none."""
        if name is not None and (Path(name) / ABOUT).is_file():
            return _exported(Path(name), stored)
        folder, label = locate(name, **options)
        if not (folder / "model.safetensors").exists():
            raise ModelError(
                f"{folder}: expected model.safetensors, got none; run opensnac export where PyTorch is installed"
            )
        from opensnac.export.weights import Weights

        weights = Weights.read(folder, label)
        return Model(label, weights.fingerprint, weights.config, weights, stored)

    def load(self, name: str, threads: int) -> Graph:
        """One of its graphs, ready to run."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        content = self._file(name) if isinstance(self.source, Path) else self._written(name)
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common base class
            shown = content if isinstance(content, str) else f"{name} of {self.name}"
            raise ModelError(f"{shown} cannot be loaded by ONNX Runtime: {str(error).splitlines()[0]}") from error
        return Graph(session, _facts(session, name))

    def _file(self, name: str) -> str:
        path = self.source / FOLDER / file_name(name, self.stored)
        if not path.is_file():
            raise ModelError(f"{path}: no such file; write it with opensnac export --stream --weights {self.stored}")
        return str(path)

    def _written(self, name: str) -> bytes:
        try:
            from opensnac.export import models
        except ModuleNotFoundError as error:
            raise ModelError(
                f"the model {self.name} is not an exported folder, and onnx, which exports it, is not installed; "
                "run: pip install onnx"
            ) from error
        return models.STREAMS[name](self.source, self.stored, True).SerializeToString()


def _exported(folder: Path, stored: str) -> Model:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        config = CodecConfig.from_dict(about["config"])
        return Model(str(about["name"]), str(about["fingerprint"]), config, folder, stored)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / ABOUT}: expected a file from opensnac export, got {error!r}") from error


def _facts(session: onnxruntime.InferenceSession, name: str) -> dict[str, Any]:
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        return {key: int(metadata[key]) for key in ("state_size", "first_sample", "look_ahead", "group_samples")}
    except (KeyError, ValueError) as error:
        raise ModelError(f"{name}: expected a streaming graph from opensnac export, got one without {error}") from error
