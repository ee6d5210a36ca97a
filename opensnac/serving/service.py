"""The served models, each with its pools, and whether new work is accepted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

from opensnac.bitstream import Header, Limits
from opensnac.engine.engine import Engine
from opensnac.errors import LimitError, ModelError
from opensnac.models import SHORT_NAMES, bundled_models, cached_models
from opensnac.recordings.model_cache import ModelCache
from opensnac.serving.metrics import Metrics
from opensnac.serving.pool import PoolLimits
from opensnac.serving.pools import DecoderPool, EncoderPool


@dataclass(frozen=True)
class Settings:
    """Settings of `opensnac serve`. Without `tokens` there is no authentication."""

    model: str | None = None
    device: str = "cpu"
    reduced: bool = False  # products in bfloat16
    streams: PoolLimits = field(default_factory=PoolLimits)
    files: Limits = field(default_factory=Limits)
    requests: int = 4  # recordings that are coded in parallel
    message_bytes: int = 1 << 22  # of a WebSocket message; a saved state is one
    gather: float = 0.004
    tokens: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()  # of other pages that may use the server
    hosts: tuple[str, ...] = ("*",)  # accepted Host headers


@dataclass
class Served:
    """A model and its pools."""

    engine: Engine
    decoders: DecoderPool
    encoders: EncoderPool


class Models(ModelCache):
    """Models by name. A `.snac` file may name any served model, whatever its name."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        super().__init__(reduced=settings.reduced, device=settings.device, runtime="torch")
        self._service = service

    def for_header(self, header: Header) -> Any:
        """As in ModelCache, which takes bundled and cached models only."""
        for served in [*self._service.served.values()]:
            if served.engine.fingerprint.startswith(header.weights_hash):
                return served.engine
        return super().for_header(header)

    def named(self, name: str | None) -> Engine:
        """A served, bundled or cached model; the server's own for None. Raises ModelError for other names.

        Clients cannot make the server download a model or open a folder.
        """
        own = self._service.settings.model
        name = SHORT_NAMES.get(name or "", name)
        served = self._service.serving(name)
        if served is not None:
            return served.engine
        if name not in (None, own, *bundled_models()) and name not in cached_models():
            raise ModelError(
                f"model: expected one of {', '.join(bundled_models())} or a cached model, got {(name or '')[:80]!r}"
            )
        return cast(Engine, self.get(name or own))


@dataclass
class Service:
    """Loads models on demand; use `async with`. `ready` once the server's own model is loaded."""

    settings: Settings
    ready: bool = False
    draining: bool = False
    serving_streams: int = 0  # whose last message may not have been sent yet
    served: dict[str, Served] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.models = Models(self)
        self.metrics = Metrics(self)

    async def __aenter__(self) -> Service:
        await self.model(None)
        self.ready = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.ready = False
        for served in self.served.values():
            await served.decoders.close()
            await served.encoders.close()

    @property
    def open_streams(self) -> int:
        """Open streams of all models."""
        return sum(served.decoders.open_streams + served.encoders.open_streams for served in self.served.values())

    def serving(self, name: str | None) -> Served | None:
        """The model of that name if it is loaded; the server's own for None."""
        if name is None:
            return self.served.get(self.settings.model or "")
        named = (served for key, served in [*self.served.items()] if name in (key, served.engine.name))
        return next(named, None)

    async def model(self, name: str | None) -> Served:
        """A model and its pools; names and errors as in Models.named."""
        name = SHORT_NAMES.get(name or "", name)
        if (served := self.serving(name)) is not None:
            return served
        engine = await asyncio.to_thread(self.models.named, name)
        key = name or self.settings.model or ""
        if key not in self.served:  # another task may have loaded it in the meantime
            options: dict[str, Any] = {"gather": self.settings.gather}
            decoders = DecoderPool(engine, self.settings.streams, watch=self.metrics.ticked("decode"), **options)
            encoders = EncoderPool(engine, self.settings.streams, watch=self.metrics.ticked("encode"), **options)
            self.served[key] = Served(engine, decoders, encoders)
        return self.served[key]

    def refuse_more(self) -> None:
        """Raise LimitError if no further stream may be opened, of any model."""
        if self.open_streams >= self.settings.streams.streams:
            raise LimitError(
                f"expected at most {self.settings.streams.streams} open streams; try again when one has ended"
            )
