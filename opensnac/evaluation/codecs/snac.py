"""Models of this package as codecs: a clip goes through a `.snac` file."""

from __future__ import annotations

import functools
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

import opensnac
from opensnac import __version__, bitstream
from opensnac.errors import OpensnacError
from opensnac.evaluation.code import code_of
from opensnac.evaluation.codecs.base import Codec, Coded, fit, split_choice
from opensnac.recordings import audio

if TYPE_CHECKING:
    from opensnac import Engine
    from opensnac.recordings.codec import Model


# Packages that process a clip.
CODEC = ("bitstream", "engine", "kernels", "model", "recordings", "spectra", "streaming")


@functools.cache
def _codec_code() -> str:
    return code_of(Path(opensnac.__file__).parent / name for name in CODEC)


class Opensnac(Codec):
    """A model of this package through a `.snac` file: a bundled name, folder or hub id; None: the default."""

    counted = "the whole .snac file"
    in_process: ClassVar = True

    def __init__(self, model: str | None = None) -> None:
        self.name = "opensnac" if model is None else f"opensnac:{model}"
        self._model_name = model

    @functools.cached_property
    def model(self) -> Engine:
        """The model, loaded on first use."""
        from opensnac import SNAC  # imports torch

        return SNAC.from_pretrained(self._model_name).freeze()

    @functools.cached_property
    def encoder(self) -> Model:
        """What encodes, made on first use."""
        return self.model

    def missing(self) -> str | None:
        try:
            _ = self.model
        except OpensnacError as error:
            return str(error)
        return None

    def version(self) -> str:
        from opensnac import kernels  # imports torch

        model, run_by = self.model, f"{self.model.backend.name} {kernels.level() or ''}".strip()
        return f"opensnac {__version__}, {model.name} {model.fingerprint[:16]}, backend {run_by}, code {_codec_code()}"

    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        from opensnac.recordings import transcode  # imports torch

        with tempfile.TemporaryDirectory() as folder:
            original, coded, decoded = (Path(folder) / name for name in ("in.wav", "coded.snac", "out.wav"))
            audio.write(original, clip[None], sample_rate)
            _ = self.encoder  # loading is not part of the time
            start = time.perf_counter()
            transcode.encode_file(original, coded, self.encoder)
            middle = time.perf_counter()
            transcode.decode_file(coded, decoded, self.model)
            end = time.perf_counter()
            with open(coded, "rb") as file:
                codes = bitstream.read(file).codes
            size = coded.stat().st_size
            return Coded(
                audio=fit(audio.read(decoded)[0][0], len(clip)),
                num_bytes=size,
                file_bytes=size,
                encode_seconds=middle - start,
                decode_seconds=end - middle,
                codes=[scale.ravel() for scale in codes],
                codebook_size=self.model.config.codebook_size,
            )


class Refined(Opensnac):
    """The same with refined codes: `ROUNDS` or `ROUNDS@MODEL`."""

    def __init__(self, choice: str) -> None:
        rounds, model = split_choice(choice)
        super().__init__(model)
        self.name = f"refined:{choice}"
        self._rounds = int(rounds)

    @functools.cached_property
    def encoder(self) -> Model:
        """The refining encoder."""
        from opensnac.recordings.model_cache import ModelCache

        return ModelCache(self._model_name, rounds=self._rounds).get()
