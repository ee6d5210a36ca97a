"""Access control: host names, origins, bearer tokens, and no new work while the server drains."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from opensnac.errors import OpensnacError
from opensnac.serving.logs import event
from opensnac.serving.service import Service

PROTOCOL = "opensnac"  # WebSocket subprotocol; browsers send their token as another one
BEARER = "bearer."
LEAST_TOKEN = 16  # characters
FIRST_REFUSAL = 400  # HTTP status
UNREAD_BYTES, UNREAD_SECONDS = 1 << 25, 1.0  # of a refused request's body that are read


def read_tokens(path: Path) -> tuple[str, ...]:
    """The tokens in a file, one per line; `#` starts a comment. Raises OpensnacError for short tokens or none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise OpensnacError(f"{path}: expected a text file of tokens ({error})") from error
    tokens = tuple(line for line in lines if line and not line.startswith("#"))
    if not tokens or min(map(len, tokens)) < LEAST_TOKEN:
        raise OpensnacError(f"{path}: expected tokens of at least {LEAST_TOKEN} characters, one per line")
    return tokens


def protocol_of(token: str) -> str:
    """A token as the WebSocket subprotocol that carries it, where no header can be set."""
    return BEARER + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


class Guard:
    """ASGI middleware that answers refused requests with a JSON error."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http":
            body = Body(receive, "expect" not in Headers(scope=scope))
            receive, send = body.receive, body.answering(send)
        refusal = self._refusal(scope["path"], Headers(scope=scope), scope["type"] == "websocket")
        if refusal is None:
            await self._app(scope, receive, _logged(scope, send) if scope["type"] == "http" else send)
            return
        event("refused", {"path": scope["path"], "code": refusal[1]})
        status, code, message = refusal
        headers = {"Connection": "close"} | {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "5"}}.get(
            status, {}
        )
        response = JSONResponse({"type": "error", "code": code, "message": message}, status, headers)
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(response)
        else:
            await response(scope, receive, send)

    def _refusal(self, path: str, headers: Headers, socket: bool) -> tuple[int, str, str] | None:
        settings = self._service.settings
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if "*" not in settings.hosts and host not in settings.hosts:
            return 403, "host", f"Host: expected {' or '.join(settings.hosts)}, got {host[:80]!r}"
        origin = headers.get("origin")
        if origin is not None and origin not in settings.origins and urlsplit(origin).netloc != headers.get("host"):
            return 403, "origin", f"Origin: expected this server's or an allowed one, got {origin[:80]!r}"
        guarded = path.startswith("/v1/") or path == "/metrics"
        if guarded and settings.tokens and not self._knows(_token(headers, socket)):
            return 401, "token", "expected a bearer token that this server knows"
        if path.startswith("/v1/") and (self._service.draining or not self._service.ready):
            return 503, "draining", "the server accepts no new work; try another one"
        return None

    def _knows(self, token: str) -> bool:
        """Compare with every token in constant time."""
        known = [hmac.compare_digest(token.encode(), one.encode()) for one in self._service.settings.tokens]
        return any(known)


class Body:
    """A request's body. Before a refusal is sent, what the client is sending is read, within bounds.

    Otherwise the connection would be reset, and the client might never see the refusal. `unasked` is whether the client
    sends the body without waiting for 100 Continue.
    """

    def __init__(self, receive: Receive, unasked: bool) -> None:
        self._receive, self._more = receive, unasked

    async def receive(self) -> Message:
        """The next part."""
        message = await self._receive()
        self._more = self._more and message.get("more_body", False)
        return message

    def answering(self, send: Send) -> Send:
        """`send`, after reading the rest of the body."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= FIRST_REFUSAL:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._drain(), UNREAD_SECONDS)
            await send(message)

        return sending

    async def _drain(self) -> None:
        left = UNREAD_BYTES
        while self._more and left > 0:
            left -= len((await self.receive()).get("body", b""))


def _logged(scope: Scope, send: Send) -> Send:
    """`send`, and log the response's status."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            facts = {"method": scope["method"], "path": scope["path"], "status": message["status"]}
            event("request", facts)
        await send(message)

    return sending


def _token(headers: Headers, socket: bool) -> str:
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    for protocol in headers.get("sec-websocket-protocol", "").split(",") if socket else ():
        if protocol.strip().startswith(BEARER):
            text = protocol.strip().removeprefix(BEARER)
            try:
                return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            except ValueError:
                return ""
    return ""
