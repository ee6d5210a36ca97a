"""Two servers behind nginx with the configuration that is shipped: streams stay at one, and leave one that drains."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from running import Running
from websockets.sync.client import connect

from opensnac import Engine
from opensnac.serving.client import Client
from opensnac.streaming.tokens import TokenLayout

CONFIGURATION = Path(__file__).parents[2] / "deploy/nginx.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
AROUND = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {site}
}}
"""


@pytest.fixture
def servers(serve: Callable[..., Running]) -> list[Running]:
    return [serve(), serve()]


@pytest.fixture
def balancer(servers: list[Running], tmp_path: Path) -> Iterator[str]:
    """The address of an nginx in front of both."""
    if NGINX is None:
        pytest.skip("no nginx found; apt-get install nginx")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    site = CONFIGURATION.read_text().replace(":8080", f":{port}")
    for written, server in zip((":8001", ":8002"), servers, strict=True):
        assert written in site
        site = site.replace(written, f":{server.port}")
    (tmp_path / "nginx.conf").write_text(AROUND.format(folder=tmp_path, site=site))
    process = subprocess.Popen([NGINX, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")])
    until = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            assert process.poll() is None, (tmp_path / "error.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


def opened(server: Running) -> int:
    return sum(served.decoders.counters.opened for served in server.service.served.values())


def test_streams_stay_and_move_on(
    servers: list[Running], balancer: str, engine: Engine, codes: list[torch.Tensor]
) -> None:
    tokens = TokenLayout.of(engine.config).flatten(codes)[0].tolist()
    address = balancer.replace("http", "ws") + "/v1/decode"

    def visit(stream: str) -> None:
        with connect(address, additional_headers={"X-Stream": stream}, compression=None, proxy=None) as connection:
            connection.send('{"type": "start"}')
            connection.recv()

    for _ in range(5):
        visit("always the same")
    assert sorted(map(opened, servers)) == [0, 5]
    for number in range(12):
        visit(str(number))
    assert min(map(opened, servers)) > 0

    with Client(balancer) as client, client.decoding(format="float32") as stream:  # which server has it?
        at = next(server for server in servers if server.service.open_streams)
        at.service.draining = True
        before = opened(at)
        for number in range(6):
            visit(str(number))
        assert opened(at) == before, "one that drains gets no new streams"
        stream.push(tokens)
        stream.finish()
        heard = np.concatenate(list(stream))
    assert np.array_equal(heard, engine.decode(codes)[0, 0].numpy()), "and what it has goes on"
