"""Alias of `opensnac.streaming.tokens`, under the name it was first published with."""

from opensnac.streaming.tokens import RowLayout, TokenLayout, TokenStream

__all__ = ["RowLayout", "TokenLayout", "TokenStream"]
