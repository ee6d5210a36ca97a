"""What goes wrong with networks, clients and processes: bounded, survived, and nobody else's trouble."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from running import HTTP, Program, Running, sound, until
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode
from websockets.sync.client import connect

from opensnac import Engine
from opensnac.serving.client import Client, ServerError
from opensnac.serving.pool import PoolLimits
from opensnac.streaming.tokens import TokenLayout

START = json.dumps({"type": "start", "format": "float32"})


@pytest.fixture
def tokens(engine: Engine, codes: list[torch.Tensor]) -> list[int]:
    return TokenLayout.of(engine.config).flatten(codes)[0].tolist()


def begun(server: Running, **options: object):
    """A WebSocket on which a stream has begun."""
    address = server.url.replace("http", "ws") + "/v1/decode"
    connection = connect(address, compression=None, proxy=None, **options).__enter__()
    connection.send(START)
    assert json.loads(connection.recv())["type"] == "ready"
    return connection


def works(server: Running, tokens: list[int], engine: Engine, codes: list[torch.Tensor]) -> None:
    """Whether a well-behaved client gets what it should."""
    with Client(server.url) as client, client.decoding(format="float32") as stream:
        stream.push(tokens)
        stream.finish()
        assert np.array_equal(np.concatenate(list(stream)), engine.decode(codes)[0, 0].numpy())


def test_clients_that_vanish_leave_their_places(server: Running, tokens: list[int], engine, codes) -> None:
    for how in ("reset", "half a message", "close"):
        connection = begun(server)
        connection.send(json.dumps(tokens))
        if how == "reset":
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.socket.close()
        elif how == "half a message":
            connection.socket.sendall(bytes([0x82, 0xFE, 0x10, 0x00, 1, 2, 3, 4, 5]))
            connection.socket.shutdown(socket.SHUT_RDWR)
        else:
            connection.close()
        until(lambda: server.service.open_streams == 0)
        works(server, tokens, engine, codes)


def test_one_who_is_gone_without_a_word_leaves_its_place(serve, tokens: list[int], engine, codes) -> None:
    server = serve(streams=PoolLimits(idle=0.5))
    raw = socket.create_connection(("127.0.0.1", server.port))
    raw.sendall(
        b"GET /v1/decode HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert raw.recv(4096).startswith(b"HTTP/1.1 101")
    mask = bytes(4)  # which leaves the message as it is
    raw.sendall(bytes([0x81, 0x80 | len(START)]) + mask + START.encode())
    until(lambda: server.service.open_streams == 1)
    until(lambda: server.service.open_streams == 0)
    raw.close()
    works(server, tokens, engine, codes)


def test_a_slow_reader_is_worked_for_no_further(serve, tokens: list[int], engine, codes) -> None:
    server = serve(streams=PoolLimits(buffered=0.5, idle=2.0))
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect(("127.0.0.1", server.port))
    connection = begun(server, sock=small, max_queue=1)

    def shout() -> None:
        try:
            while True:
                connection.send(json.dumps(tokens))
        except (ConnectionClosed, OSError):
            return

    shouting = threading.Thread(target=shout, daemon=True)
    shouting.start()
    (pool,) = server.service.served.values()
    works(server, tokens, engine, codes)
    until(lambda: pool.decoders.counters.idle == 1, 60)
    assert pool.decoders.counters.sound < 10, "sound that nobody takes was made on and on"
    connection.socket.shutdown(socket.SHUT_RDWR)
    shouting.join()
    until(lambda: server.service.open_streams == 0)


def test_one_who_is_far_ahead_is_heard_to_the_end(serve, tokens: list[int], engine, codes) -> None:
    server = serve(ping=0.1, streams=PoolLimits(buffered=0.1))
    with Client(server.url) as client, client.decoding() as stream:
        for _ in range(15):  # which takes several pings' time to be worked on
            stream.push(tokens)
        stream.finish()
        assert sum(map(len, stream)) == 15 * 20 * 128


@pytest.mark.parametrize("size", [1 << 23, 1 << 30])
def test_a_huge_message_ends_the_connection_before_it_is_read(
    server: Running, size: int, tokens, engine, codes
) -> None:
    connection = begun(server)
    header = bytes([0x80 | Opcode.BINARY, 0x80 | 127]) + size.to_bytes(8, "big") + bytes(4)
    connection.socket.sendall(header + bytes(1000))
    with pytest.raises(ConnectionClosed):
        connection.recv(timeout=20)
    assert connection.close_code == 1009
    until(lambda: server.service.open_streams == 0)
    works(server, tokens, engine, codes)


def test_sigterm_lets_running_streams_end_and_new_ones_not_begin(program, tokens, engine, codes) -> None:
    server = program()
    whole = engine.decode(codes)[0, 0].numpy()
    with Client(server.url) as client, client.decoding(format="float32") as stream:
        stream.push(tokens[:70])
        server.process.send_signal(signal.SIGTERM)
        until(lambda: HTTP.get(f"{server.url}/readyz").status_code == 503)
        with pytest.raises(ServerError, match="accepts no new work"), client.decoding():
            pass
        with pytest.raises(ServerError, match="accepts no new work"):
            client.encode(sound(1.0).tobytes())
        assert HTTP.get(f"{server.url}/healthz").status_code == 200
        stream.push(tokens[70:])
        stream.finish()
        assert np.array_equal(np.concatenate(list(stream)), whole)
    server.process.wait(timeout=60)
    assert server.process.returncode == 0
    events = [json.loads(line)["event"] for line in server.logged().splitlines()]
    assert "draining" in events
    assert events.index("draining") < events.index("stream") < events.index("drained")


def test_after_a_crash_a_client_goes_on_where_it_had_saved(
    program: Callable[..., Program], client: Client, tokens: list[int], engine: Engine, codes: list[torch.Tensor]
) -> None:
    """At another server of the same model."""
    first = program()
    with Client(first.url) as lost, lost.decoding(format="float32", seed=4) as stream:
        stream.push(tokens[:65])
        facts, state = stream.save()
        pieces = iter(stream)
        heard = np.zeros(0, np.float32)
        while len(heard) < facts["samples"]:
            heard = np.concatenate([heard, next(pieces)])
        stream.push(tokens[65:90])
        first.end(signal.SIGKILL)
        with pytest.raises(ServerError, match="the connection was lost before the stream ended"):
            list(stream)
    facts = json.loads(json.dumps(facts))  # as it would be kept
    with client.decoding(saved=(facts, state), format="float32", seed=4) as stream:
        stream.push(tokens[facts["reader"]["tokens"] :])
        stream.finish()
        heard = np.concatenate([heard, *stream])
    assert np.array_equal(heard, engine.decode(codes, seed=4)[0, 0].numpy())
