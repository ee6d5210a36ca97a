"""The name that `opensnac.streaming.tokens` was first published under."""

from opensnac.streaming.tokens import TokenLayout, TokenStream

__all__ = ["TokenLayout", "TokenStream"]
