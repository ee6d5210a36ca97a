"""opensnac: a multi-scale neural audio codec, its training, its file format and its command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opensnac.config import CodecConfig
    from opensnac.engine.codec import SNAC
    from opensnac.engine.engine import Engine

__all__ = ["SNAC", "CodecConfig", "Engine", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load on first use, so that `import opensnac` and the command line's help stay quick."""
    if name == "SNAC":
        from opensnac.engine.codec import SNAC

        return SNAC
    if name == "Engine":
        from opensnac.engine.engine import Engine

        return Engine
    if name == "CodecConfig":
        from opensnac.config import CodecConfig

        return CodecConfig
    raise AttributeError(f"module 'opensnac' has no attribute {name!r}")
