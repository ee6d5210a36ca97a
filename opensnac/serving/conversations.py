"""A WebSocket connection: one stream after another, sending and receiving concurrently (messages.py)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from opensnac.errors import AudioError, CodesError, ConfigError, LimitError, ModelError, OpensnacError
from opensnac.serving import messages
from opensnac.serving.guard import PROTOCOL
from opensnac.serving.logs import event
from opensnac.serving.messages import MessageError, parsed
from opensnac.serving.service import Served, Service
from opensnac.serving.sound import SoundReader, SoundWriter
from opensnac.serving.stream import Stream
from opensnac.serving.text import TextReader
from opensnac.streaming.streams import State
from opensnac.streaming.tokens import TokenLayout, TokenReader

FAREWELL_SECONDS = 5.0  # to send the error
TOKENS_AT_ONCE = 64  # processed before yielding to the event loop
REFUSED, OVERLOADED, FAILED = 1008, 1013, 1011  # WebSocket close codes
CODES = {
    MessageError: "bad_message",
    ConfigError: "bad_message",
    CodesError: "bad_codes",
    AudioError: "bad_audio",
    ModelError: "no_model",
    LimitError: "limit",
}


class StateError(OpensnacError):
    """A saved state that does not fit."""


class Conversation(ABC):
    """Base of decoding and encoding. A subclass holds the state of one stream at a time."""

    kind: str
    takes: TypeAdapter[Any]

    def __init__(self, socket: WebSocket, service: Service) -> None:
        self._socket, self._service = socket, service
        self._sending = asyncio.Lock()
        self._stream: Stream[Any]
        self._served: Served

    async def run(self) -> None:
        """Accept the WebSocket and serve streams until either side closes it."""
        wanted = self._socket.scope.get("subprotocols", [])
        await self._socket.accept(PROTOCOL if PROTOCOL in wanted else None)
        try:
            while True:
                await self._serve(await self._first())
        except WebSocketDisconnect:
            return
        except (OpensnacError, Exception) as error:
            await self._refuse(error)

    async def _first(self) -> Any:
        """The message that begins a stream."""
        idle = self._service.settings.streams.idle
        try:
            async with asyncio.timeout(idle):
                message = await self._receive()
        except TimeoutError:
            raise LimitError(f"expected a message 'start' within {idle:g} s") from None
        if isinstance(message, bytes) or not hasattr(message, "type") or message.type != "start":
            raise MessageError("expected a message 'start' first")
        return message

    async def _receive(self) -> Any:
        """The next message: bytes, or a parsed JSON message."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1006))
        if message.get("bytes") is not None:
            return message["bytes"]
        return parsed(message["text"], self.takes)

    async def _serve(self, start: Any) -> None:
        """One stream, from its start to `done` or `cancelled`."""
        self._service.refuse_more()
        self._served = await self._service.model(start.model)
        began, outcome = time.monotonic(), "failed"
        self._service.serving_streams += 1
        try:
            await self._open(start)
            async with self._stream:
                outcome = await self._exchange()
        except WebSocketDisconnect:
            outcome = "gone"
            raise
        finally:
            facts = {"kind": self.kind, "model": self._served.engine.name, "end": outcome}
            event("stream", facts | {"seconds": round(time.monotonic() - began, 3)} | self._counts())
            self._service.serving_streams -= 1

    async def _exchange(self) -> str:
        """Receive and send until the stream is done or cancelled; returns which."""
        listening = asyncio.ensure_future(self._take_messages())
        speaking = asyncio.ensure_future(self._send_output())
        try:
            await asyncio.wait((listening, speaking), return_when=asyncio.FIRST_COMPLETED)
            if listening.done() and not listening.exception():
                outcome = "cancelled"
            else:
                await (speaking if speaking.done() else listening)  # raises its error
                outcome = "done"
        finally:
            for task in (listening, speaking):
                task.cancel()
            await asyncio.gather(listening, speaking, return_exceptions=True)
        await self._send(self._done() if outcome == "done" else messages.Cancelled())
        return outcome

    async def _take_messages(self) -> None:
        """Handle messages until one cancels the stream."""
        flushed = False
        while True:
            message = await self._receive()
            kind = getattr(message, "type", None)
            if kind == "cancel":
                return
            if kind == "start" or flushed:
                raise MessageError(
                    f"expected nothing but 'cancel' until 'done', got {kind or 'more'!r}"
                    if flushed
                    else "a stream has begun; expected 'flush' or 'cancel' before another 'start'"
                )
            if kind == "flush":
                flushed = True
                await self._flush()
            elif kind == "save":
                await self._save()
            else:
                await self._take(message)

    async def _send_output(self) -> None:
        began, first = time.monotonic(), True
        async for piece in self._stream:
            if first:
                self._service.metrics.first.labels(self.kind).observe(time.monotonic() - began)
                first = False
            async with self._sending:
                await self._send_piece(piece)
        await self._send_rest()

    async def _save(self) -> None:
        if not self._savable():
            raise StateError(
                "expected the model's rate and no Opus: the state of resamplers and Opus encoders cannot be saved"
            )
        state = (await self._stream.save()).to_bytes()
        async with self._sending:  # after the output before it
            await self._send(self._saved(len(state)))
            await self._socket.send_bytes(state)

    async def _resumed(self) -> State:
        """The state that follows a `start` with `resume`."""
        message = await self._receive()
        if not isinstance(message, bytes):
            raise MessageError("expected the state of a stream as a binary message")
        return State.from_bytes(message)

    async def _send(self, message: messages.Message) -> None:
        await self._socket.send_text(message.model_dump_json())

    async def _refuse(self, error: Exception) -> None:
        """Send the error, if the client still listens, and close."""
        known = isinstance(error, OpensnacError)
        code = next((name for kind, name in CODES.items() if isinstance(error, kind)), "bad_state")
        if not known:
            event("error", {"kind": self.kind}, logging.ERROR, exc_info=True)
        problem = messages.Error(
            code=code if known else "internal", message=str(error) if known else "see the server's log"
        )
        status = (OVERLOADED if isinstance(error, LimitError) else REFUSED) if known else FAILED
        if self._socket.client_state is WebSocketState.CONNECTED:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):  # the client may be gone
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await self._send(problem)
                await self._socket.close(status)

    def _ready(self, rate: int, kind: str, look_ahead: float, layout: TokenLayout) -> Awaitable[None]:
        config, group = self._served.engine.config, self._served.decoders.group_seconds
        return self._send(
            messages.Ready(
                model=self._served.engine.name,
                rate=rate,
                format=kind,
                look_ahead=look_ahead,
                group=group,
                tokens_per_group=layout.tokens_per_frame * config.frame_multiple // config.coarse_stride,
                strides=list(config.vq_strides),
                codebook_size=config.codebook_size,
            )
        )

    def _layout(self, start: Any) -> TokenLayout:
        options = start.layout.model_dump() | {"slots": tuple(start.layout.slots)}
        return TokenLayout.of(self._served.engine.config, start.offset, **options)

    @abstractmethod
    async def _open(self, start: Any) -> None:
        """Open the stream and send `ready`."""

    @abstractmethod
    async def _take(self, message: Any) -> None:
        """Push the input in a message."""

    @abstractmethod
    async def _flush(self) -> None:
        """Push the rest and end the input."""

    @abstractmethod
    async def _send_piece(self, piece: Any) -> None:
        """Send a piece of output."""

    @abstractmethod
    async def _send_rest(self) -> None:
        """Send what remains after the last piece."""

    @abstractmethod
    def _savable(self) -> bool: ...

    @abstractmethod
    def _saved(self, size: int) -> messages.State: ...

    @abstractmethod
    def _done(self) -> messages.Done: ...

    def _counts(self) -> dict[str, int]:
        done = self._done().model_dump() if hasattr(self, "_stream") else {}
        return {name: value for name, value in done.items() if name != "type"}


