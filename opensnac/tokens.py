"""The name that `opensnac.streaming.tokens` was first published under."""

from opensnac.streaming.tokens import RowLayout, TokenLayout, TokenStream

__all__ = ["RowLayout", "TokenLayout", "TokenStream"]
