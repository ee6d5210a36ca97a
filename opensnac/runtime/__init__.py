"""The codec without PyTorch: NumPy arrays in and out, ONNX graphs in between."""

from opensnac.runtime.codec import Codec
from opensnac.runtime.streams import StreamDecoder, StreamEncoder

__all__ = ["Codec", "StreamDecoder", "StreamEncoder"]
