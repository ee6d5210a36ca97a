"""SNAC: the model, and the engine that runs it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opensnac import models
from opensnac.config import CodecConfig
from opensnac.engine.engine import Engine, Progress, no_progress
from opensnac.model import pretrained
from opensnac.model.checks import checked_audio, checked_codes
from opensnac.model.codec import Audio, Codec, Codes, refuse_tracing


class SNAC(Codec):
    """The public codec: loads published models, encodes and decodes, trains, freezes.

    Training uses `forward`, `latent`, `quantize` and `decode_latent`. `encode` and `decode` run on an engine that is
    built at first use and rebuilt whenever the weights have changed since; `freeze` returns an engine to keep.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._frozen: _Frozen | None = None
        self._lock = threading.Lock()

    @classmethod
    def from_config(cls, config: CodecConfig | Mapping[str, Any] | str | Path) -> SNAC:
        """A model with random weights, from a configuration, its mapping or the path of a `config.json`."""
        if isinstance(config, str | Path):
            config = CodecConfig.from_json(Path(config))
        return cls(**(config.to_dict() if isinstance(config, CodecConfig) else config))

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | None = None,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> SNAC:
        """A trained model, in eval mode: a bundled name, a folder or a hub id; the bundled default if no name.

        Reads `model.safetensors`, else `pytorch_model.bin` (tensors only, nothing is unpickled), onto `device` and as
        `dtype` if given. ModelError when there is no such model or its weights do not fit its configuration.
        """
        folder, label = models.locate(name, revision, cache_dir, local_files_only, token)
        with torch.inference_mode(False):
            with torch.device("meta"):  # no weights are drawn only to be replaced
                model = cls.from_config(folder / "config.json")
            pretrained.load_weights(model, folder)
        model.name = label
        return model.eval().to(device=device, dtype=dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into `folder`, which is created if needed."""
        pretrained.save(self, Path(folder))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload to a hub repository; `options` (token, revision, private, ...) as huggingface_hub names them."""
        return pretrained.push_to_hub(self, repo_id, **options)

    def freeze(
        self,
        *,
        backend: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        graphs: bool | str | None = None,
    ) -> Engine:
        """An engine with a copy of the current weights; later changes of the model do not affect it.

        `backend`, `dtype` and `graphs` are as in Engine; `device` defaults to the model's. BackendError for a
        combination that is not available here.
        """
        if backend is dtype is device is graphs is None:
            return self._engine()
        return Engine(self, backend, dtype, device, graphs)

    def encode(
        self, audio: Audio, lengths: Sequence[int] | None = None, *, progress: Progress = no_progress
    ) -> list[Codes]:
        """Audio (batch, 1, samples) -> codes of each scale, coarse to fine, as Engine.encode."""
        refuse_tracing()
        if torch.compiler.is_compiling():
            return self.quantize(self.latent(audio)).codes
        weight = self.quantizer.scales[0].codebook.weight
        audio = checked_audio(audio, weight.dtype, weight.device, finite=False)
        return self._engine().encode(audio.to(torch.float32), lengths, progress=progress)

    def decode(
        self,
        codes: Sequence[Codes],
        num_samples: int | None = None,
        lengths: Sequence[int] | None = None,
        *,
        seed: int = 0,
        noise: bool = True,
        progress: Progress = no_progress,
    ) -> Audio:
        """Codes of each scale, coarse to fine -> audio (batch, 1, samples), as Engine.decode."""
        refuse_tracing()
        weight = self.quantizer.scales[0].codebook.weight
        if torch.compiler.is_compiling():
            codes, _ = checked_codes(codes, self.config, weight.device, self.config.frame_multiple, in_range=False)
            with torch.no_grad():
                audio = self.decode_latent(self.from_codes(codes), seed if noise else None)
            return audio if num_samples is None else audio[..., :num_samples]
        audio = self._engine().decode(codes, num_samples, lengths, seed=seed, noise=noise, progress=progress)
        return audio.to(weight.dtype)

    def _engine(self) -> Engine:
        """The engine of the current weights."""
        with self._lock:
            if self._frozen is None or not self._frozen.is_current(self):
                self._frozen = None  # frees its memory first
                self._frozen = _Frozen(self)
            return self._frozen.engine

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: the model, not its engine."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_frozen", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._frozen, self._lock = None, threading.Lock()


class _Frozen:
    """An engine, and the values it was built from.

    Tensor versions and addresses miss changes through `.data`, NumPy or a memory map, so every value is compared.
    That reads the weights once per call; `SNAC.freeze` avoids it.
    """

    def __init__(self, model: SNAC) -> None:
        self.engine = Engine(model)
        self._values = [value.detach().clone() for value in _values(model)]

    def is_current(self, model: SNAC) -> bool:
        """Whether the model still has those weights."""
        now = _values(model)
        return len(now) == len(self._values) and all(
            a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
            for a, b in zip(now, self._values, strict=True)
        )


def _values(model: SNAC) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


Coder = SNAC | Engine  # what encodes and decodes


def frozen(model: Coder) -> Engine:
    """The model itself if it is an engine, else an engine of its current weights."""
    return model if isinstance(model, Engine) else model.freeze()