class Decoding(Conversation):
    """Tokens in, sound out."""

    kind, takes = "decode", messages.DECODING

    async def _open(self, start: messages.StartDecoding) -> None:
        config, pool = self._served.engine.config, self._served.decoders
        rate = start.rate or config.sampling_rate
        layout, group = self._layout(start), config.frame_multiple // config.coarse_stride
        self._reader = TokenReader(layout, repair=start.repair, group=group)
        self._text, self._writer = TextReader(layout), SoundWriter(config.sampling_rate, rate, start.format)
        self._own = rate == config.sampling_rate and start.format != "opus"
        if start.resume is None:
            self._stream = pool.open(seed=start.seed, noise=start.noise)
        else:
            self._reader.resume(start.resume.model_dump())
            self._stream = pool.open(state=await self._resumed())
        await self._ready(rate, start.format, pool.look_ahead_seconds, layout)

    async def _take(self, message: Any) -> None:
        if isinstance(message, bytes):
            if len(message) % 4:
                raise MessageError(f"expected tokens of 4 bytes, got {len(message)} bytes")
            tokens = np.frombuffer(message, "<i4").tolist()
        elif isinstance(message, list):
            tokens = message
        else:
            tokens = message.tokens if message.type == "tokens" else self._text.push(message.text)
        for start in range(0, len(tokens), TOKENS_AT_ONCE):
            rows = [row for token in tokens[start : start + TOKENS_AT_ONCE] for row in self._reader.push(token)]
            await self._push(rows)
            await asyncio.sleep(0)

    async def _push(self, rows: list[list[int]]) -> None:
        if rows:
            codes = self._reader.layout.frame_codes(rows, self._served.engine.device)
            await self._stream.push(codes, check=False)  # the reader passes only valid codes

    async def _flush(self) -> None:
        rows = self._reader.finish()
        await self._push(rows)
        samples = self._reader.frames * self._served.engine.config.coarse_stride * self._served.engine.hop_length
        if not rows and self._reader.frames == self._reader.concealed:
            raise CodesError("expected at least one whole coarse frame of tokens, got none")
        await self._stream.finish(samples)

    async def _send_piece(self, piece: torch.Tensor) -> None:
        for message in self._writer.push(piece.cpu().numpy()):
            await self._socket.send_bytes(message)

    async def _send_rest(self) -> None:
        for message in self._writer.finish():
            await self._socket.send_bytes(message)

    def _savable(self) -> bool:
        return self._own

    def _saved(self, size: int) -> messages.State:
        reader = messages.SavedReader(**self._reader.save())
        return messages.State(bytes=size, samples=self._writer.samples, reader=reader)

    def _done(self) -> messages.Done:
        reader = self._reader
        return messages.Done(
            samples=self._writer.samples,
            frames=reader.frames,
            tokens=reader.tokens,
            concealed=reader.concealed,
            ignored=reader.ignored,
        )


