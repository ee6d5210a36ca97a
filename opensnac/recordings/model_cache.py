"""A cache of models by name, on PyTorch or ONNX Runtime."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opensnac.bitstream import Header
from opensnac.errors import BackendError, ConfigError, ModelError, OpensnacError
from opensnac.models import bundled_models

if TYPE_CHECKING:
    from opensnac.engine.engine import Engine
    from opensnac.recordings.codec import Codec

RUNTIMES = ("torch", "onnx")


class ModelCache:
    """Models by name, each loaded once, thread-safe. If `only` is given, it is used for every name.

    `runtime` is "torch" or "onnx"; None for PyTorch if installed. `reduced` multiplies in bfloat16 (PyTorch only).
    `rounds` refines codes (RefiningEncoder), in float32 on PyTorch.
    `trusted` names hub models that may be downloaded when a stream asks for them, OWNER/* all of an owner's. `workers`
    threads share the cores. ConfigError for an unavailable device, BackendError for what a runtime does not support.
    """

    def __init__(
        self,
        only: str | Path | None = None,
        reduced: bool = False,
        device: str = "cpu",
        trusted: Sequence[str] = (),
        runtime: str | None = None,
        workers: int = 1,
        rounds: int = 0,
    ) -> None:
        self.runtime = runtime or ("torch" if find_spec("torch") else "onnx")
        if self.runtime not in RUNTIMES:
            raise BackendError(f"runtime: expected {' or '.join(RUNTIMES)}, got {runtime!r}")
        if self.runtime == "torch":
            check_device(device)
        elif reduced or rounds or device != "cpu":
            what = "products in bfloat16" if reduced else "refined codes" if rounds else f"device {device!r}"
            raise BackendError(f"runtime onnx: expected float32 on cpu, got {what}; use the runtime torch")
        if rounds and reduced:
            raise BackendError("refined codes: expected products in float32, got bfloat16; leave out one of the two")
        self._only, self._reduced, self._device, self._trusted = only, reduced, device, tuple(trusted)
        self._rounds = rounds
        self._threads = max(1, (os.cpu_count() or 1) // workers)
        self._models: dict[str, Engine | Codec] = {}
        self._lock = threading.Lock()

    def get(self, name: str | None = None) -> Any:
        """The model `name`, None for the default, ready for inference. ModelError if there is none."""
        return self._load(name if self._only is None else self._only)

    def for_header(self, header: Header) -> Engine | Codec:
        """The model that a stream names, only if it is bundled, cached or trusted: the name is untrusted input.

        ModelError, with advice, for any other.
        """
        if self._only is not None:
            return self.get()
        name = header.model_name
        try:
            if name in bundled_models():
                return self._load(name)
            if not _is_hub_id(name):
                raise ModelError("a file can name only bundled models and hub ids")
            here_only = not any(fnmatchcase(name, pattern) for pattern in self._trusted)
            return self._load(name, **({"local_files_only": True} if here_only else {}))
        except OpensnacError as error:
            trust = f", or have it downloaded with --trust {name}" if _is_hub_id(name) else ""
            raise ModelError(
                f"expected the model {header.model}, which was not found by that name; "
                f"give its folder or hub id with --model{trust} ({error})"
            ) from error

    def _load(self, wanted: str | Path | None, **options: Any) -> Any:
        with self._lock:
            if str(wanted) not in self._models:
                self._models[str(wanted)] = self._made(wanted, **options)
            return self._models[str(wanted)]

    def _made(self, wanted: str | Path | None, **options: Any) -> Engine | Codec:
        if self.runtime == "onnx":
            from opensnac import runtime

            return runtime.Codec.from_pretrained(wanted, threads=self._threads, **options)
        import torch

        from opensnac.engine.codec import SNAC

        model = SNAC.from_pretrained(wanted, **options)
        if self._rounds:
            from opensnac.streaming.arrays import ArrayCodec
            from opensnac.streaming.refining import RefiningEncoder

            model.to(self._device)
            return ArrayCodec(model, RefiningEncoder(model, self._rounds))
        return model.freeze(dtype=torch.bfloat16 if self._reduced else None, device=self._device)


def _is_hub_id(name: str) -> bool:
    """Whether a name can only be a hub id, not a local folder or path."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None and not Path(name).exists()


def check_device(device: str) -> None:
    """ConfigError for a device that is not available to PyTorch."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device: expected cpu, cuda or cuda:N, available here, got {device!r} ({reason})") from error


@contextmanager
def shared_cores(workers: int) -> Iterator[None]:
    """Divide the cores evenly among `workers` threads that run PyTorch models."""
    if sys.modules.get("torch") is None:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
