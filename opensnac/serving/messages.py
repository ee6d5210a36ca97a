"""What client and server say to each other over a WebSocket, as JSON; docs/serving.md tells it in words.

Every message is a model here: it is checked by it, and the server's AsyncAPI document is made of it.
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
    """A message that is none of those expected."""


class Message(BaseModel):
    """What all messages have in common: nothing but what is named, and of that type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Layout(Message):
    """A layout of tokens other than one range of the vocabulary a slot; fields as in TokenLayout."""

    slots: list[Count] = Field(default=[], max_length=64)
    ranges: Literal["slot", "scale"] = "slot"
    separator: Token | None = None
    text: str = Field(default="<custom_token_{}>", max_length=64, pattern=r"^[^{}]+\{\}[^{}]+$")
    first: Token = 10


class SavedReader(Message):
    """Where the reading of tokens stood, in a saved stream."""

    tokens: Count
    ignored: Count
    frames: Count
    concealed: Count
    place: Count
    row: list[Count | None] = Field(max_length=4096)
    last: list[Count] | None = Field(max_length=4096)


class StartDecoding(Message):
    """Begin a stream of tokens to sound; the first message, and the first again after `done` or `cancelled`."""

    type: Literal["start"]
    model: str | None = Field(
        default=None, max_length=200, description="A bundled or cached model; the server's own if null."
    )
    offset: Token = Field(default=0, description="The codec's first token in the vocabulary.")
    layout: Layout = Layout()
    repair: bool = Field(default=False, description="Conceal what a language model drops, doubles or gets wrong.")
    rate: Rate | None = Field(default=None, description="Of the sound, Hz; the model's own if null.")
    format: Literal["pcm16", "float32", "opus"] = Field(default="pcm16", description="Of binary messages with sound.")
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    noise: bool = True
    resume: SavedReader | None = Field(
        default=None, description="As `state` had it; that state follows as a binary message."
    )


class StartEncoding(Message):
    """Begin a stream of sound to codes."""

    type: Literal["start"]
    model: str | None = Field(
        default=None, max_length=200, description="A bundled or cached model; the server's own if null."
    )
    rate: Rate | None = Field(default=None, description="Of the sound that will come, Hz; the model's own if null.")
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
    """Tokens as a language model writes them, such as `<custom_token_10>`, cut anywhere; other words are left out."""

    type: Literal["text"]
    text: str


class Flush(Message):
    """Nothing more comes: give out the rest, then say `done`."""

    type: Literal["flush"]


class Cancel(Message):
    """Stop at once: what is unsaid stays so. The answer is `cancelled`."""

    type: Literal["cancel"]


class Save(Message):
    """Tell the state of the stream once everything before this is worked on; the answer is `state`."""

    type: Literal["save"]


class Ready(Message):
    """The stream is open."""

    type: Literal["ready"] = "ready"
    model: str
    rate: int = Field(description="Of the sound, Hz.")
    format: str
    look_ahead: float = Field(description="Seconds that sound comes after its codes, or codes after their sound.")
    group: float = Field(description="Seconds of sound that a step makes certain.")
    tokens_per_group: int
    strides: list[int]
    codebook_size: int


class Codes(Message):
    """Codes that have become certain, of each scale, coarse to fine."""

    type: Literal["codes"] = "codes"
    codes: list[list[int]]


class State(Message):
    """What `save` asked for; the state follows as a binary message of so many bytes."""

    type: Literal["state"] = "state"
    bytes: int
    samples: int = Field(description="That the server has sent, or taken, before.")
    reader: SavedReader | None = Field(
        default=None, description="For `resume`; go on with the tokens after its `tokens`."
    )


class Done(Message):
    """All is said. Another `start` may follow."""

    type: Literal["done"] = "done"
    samples: int
    frames: int = Field(description="Coarse frames.")
    tokens: int
    concealed: int = 0
    ignored: int = 0


class Cancelled(Message):
    """The stream has ended as asked. Another `start` may follow."""

    type: Literal["cancelled"] = "cancelled"


class Error(Message):
    """What went wrong; the server closes the connection after it."""

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
    """A message, or a bare list of tokens. MessageError, saying where it is wrong, for anything else."""
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
