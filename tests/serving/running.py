"""A server in a thread of the tests' process, and what is sent to it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import numpy as np
import uvicorn

from opensnac.serving.app import application
from opensnac.serving.server import Server
from opensnac.serving.service import Settings


class Running:
    """A server in a thread of its own."""

    def __init__(self, settings: Settings, ping: float = 20.0) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)  # so that slow readers show soon
        self.port = self.listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        app = application(settings)
        self.service = app.state.service
        options: dict[str, Any] = {
            "ws_max_size": settings.message_bytes,
            "ws_ping_interval": ping,
            "ws_ping_timeout": ping,
        }
        options |= {"log_config": None, "ws_per_message_deflate": False, "timeout_graceful_shutdown": 2}
        config = uvicorn.Config(app, **options)
        self.server = Server(config, drain=10)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve([self.listening])))
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive(), "the server did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.listening.close()


def sound(seconds: float, rate: int = 24_000) -> np.ndarray:
    """Noise, float32."""
    return (0.2 * np.random.default_rng(3).standard_normal(int(seconds * rate))).astype(np.float32)
