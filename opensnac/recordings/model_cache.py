"""Models by name, for whoever codes files; where PyTorch or ONNX Runtime run them."""

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
    """Models by name, each loaded once, whichever thread asks for it first. `only` stands for every name.

    `runtime` is "torch" or "onnx"; PyTorch where it is installed if None. With PyTorch `reduced` lets them multiply in
    bfloat16. `trusted` names hub models that streams may have downloaded, OWNER/* all of an owner's. `workers` threads
    share the cores. ConfigError for a device that is not there, BackendError for what a runtime cannot do.
    """

    def __init__(
        self,
        only: str | Path | None = None,
        reduced: bool = False,
        device: str = "cpu",
        trusted: Sequence[str] = (),
        runtime: str | None = None,
        workers: int = 1,
    ) -> None:
        self.runtime = runtime or ("torch" if find_spec("torch") else "onnx")
        if self.runtime not in RUNTIMES:
            raise BackendError(f"the runtime is {runtime!r}, expected {' or '.join(RUNTIMES)}")
        if self.runtime == "torch":
            check_device(device)
        elif reduced or device != "cpu":
            what = "products in bfloat16" if reduced else f"device {device!r}"
            raise BackendError(f"ONNX Runtime computes in float32 on cpu here; {what} needs the runtime torch")
        self._only, self._reduced, self._device, self._trusted = only, reduced, device, tuple(trusted)
        self._threads = max(1, (os.cpu_count() or 1) // workers)
        self._models: dict[str, Engine | Codec] = {}
        self._lock = threading.Lock()

    def get(self, name: str | None = None) -> Any:
        """The model called `name`, the default one for None, made quick to run. ModelError if none is."""
        return self._load(name if self._only is None else self._only)

    def for_header(self, header: Header) -> Engine | Codec:
        """The model that a stream names, if it is bundled, cached or trusted: whoever wrote the stream chose the name.

        ModelError says how to give it where it is none of these.
        """
        if self._only is not None:
            return self.get()
        name = header.model_name
        try:
            if name in bundled_models():
                return self._load(name)
            if not _is_hub_id(name):
                raise ModelError("only bundled models and those of the hub are looked for by a file's name for them")
            here_only = not any(fnmatchcase(name, pattern) for pattern in self._trusted)
            return self._load(name, **({"local_files_only": True} if here_only else {}))
        except OpensnacError as error:
            trust = f", or have it downloaded with --trust {name}" if _is_hub_id(name) else ""
            raise ModelError(
                f"needs the model {header.model}, which was not found by that name; "
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
        return model.freeze(dtype=torch.bfloat16 if self._reduced else None, device=self._device)


def _is_hub_id(name: str) -> bool:
    """Whether a name can only mean a repository of the hub: no folder here, nor a path to one."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None and not Path(name).exists()


def check_device(device: str) -> None:
    """ConfigError for a device that PyTorch does not have here."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {device!r} cannot be used here ({reason}); expected cpu, cuda or cuda:N") from error


@contextmanager
def shared_cores(workers: int) -> Iterator[None]:
    """Let `workers` threads that run a model on PyTorch share the processor's cores evenly."""
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
