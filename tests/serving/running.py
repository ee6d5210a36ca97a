"""A server in a thread of the tests' process or in a process of its own, and what is sent to it."""

from __future__ import annotations

import asyncio
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from opensnac.serving.app import application
from opensnac.serving.server import Server
from opensnac.serving.service import Settings

# Without certificates, which take 30 ms to load for each client; a connection ends with its answer.
HTTP = httpx.Client(verify=False, timeout=60, limits=httpx.Limits(max_keepalive_connections=0))


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
            "ws_ping_timeout": None,
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


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


class Program:
    """`opensnac serve` as a process of its own."""

    def __init__(self, model: str | Path, *options: str) -> None:
        command = [sys.executable, "-m", "opensnac", "serve", "--port", "0", "--model", str(model), *options]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115, `close` does; not a pipe, which would fill
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        said = self.process.stdout.readline()
        assert "to this machine only" in said
        self.url = re.search(r"http://[0-9.:]+", said)[0]
        until(self.ready, 120)

    def ready(self) -> bool:
        assert self.process.poll() is None, self.logged()
        try:
            return HTTP.get(f"{self.url}/readyz").status_code == 200
        except httpx.ConnectError:
            return False

    @property
    def streams(self) -> int:
        """That are open."""
        return HTTP.get(f"{self.url}/readyz").json()["streams"]

    @property
    def resident(self) -> int:
        """Bytes of memory that it holds."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    @property
    def files(self) -> int:
        """Files and sockets that it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def logged(self) -> str:
        """All that it has said so far."""
        self.log.seek(0)
        return self.log.read()

    def end(self, how: signal.Signals) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(how)
        self.process.communicate(timeout=60)
        return self.process.returncode

    def close(self) -> None:
        """Kill it, if it still runs."""
        self.process.kill()
        self.process.communicate()
        self.log.close()


def sound(seconds: float, rate: int = 24_000) -> np.ndarray:
    """Noise, float32."""
    return (0.2 * np.random.default_rng(3).standard_normal(int(seconds * rate))).astype(np.float32)
