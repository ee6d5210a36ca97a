"""Streaming encoder and decoder; tokens of language models and their layouts."""

from opensnac.streaming.streams import State, StreamDecoder, StreamEncoder

__all__ = ["State", "StreamDecoder", "StreamEncoder"]
