"""Many live streams from one process: pools for asyncio, a server over HTTP and WebSocket, its client and its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opensnac.serving.pool import PoolLimits
    from opensnac.serving.pools import DecoderPool, EncoderPool

__all__ = ["DecoderPool", "EncoderPool", "PoolLimits"]


def __getattr__(name: str) -> Any:
    """Load on first use: the client needs no torch."""
    if name in __all__:
        from opensnac.serving import pools

        return getattr(pools, name)
    raise AttributeError(f"module 'opensnac.serving' has no attribute {name!r}")
