"""The server's application: recordings over HTTP, streams over WebSockets, health, metrics and the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import FastAPI, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope

from opensnac import __version__
from opensnac.errors import (
    AudioError,
    BitstreamError,
    ConfigError,
    LimitError,
    ModelError,
    OpensnacError,
)
from opensnac.recordings.transcode import decode_file, encode_file
from opensnac.serving import messages
from opensnac.serving.codes import FORMS, Coded, as_snac, encoded, form_of
from opensnac.serving.conversations import Decoding, Encoding
from opensnac.serving.guard import Guard
from opensnac.serving.logs import event
from opensnac.serving.service import Service, Settings
from opensnac.serving.transfers import Transfers

WEB = Path(__file__).parent / "web"
PAGE_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; media-src 'self' blob:"
STATUS = {LimitError: 413, ModelError: 404, AudioError: 400, BitstreamError: 400, ConfigError: 400}
PROBLEMS = {413: "limit", 404: "no_model", 400: "bad_recording", 503: "limit"}
SOUND = {"wav": "audio/wav", "flac": "audio/flac", "opus": "audio/ogg", "raw": "application/octet-stream"}
UNREAD = {"Connection": "close"}  # the rest of the request is not read
BYTES: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
RECORDING: dict[str, Any] = {"application/octet-stream": BYTES}
CODES: dict[str, Any] = RECORDING | {
    "application/zip": BYTES,
    "text/plain": {"schema": {"type": "string"}},
    "application/json": {
        "schema": {"anyOf": [Coded.model_json_schema(), {"type": "array", "items": {"type": "integer"}}]}
    },
}

Model = Annotated[str | None, Query(description="A bundled or cached model; the server's own by default.")]
Token = Annotated[int, Query(ge=-(2**31), lt=2**31, description="The codec's first token in the vocabulary.")]


class Problem(BaseModel):
    """What went wrong."""

    type: Literal["error"] = "error"
    code: str
    message: str


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _answers(media: set[str], *statuses: int) -> dict[int | str, dict[str, Any]]:
    problems: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in statuses}
    return problems | {200: {"content": dict.fromkeys(media, BYTES)}}


def application(settings: Settings) -> FastAPI:
    """The ASGI application; `state.service` has the models and whether the server drains."""
    service = Service(settings)
    transfers = Transfers(settings.requests)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service:
            event("ready", {"models": [served.engine.name for served in service.served.values()]})
            yield
        transfers.close()

    app = FastAPI(title="opensnac", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service, app.state.transfers = service, transfers
    app.add_middleware(Guard, service=service)
    if settings.origins:
        headers = ["Authorization", "Content-Type"]
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.origins, allow_methods=["GET", "POST"], allow_headers=headers
        )
    app.add_exception_handler(OpensnacError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _unserved)
    app.add_exception_handler(Exception, _fault)
    _add_health(app, service)
    _add_recordings(app, service, transfers)
    _add_streams(app, service)
    app.router.routes.append(_ReadOnly("/", _Page(directory=WEB, html=True)))
    return app


async def _problem(_: Request, error: Exception) -> Response:
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 400)
    return JSONResponse(Problem(code=PROBLEMS[status], message=str(error)).model_dump(), status, UNREAD)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse(Problem(code="bad_request", message=f"{where}: {first['msg']}").model_dump(), 422)


async def _unserved(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "bad_method"}.get(error.status_code, "bad_request")
    return JSONResponse(Problem(code=code, message=error.detail).model_dump(), error.status_code, error.headers)


async def _fault(_: Request, error: Exception) -> Response:
    return JSONResponse(Problem(code="internal", message="see the server's log").model_dump(), 500)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="Liveness.")
    async def health() -> dict[str, bool]:
        return {"alive": True}

    @app.get("/readyz", summary="Readiness for new work.", responses={503: {"model": Problem}})
    async def readiness() -> Response:
        if service.ready and not service.draining:
            return JSONResponse({"ready": True, "streams": service.open_streams})
        return JSONResponse(Problem(code="draining", message="the server accepts no new work").model_dump(), 503)

    @app.get("/metrics", summary="Metrics for Prometheus.", responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/asyncapi.json", summary="The WebSockets' messages, as AsyncAPI.")
    async def asyncapi() -> dict[str, Any]:
        return messages.asyncapi(__version__)


class _Answer(StreamingResponse):
    """A response that may start before the request has ended, and leaves reading the request to others."""

    def __init__(self, pieces: AsyncIterator[bytes], media: str, read: asyncio.Event) -> None:
        super().__init__(pieces, media_type=media)
        self._read = read

    async def listen_for_disconnect(self, receive: Receive) -> None:
        """Listen once the request is read; messages before that belong to its body."""
        await self._read.wait()
        await super().listen_for_disconnect(receive)


async def _signal_end(body: AsyncIterator[bytes], read: asyncio.Event) -> AsyncIterator[bytes]:
    """The same body; sets `read` at its end."""
    async for piece in body:
        yield piece
    read.set()


def _add_recordings(app: FastAPI, service: Service, transfers: Transfers) -> None:
    limits = service.settings.files

    async def answer(request: Request, work: Callable[[BinaryIO, BinaryIO], None], media: str) -> Response:
        if int(request.headers.get("content-length", "0")) > limits.file_bytes:
            raise LimitError(f"expected at most {limits.file_bytes} bytes, got {request.headers['content-length']}")
        if transfers.full:
            busy = Problem(code="limit", message="the server codes as many recordings as it may; try again")
            return JSONResponse(busy.model_dump(), 503, UNREAD | {"Retry-After": "5"})
        read = asyncio.Event()
        body = _signal_end(request.stream(), read)
        pieces = await transfers.run(body, work, limits.file_bytes, service.settings.streams.idle)
        return _Answer(pieces, media, read)

    @app.post(
        "/v1/encode",
        summary="A recording to codes.",
        response_class=Response,
        openapi_extra=_body(RECORDING),
        responses=_answers({*FORMS.values()}, 400, 401, 403, 404, 413, 503),
    )
    async def encode(
        request: Request,
        model: Model = None,
        format: Annotated[
            Literal["snac", "json", "npz", "tokens", "text"],
            Query(
                description="A .snac file; codes as JSON or a NumPy archive; tokens as JSON or text, of one channel."
            ),
        ] = "snac",
        mono: Annotated[bool, Query(description="Mix all channels into one.")] = False,
        raw: Annotated[
            int | None, Query(ge=8_000, le=48_000, description="The body is headerless 16-bit mono of this rate, Hz.")
        ] = None,
        offset: Token = 0,
    ) -> Response:
        """Accepts any recording that `opensnac encode` reads. Raw samples are coded as they arrive."""
        engine = (await service.model(model)).engine
        layout = None if raw is None else (raw, 1)

        def work(source: BinaryIO, target: BinaryIO) -> None:
            if format == "snac":
                encode_file(source, target, engine, mono=mono, raw=layout, live=raw is not None, limits=limits)
            else:
                target.write(encoded(source, engine, format, mono, layout, offset, limits))

        return await answer(request, work, FORMS[format])

    @app.post(
        "/v1/decode",
        summary="Codes to sound.",
        response_class=Response,
        openapi_extra=_body(CODES),
        responses=_answers({*SOUND.values()}, 400, 401, 403, 404, 413, 503),
    )
    async def decode(
        request: Request,
        form: Annotated[
            Literal["snac", "json", "npz", "tokens", "text"] | None,
            Query(
                alias="from",
                description="Format of the body, as from /v1/encode; by default according to the content type.",
            ),
        ] = None,
        model: Model = None,
        offset: Token = 0,
        format: Annotated[Literal["wav", "flac", "opus", "raw"], Query(description="Of the answer.")] = "wav",
        rate: Annotated[int | None, Query(ge=8_000, le=48_000, description="Of the answer, Hz.")] = None,
        seed: Annotated[int, Query(ge=0, lt=2**63, description="Of the decoder's noise.")] = 0,
    ) -> Response:
        """Uses the model that the codes name, if it is served, bundled or cached. WAV is sent packet by packet."""
        kind = form or form_of(request.headers.get("content-type", ""))

        def work(source: BinaryIO, target: BinaryIO) -> None:
            models = service.models
            if kind != "snac":
                source = as_snac(source, kind, models.named, model, offset)
            decode_file(source, target, models, sample_rate=rate, ending=f".{format}", seed=seed, limits=limits)

        return await answer(request, work, SOUND[format])


def _add_streams(app: FastAPI, service: Service) -> None:
    @app.websocket("/v1/decode")
    async def decode(socket: WebSocket) -> None:
        await Decoding(socket, service).run()

    @app.websocket("/v1/encode")
    async def encode(socket: WebSocket) -> None:
        await Encoding(socket, service).run()


class _Page(StaticFiles):
    """The page's files; its policy forbids other hosts."""

    async def get_response(self, path: str, scope: Any) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Content-Security-Policy"] = PAGE_POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-cache"
        return response


class _ReadOnly(Mount):
    """Read-only files. Other methods fall through to the API's routes, which answer with the allowed ones."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or scope["path"].startswith("/v1/"):
            return Match.NONE, {}
        return super().matches(scope)
