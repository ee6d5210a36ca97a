"""A client of `opensnac serve`, for threads and for asyncio; it needs no torch.

    with Client("http://127.0.0.1:8000", token=...) as client:
        coded = client.encode(Path("protocol.wav").read_bytes())  # a .snac file
        with client.decoding(offset=128266) as stream:
            stream.push(tokens)
            stream.finish()
            for sound in stream:  # float32 or int16 samples (n,), or bytes of Opus
                play(sound)

`AsyncClient` is the same with `await` and `async`. Read a stream while pushing to it: the server stops
reading from a client that does not take its output.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection as SyncConnection
from websockets.sync.client import connect as connect_sync

from opensnac.errors import OpensnacError

TYPES: dict[str, np.dtype[Any]] = {"pcm16": np.dtype("<i2"), "float32": np.dtype("<f4")}
# A ping queues behind all data sent before it, so its answer has no deadline.
SOCKET: dict[str, Any] = {"compression": None, "max_size": 1 << 26, "proxy": None, "ping_timeout": None}
TIMEOUT = 60.0  # seconds without data over HTTP

Piece = np.ndarray | bytes | list[Any] | str  # sound; or codes, tokens or their text
Saved = tuple[dict[str, Any], bytes]  # a stream's state: the message `state` and the bytes that followed it


class ServerError(OpensnacError):
    """A refused request or a lost connection; docs/serving.md lists the values of `code`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code


class Protocol:
    """The protocol of a stream, without the transport.

    `ready` and `done` are the server's messages of these names; `early` holds output that was received but not read.
    """

    def __init__(self, kind: str, options: dict[str, Any], saved: Saved | None) -> None:
        self.kind = kind
        self.ready: dict[str, Any] = {}
        self.done: dict[str, Any] | None = None
        self.saved: Saved | None = None
        self.early: deque[Piece] = deque()
        self._state: dict[str, Any] | None = None  # announced; its bytes follow
        start = {"type": "start"} | options
        if saved is not None:
            start["resume"] = saved[0]["reader"] if kind == "decode" else True
        self.first: list[str | bytes] = [json.dumps(start), *([] if saved is None else [saved[1]])]
        self._type = TYPES.get(options.get("format", "pcm16"))

    def message(self, what: Any) -> str | bytes:
        """The message that carries tokens, their text, or samples."""
        if self.kind == "decode":
            return json.dumps({"type": "text", "text": what} if isinstance(what, str) else [int(one) for one in what])
        samples = np.asarray(what)
        if self._type == TYPES["pcm16"] and samples.dtype.kind == "f":
            samples = np.clip((samples * np.float32(32768)).round(), -32768, 32767)
        return samples.astype(self._type).tobytes()

    def receive(self, message: str | bytes) -> None:
        """Process a message. Raises ServerError for an error message."""
        piece = self._output_of(message)
        if piece is not None:
            self.early.append(piece)

    def _output_of(self, message: str | bytes) -> Piece | None:
        """The output in a message, None for one about the stream."""
        if isinstance(message, bytes):
            if self._state is not None:
                self.saved, self._state = (self._state, message), None
                return None
            if self.kind == "encode":
                return np.frombuffer(message, "<i4")
            return message if self._type is None else np.frombuffer(message, self._type)
        said = json.loads(message)
        kind = said["type"]
        if kind == "error":
            raise ServerError(said["code"], said["message"])
        if kind == "ready":
            self.ready = said
        elif kind == "state":
            self._state = said
        elif kind in ("done", "cancelled"):
            self.done = said
        else:
            return said[kind]
        return None


@dataclass(frozen=True)
class _Address:
    """Where a server is, and its token."""

    url: str
    token: str | None

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    @property
    def http(self) -> dict[str, Any]:
        """Options of httpx's clients; certificates, which take 30 ms to load, only where they are checked."""
        secure = self.url.startswith("https:")
        return {"base_url": self.url, "headers": self.headers, "timeout": TIMEOUT, "verify": secure}

    def socket(self, kind: str) -> str:
        """The address of a WebSocket."""
        return self.url.rstrip("/").replace("http", "ws", 1) + f"/v1/{kind}"


class _StreamFacts:
    """The server's messages about a stream."""

    _protocol: Protocol

    @property
    def ready(self) -> dict[str, Any]:
        """The server's message at the start of the stream."""
        return self._protocol.ready

    @property
    def done(self) -> dict[str, Any] | None:
        """The server's message at its end."""
        return self._protocol.done


class Stream(_StreamFacts):
    """A stream over a WebSocket, for threads: push input, iterate over output; `done` has the counts at the end."""

    def __init__(self, connection: SyncConnection, protocol: Protocol) -> None:
        self._connection, self._protocol = connection, protocol
        for message in protocol.first:
            connection.send(message)
        while not protocol.ready:
            self._receive()

    def push(self, what: Any) -> None:
        """Tokens or their text, or samples: float32 within ±1, or int16."""
        self._connection.send(self._protocol.message(what))

    def finish(self) -> None:
        """End the input."""
        self._connection.send('{"type": "flush"}')

    def cancel(self) -> None:
        """Stop immediately; drops output in transit."""
        self._connection.send('{"type": "cancel"}')
        for _ in self:
            pass

    def save(self) -> Saved:
        """The stream's state; pass it to `decoding` or `encoding` as `saved` to continue."""
        self._connection.send('{"type": "save"}')
        self._protocol.saved = None
        while self._protocol.saved is None:
            self._receive()
        return self._protocol.saved

    def __iter__(self) -> Iterator[Piece]:
        while self._protocol.early or self._protocol.done is None:
            if self._protocol.early:
                yield self._protocol.early.popleft()
            else:
                self._receive()

    def _receive(self) -> None:
        try:
            self._protocol.receive(self._connection.recv())
        except ConnectionClosed as error:
            raise _cut(error) from error