class Encoding(Conversation):
    """Sound in, codes or tokens out."""

    kind, takes = "encode", messages.ENCODING

    async def _open(self, start: messages.StartEncoding) -> None:
        config, pool = self._served.engine.config, self._served.encoders
        rate = start.rate or config.sampling_rate
        self._layout_of_tokens, self._output = self._layout(start), start.output
        self._sound, self._own = SoundReader(rate, config.sampling_rate, start.format), rate == config.sampling_rate
        self._frames = self._tokens = 0
        self._stream = pool.open(state=await self._resumed() if start.resume else None)
        await self._ready(rate, start.format, pool.look_ahead_seconds, self._layout_of_tokens)

    async def _take(self, message: Any) -> None:
        if not isinstance(message, bytes):
            raise MessageError("expected sound as a binary message")
        await self._push(self._sound.push(message))

    async def _push(self, samples: np.ndarray) -> None:
        if samples.size:
            await self._stream.push(torch.from_numpy(samples).to(self._served.engine.device))

    async def _flush(self) -> None:
        await self._push(self._sound.finish())
        await self._stream.finish()

    async def _send_piece(self, piece: list[torch.Tensor]) -> None:
        self._frames += len(piece[0])
        if self._output == "codes":
            await self._send(messages.Codes(codes=[code.tolist() for code in piece]))
            return
        tokens = self._layout_of_tokens.flatten([code[None] for code in piece])[0].tolist()
        self._tokens += len(tokens)
        if self._output == "tokens":
            await self._send(messages.Tokens(type="tokens", tokens=tokens))
        elif self._output == "text":
            await self._send(messages.Text(type="text", text=self._layout_of_tokens.to_text(tokens)))
        else:
            await self._socket.send_bytes(np.array(tokens, "<i4").tobytes())

    async def _send_rest(self) -> None:
        """Codes have no remainder."""

    def _savable(self) -> bool:
        return self._own

    def _saved(self, size: int) -> messages.State:
        return messages.State(bytes=size, samples=self._sound.samples)

    def _done(self) -> messages.Done:
        return messages.Done(samples=self._sound.samples, frames=self._frames, tokens=self._tokens)
