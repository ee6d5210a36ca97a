"""Runs the application under uvicorn. After a signal it drains: running streams may end, new ones are refused."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from types import FrameType

import uvicorn

from opensnac.errors import OpensnacError
from opensnac.serving.app import application
from opensnac.serving.logs import begin, event
from opensnac.serving.service import Settings

LOOPBACK = ("localhost", "127.0.0.1", "::1")
DRAIN_POLL = 0.05  # seconds


class Server(uvicorn.Server):
    """A server that drains for up to `drain` seconds after the first signal and stops immediately at the second."""

    def __init__(self, config: uvicorn.Config, drain: float) -> None:
        super().__init__(config)
        self._drain, self._draining = drain, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn on SIGTERM and SIGINT."""
        if self._draining:
            self.should_exit = True
            return
        self._draining = True
        asyncio.get_running_loop().call_soon_threadsafe(lambda: asyncio.ensure_future(self._end()))

    async def _end(self) -> None:
        state = self.config.app.state  # type: ignore[union-attr]
        state.service.draining = True
        event("draining", {"streams": state.service.open_streams})
        until = time.monotonic() + self._drain
        while (state.service.serving_streams or state.transfers.running) and time.monotonic() < until:
            await asyncio.sleep(DRAIN_POLL)
        event("drained", {"streams": state.service.open_streams})
        self.should_exit = True


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(settings: Settings, host: str, port: int, drain: float = 30.0, ping: float = 20.0) -> None:
    """Serve until a signal. Raises OpensnacError if it cannot listen on the address.

    `ping`: seconds between WebSocket pings. They have no deadline, because the answer of a client that is far ahead
    queues behind the data it has sent; a client that vanished is detected by the idle limit.
    """
    begin()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise OpensnacError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    print(f"opensnac serves http://{shown}:{port}/, {_reach(host, settings)}; stop with Ctrl-C", flush=True)
    config = uvicorn.Config(
        application(settings),
        log_config=None,
        access_log=False,
        ws_max_size=settings.message_bytes,
        ws_per_message_deflate=False,
        ws_ping_interval=ping,
        ws_ping_timeout=None,
        server_header=False,
        timeout_graceful_shutdown=5,
        backlog=2048,
    )
    with listening:
        asyncio.run(Server(config, drain).serve([listening]))


def _reach(host: str, settings: Settings) -> str:
    who = "clients with a token" if settings.tokens else "any client that reaches it, without authentication"
    return "to this machine only" if is_loopback(host) and not settings.tokens else f"to {who}"
