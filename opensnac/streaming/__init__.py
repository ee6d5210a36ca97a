"""Streaming encoder and decoder; tokens of language models and their layouts."""

from opensnac.streaming.refining import RefiningEncoder
from opensnac.streaming.streams import State, StreamDecoder, StreamEncoder

__all__ = ["RefiningEncoder", "State", "StreamDecoder", "StreamEncoder"]