class AsyncStream(_StreamFacts):
    """The same for asyncio."""

    def __init__(self, connection: ClientConnection, protocol: Protocol) -> None:
        self._connection, self._protocol = connection, protocol

    async def begin(self) -> None:
        """Start the stream and wait until it is open."""
        for message in self._protocol.first:
            await self._connection.send(message)
        while not self._protocol.ready:
            await self._receive()

    async def push(self, what: Any) -> None:
        """As Stream.push."""
        await self._connection.send(self._protocol.message(what))

    async def finish(self) -> None:
        """End the input."""
        await self._connection.send('{"type": "flush"}')

    async def cancel(self) -> None:
        """Stop immediately; drops output in transit."""
        await self._connection.send('{"type": "cancel"}')
        async for _ in self:
            pass

    async def save(self) -> Saved:
        """As Stream.save; not while another task iterates."""
        await self._connection.send('{"type": "save"}')
        self._protocol.saved = None
        while self._protocol.saved is None:
            await self._receive()
        return self._protocol.saved

    async def __aiter__(self) -> AsyncIterator[Piece]:
        while self._protocol.early or self._protocol.done is None:
            if self._protocol.early:
                yield self._protocol.early.popleft()
            else:
                await self._receive()

    async def _receive(self) -> None:
        try:
            self._protocol.receive(await self._connection.recv())
        except ConnectionClosed as error:
            raise _cut(error) from error


class Client:
    """A server, for threads; `with` closes it. `options` of streams are the fields of `start`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._address = _Address(url, token)
        self._http = httpx.Client(**self._address.http)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def encode(self, recording: bytes, **options: Any) -> bytes:
        """A recording's .snac file; `options` are the query's: model, format, mono, raw, offset."""
        return _content(self._http.post("/v1/encode", content=recording, params=options))

    def decode(self, coded: bytes, form: str = "snac", **options: Any) -> bytes:
        """A .snac file's sound as WAV, or that of codes in another `form` that `encode` gives.

        `options` are the query's: format, rate, seed; model and offset of tokens.
        """
        return _content(self._http.post("/v1/decode", content=coded, params={"from": form} | options))

    @contextmanager
    def decoding(self, *, saved: Saved | None = None, **options: Any) -> Iterator[Stream]:
        """A stream of tokens to sound."""
        with self._stream(Protocol("decode", options, saved)) as stream:
            yield stream

    @contextmanager
    def encoding(self, *, saved: Saved | None = None, **options: Any) -> Iterator[Stream]:
        """A stream of sound to codes, or to tokens by output="tokens", "text" or "int32"."""
        with self._stream(Protocol("encode", options, saved)) as stream:
            yield stream

    @contextmanager
    def _stream(self, protocol: Protocol) -> Iterator[Stream]:
        try:
            connection = connect_sync(
                self._address.socket(protocol.kind), additional_headers=self._address.headers, **SOCKET
            )
        except InvalidStatus as error:
            raise _refused(error.response.status_code, error.response.body) from error
        with connection:
            yield Stream(connection, protocol)


class AsyncClient:
    """The same for asyncio."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._address = _Address(url, token)
        self._http = httpx.AsyncClient(**self._address.http)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def encode(self, recording: bytes, **options: Any) -> bytes:
        """As Client.encode."""
        return _content(await self._http.post("/v1/encode", content=recording, params=options))

    async def decode(self, coded: bytes, form: str = "snac", **options: Any) -> bytes:
        """As Client.decode."""
        return _content(await self._http.post("/v1/decode", content=coded, params={"from": form} | options))

    @asynccontextmanager
    async def decoding(self, *, saved: Saved | None = None, **options: Any) -> AsyncIterator[AsyncStream]:
        """A stream of tokens to sound."""
        async with self._stream(Protocol("decode", options, saved)) as stream:
            yield stream

    @asynccontextmanager
    async def encoding(self, *, saved: Saved | None = None, **options: Any) -> AsyncIterator[AsyncStream]:
        """A stream of sound to codes, or to tokens by output="tokens", "text" or "int32"."""
        async with self._stream(Protocol("encode", options, saved)) as stream:
            yield stream

    @asynccontextmanager
    async def _stream(self, protocol: Protocol) -> AsyncIterator[AsyncStream]:
        try:
            connection = await connect_async(
                self._address.socket(protocol.kind), additional_headers=self._address.headers, **SOCKET
            )
        except InvalidStatus as error:
            raise _refused(error.response.status_code, error.response.body) from error
        async with connection:
            stream = AsyncStream(connection, protocol)
            await stream.begin()
            yield stream


def _cut(error: ConnectionClosed) -> ServerError:
    return ServerError("closed", f"the connection was lost before the stream ended: {error}")


def _content(response: httpx.Response) -> bytes:
    if response.is_success:
        return response.content
    raise _refused(response.status_code, response.content)


def _refused(status: int, body: bytes | bytearray | None) -> ServerError:
    try:
        said = json.loads(body or b"")
        return ServerError(said["code"], said["message"])
    except (ValueError, KeyError, TypeError):
        return ServerError(str(status), "the server refused the request")
