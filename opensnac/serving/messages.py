"""The JSON messages of the WebSockets; docs/serving.md describes them.

Each message is a pydantic model, used for validation and for the AsyncAPI document.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from opensnac.errors import OpensnacError

MOST_TOKENS = 1 << 16  # in one message
Rate = Annotated[int, Field(ge=8_000, le=48_000)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Token = Annotated[int, Field(ge=-(2**31), lt=2**31)]


class MessageError(OpensnacError):
    """An invalid message."""


class Message(BaseModel):
    """Base of all messages: unknown fields and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Layout(Message):
    """A layout of tokens other than one vocabulary range per slot; fields as in TokenLayout."""

    slots: list[Count] = Field(default=[], max_length=64)
    ranges: Literal["slot", "scale"] = "slot"
    separator: Token | None = None
    text: str = Field(default="<custom_token_{}>", max_length=64, pattern=r"^[^{}]+\{\}[^{}]+$")
    first: Token = 10


class SavedReader(Message):
    """The token reader's state in a saved stream."""

    tokens: Count
    ignored: Count
    frames: Count
    concealed: Count
    place: Count
    row: list[Count | None] = Field(max_length=4096)
    last: list[Count] | None = Field(max_length=4096)


class StartDecoding(Message):
    """Start a stream of tokens to sound; the first message, and the first after `done` or `cancelled`."""

    type: Literal["start"]
    model: str | None = Field(
        default=None, max_length=200, description="A bundled or cached model; the server's own if null."
    )
    offset: Token = Field(default=0, description="The codec's first token in the vocabulary.")
    layout: Layout = Layout()
    repair: bool = Field(default=False, description="Conceal dropped, doubled or wrong tokens.")
    rate: Rate | None = Field(default=None, description="Of the sound, Hz; the model's own if null.")
    format: Literal["pcm16", "float32", "opus"] = Field(default="pcm16", description="Of binary messages with sound.")
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    noise: bool = True
    resume: SavedReader | None = Field(
        default=None, description="`reader` of the message `state`; the state itself follows as a binary message."
    )


class StartEncoding(Message):
    """Start a stream of sound to codes."""

    type: Literal["start"]
    model: str | None = Field(
        default=None, max_length=200, description="A bundled or cached model; the server's own if null."
    )
    rate: Rate | None = Field(default=None, description="Of the input, Hz; the model's own if null.")
    format: Literal["pcm16", "float32"] = Field(default="pcm16", description="Of binary messages with sound.")
    output: Literal["codes", "tokens", "text", "int32"] = "codes"
    offset: Token = 0
    layout: Layout = Layout()
    resume: bool = Field(default=False, description="A state follows as a binary message.")


class Tokens(Message):
    """Tokens; a bare JSON array means the same, and so does a binary message of little-endian int32."""

    type: Literal["tokens"]
    tokens: list[Token] = Field(max_length=MOST_TOKENS)


class Text(Message):
    """Tokens as a language model writes them, such as `<custom_token_10>`, cut anywhere; other text is skipped."""

    type: Literal["text"]
    text: str


class Flush(Message):
    """End of input: send the rest, then `done`."""

    type: Literal["flush"]


class Cancel(Message):
    """Stop immediately and drop unsent output. The answer is `cancelled`."""

    type: Literal["cancel"]


class Save(Message):
    """Send the stream's state once everything before this message is processed; the answer is `state`."""

    type: Literal["save"]


class Ready(Message):
    """The stream is open."""

    type: Literal["ready"] = "ready"
    model: str
    rate: int = Field(description="Of the sound, Hz.")
    format: str
    look_ahead: float = Field(description="Delay of the output after its input, in seconds.")
    group: float = Field(description="Seconds of sound per step.")
    tokens_per_group: int
    strides: list[int]
    codebook_size: int


class Codes(Message):
    """New codes per scale, coarse to fine."""

    type: Literal["codes"] = "codes"
    codes: list[list[int]]


class State(Message):
    """Answer to `save`; the state follows as a binary message of `bytes` bytes."""

    type: Literal["state"] = "state"
    bytes: int
    samples: int = Field(description="Sent (decoder) or received (encoder) by the server so far.")
    reader: SavedReader | None = Field(
        default=None, description="For `resume`; continue with the tokens after the first `tokens` ones."
    )


class Done(Message):
    """The stream is complete. Another `start` may follow."""

    type: Literal["done"] = "done"
    samples: int
    frames: int = Field(description="Coarse frames.")
    tokens: int
    concealed: int = 0
    ignored: int = 0


class Cancelled(Message):
    """The stream was cancelled. Another `start` may follow."""

    type: Literal["cancelled"] = "cancelled"


class Error(Message):
    """An error; the server closes the connection after it."""

    type: Literal["error"] = "error"
    code: str = Field(description="bad_message, bad_codes, bad_audio, bad_state, no_model, limit or internal.")
    message: str


FromDecoding = Annotated[StartDecoding | Tokens | Text | Flush | Cancel | Save, Field(discriminator="type")]
FromEncoding = Annotated[StartEncoding | Flush | Cancel | Save, Field(discriminator="type")]
TO_DECODING: tuple[type[Message], ...] = (Ready, State, Done, Cancelled, Error)
TO_ENCODING: tuple[type[Message], ...] = (Ready, Codes, Tokens, Text, State, Done, Cancelled, Error)
DECODING: TypeAdapter[Any] = TypeAdapter(FromDecoding | Annotated[list[Token], Field(max_length=MOST_TOKENS)])
ENCODING: TypeAdapter[Any] = TypeAdapter(FromEncoding)


def parsed(text: str | bytes, kind: TypeAdapter[Any]) -> Any:
    """A message or a bare list of tokens. Raises MessageError, which names the wrong field."""
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"] if not str(part).endswith("]"))
        raise MessageError(f"{where or 'message'}: {first['msg']}") from error


def asyncapi(version: str) -> dict[str, Any]:
    """The AsyncAPI 3 document of the two WebSockets."""
    binary = {
        "sound": {"payload": {"type": "string", "format": "binary"}, "summary": "Sound in the format of `start`."},
        "int32": {"payload": {"type": "string", "format": "binary"}, "summary": "Tokens, little-endian int32."},
        "saved": {"payload": {"type": "string", "format": "binary"}, "summary": "A stream's state: safetensors."},
    }
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for name, said, heard in (
        ("decode", (StartDecoding, Tokens, Text, Flush, Cancel, Save), TO_DECODING),
        ("encode", (StartEncoding, Flush, Cancel, Save), TO_ENCODING),
    ):
        messages = {kind.__name__: kind for kind in (*said, *heard)}
        for kind in messages.values():
            schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {})
            schemas[kind.__name__] = schema
        described = {
            kind: {"payload": {"$ref": f"#/components/schemas/{kind}"}, "summary": messages[kind].__doc__}
            for kind in messages
        }
        channels[name] = {"address": f"/v1/{name}", "messages": described | binary}
        sound, tokens = ("receive", "send") if name == "encode" else ("send", "receive")
        for action, kinds in (("receive", said), ("send", heard)):
            extra = ["saved", *(["sound"] if sound == action else []), *(["int32"] if tokens == action else [])]
            refs = [f"#/channels/{name}/messages/{kind}" for kind in (*(k.__name__ for k in kinds), *extra)]
            operations[f"{name}.{action}"] = {
                "action": action,
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": [{"$ref": ref} for ref in refs],
            }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "opensnac", "version": version},
        "channels": channels,
        "operations": operations,
        "components": {"schemas": schemas},
    }
