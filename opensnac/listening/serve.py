"""A small server for a listening test: serves the page's files and stores each session's answers durably."""

from __future__ import annotations

import json
import os
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from opensnac.errors import OpensnacError
from opensnac.files import atomic_file
from opensnac.listening.answers import SESSION, AnswersError, parse

MAX_BYTES = 1 << 20  # of one session's answers
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
ANSWERS = "/answers/"


class Server(ThreadingHTTPServer):
    """Serves `test/page` and stores answers in `answers`, one file per session."""

    daemon_threads = True
    request_queue_size = 128  # connection backlog; beyond the default of 5 the system resets connections

    def __init__(self, test: Path, answers: Path, host: str, port: int) -> None:
        page, key = test / "page", test / "key.json"
        if not key.is_file() or not (page / "index.html").is_file():
            raise OpensnacError(f"{test}: expected a listening test, as `opensnac listen build` writes it, got none")
        self.test: str = json.loads(key.read_text(encoding="utf-8"))["test"]
        self.files = {f"/{file.name}": file for file in page.iterdir() if file.suffix in KINDS}
        self.files["/"] = page / "index.html"
        self.answers = answers
        self.host = host
        self.lock = threading.Lock()
        answers.mkdir(parents=True, exist_ok=True)
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise OpensnacError(
                f"{host}:{port}: expected an available port, got {error.strerror}; choose another --port"
            ) from error

    @property
    def url(self) -> str:
        """The page's address for a browser on this machine."""
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host
        return f"http://{host}:{self.server_address[1]}/"

    def store(self, text: bytes) -> None:
        """Store one session's answers atomically, unless a newer revision is there."""
        answers = parse(text, "answers")
        if answers["test"] != self.test:
            raise AnswersError(f"expected answers to the test {self.test}, got some to {answers['test'][:40]!r}")
        file = self.answers / f"{answers['session']}.json"
        with self.lock:
            if file.exists() and parse(file.read_bytes(), str(file))["revision"] > answers["revision"]:
                return
            with atomic_file(file, force=True) as path, path.open("wb") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())


class Handler(BaseHTTPRequestHandler):
    """GET a file of the page or a session's own answers, PUT a session's answers; nothing else."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds of client inactivity

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        session = path.removeprefix(ANSWERS)
        if path.startswith(ANSWERS) and SESSION.fullmatch(session):
            file = self.server.answers / f"{session}.json"
            if file.is_file():
                self._answer(HTTPStatus.OK, file.read_bytes(), "application/json")
            else:
                self._answer(HTTPStatus.NO_CONTENT)
        elif path in self.server.files:
            file = self.server.files[path]
            self._answer(HTTPStatus.OK, file.read_bytes(), f"{KINDS[file.suffix]}; charset=utf-8")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"not found\n")

    def do_PUT(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BYTES:
            self.close_connection = True  # the body is not read
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BYTES} bytes\n".encode())
            return
        text = self.rfile.read(int(length))
        if not urlsplit(self.path).path.startswith(ANSWERS) or len(text) < int(length):
            self._answer(HTTPStatus.NOT_FOUND, b"not found\n")
            return
        try:
            self.server.store(text)
        except AnswersError as error:
            self._answer(HTTPStatus.BAD_REQUEST, f"{error}\n".encode())
        except OSError as error:
            self._answer(HTTPStatus.INSUFFICIENT_STORAGE, f"not kept: {error.strerror}\n".encode())
        else:
            self._answer(HTTPStatus.NO_CONTENT)

    def _answer(self, status: HTTPStatus, content: bytes = b"", kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing, to keep listeners' addresses private."""


def serve(test: Path, answers: Path, host: str, port: int) -> None:
    """Serve until interrupted. OpensnacError without a test or with a port in use."""
    with Server(test, answers, host, port) as server:
        print(f"Listening test at {server.url}, answers go to {answers}; Ctrl-C to stop", flush=True)
        server.serve_forever()
