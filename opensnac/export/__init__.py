"""The codec in ONNX: graphs written node by node from a model's weights. Needs onnx, not PyTorch."""

from opensnac.export.folder import export
from opensnac.export.weights import Weights

__all__ = ["Weights", "export"]
