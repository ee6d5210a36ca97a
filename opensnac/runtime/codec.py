"""The codec on ONNX Runtime."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opensnac.errors import CodesError
from opensnac.runtime.checks import checked_audio, checked_codes
from opensnac.runtime.graphs import DECODER, ENCODER, Arrays, Graph, Model
from opensnac.runtime.streams import StreamDecoder, StreamEncoder


class Codec:
    """A trained model on a CPU, in float32, usable from any number of threads.

    Gives the same codes as `opensnac.SNAC`, and the same audio up to rounding. Graphs are loaded at first use.
    """

    def __init__(self, model: Model, threads: int | None = None) -> None:
        self.name, self.fingerprint, self.config = model.name, model.fingerprint, model.config
        self.piece_samples = 2 * model.config.sampling_rate  # as an engine on a CPU
        self._model, self._threads = model, threads or os.cpu_count() or 1
        self._graphs: dict[str, Graph] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls, name: str | Path | None = None, *, weights: str = "fp32", threads: int | None = None, **options: Any
    ) -> Codec:
        """A bundled model's name, a folder that `opensnac export --stream` wrote, a model's folder, or a hub id.

        `weights` ("fp32", "fp16", "int8") selects the exported files; `threads` is the number per call, None for all
        cores. `options` (revision, cache_dir, local_files_only, token) are for the hub. Everything except exported
        folders needs onnx. ModelError when there is no such model.
        """
        return cls(Model.find(name, weights, **options), threads)

    def __repr__(self) -> str:
        return f"Codec({self.name!r}, weights={self._model.stored!r}, threads={self._threads})"

    def encode(self, audio: NDArray[np.floating[Any]]) -> Arrays:
        """Audio (batch, 1, samples) at `config.sampling_rate` -> codes (batch, frames / stride) int64 of each scale.

        Padded with zeros to whole groups of frames. AudioError for anything but finite floating-point audio.
        """
        audio = checked_audio(audio, "(batch, 1, samples)", 3)
        stream = self.stream_encoder(len(audio))
        return _joined([stream.push(audio[:, 0]), stream.flush()])

    def decode(
        self,
        codes: Sequence[NDArray[np.integer[Any]]],
        num_samples: int | None = None,
        *,
        seed: int = 0,
        noise: bool = True,
    ) -> NDArray[np.float32]:
        """Codes of each scale, coarse to fine -> audio (batch, 1, samples), cut to `num_samples` if given.

        CodesError for codes that do not fit the model.
        """
        codes, frames = checked_codes(codes, self.config, self.config.frame_multiple)
        total = frames * self.config.hop_length
        if num_samples is not None and not 0 <= num_samples <= total:
            raise CodesError(f"num_samples: expected 0 to {total}, the samples of {frames} frames, got {num_samples}")
        stream = self.stream_decoder(len(codes[0]), seed=seed, noise=noise)
        (audio,) = _joined([[stream.push(codes)], [stream.flush()]])
        return audio[:, None, :num_samples]

    def stream_encoder(self, streams: int = 1) -> StreamEncoder:
        """An encoder for `streams` parallel streams of samples."""
        return StreamEncoder(self._graph(ENCODER), self.config, streams)

    def stream_decoder(self, streams: int = 1, *, seed: int = 0, noise: bool = True) -> StreamDecoder:
        """A decoder for `streams` parallel streams of codes; the noise is as in `decode`."""
        return StreamDecoder(self._graph(DECODER), self.config, streams, seed=seed, noise=noise)

    def _graph(self, name: str) -> Graph:
        with self._lock:
            if name not in self._graphs:
                self._graphs[name] = self._model.load(name, self._threads)
            return self._graphs[name]


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return [np.concatenate(scale, axis=1) for scale in zip(*parts, strict=True)]
