"""Snake and depthwise convolution."""

from opensnac.kernels import depthwise, snake

__all__ = ["depthwise", "snake"]
