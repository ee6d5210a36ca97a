"""Export to ONNX: graphs built node by node from a model's weights. Needs onnx, not PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opensnac.export.folder import export
    from opensnac.export.weights import Weights

__all__ = ["Weights", "export"]


def __getattr__(name: str) -> Any:
    """Load on first use: running an exported folder needs its file names, not onnx."""
    if name == "Weights":
        from opensnac.export.weights import Weights

        return Weights
    if name == "export":
        from opensnac.export.folder import export

        return export
    raise AttributeError(f"module 'opensnac.export' has no attribute {name!r}")
