"""serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opensnac.cli.app import ELSEWHERE, Model, command
from opensnac.cli.reporting import reporting
from opensnac.errors import OpensnacError

EXTRA = "opensnac[serve]"


@command(ELSEWHERE, "opensnac serve --port 8000 --token-file tokens")
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen at; the default is for this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    model: Model = None,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda or cuda:N.")] = "cpu",
    max_streams: Annotated[int, typer.Option(min=1, help="Streams open at once.")] = 64,
    max_seconds: Annotated[float, typer.Option(min=1.0, help="Of sound in one recording over HTTP.")] = 600.0,
    buffered: Annotated[float, typer.Option(min=0.5, help="Seconds of a stream that wait unworked, or unread.")] = 10.0,
    idle: Annotated[float, typer.Option(min=0.5, help="Seconds without a word before a stream is ended.")] = 60.0,
    drain: Annotated[float, typer.Option(min=0.0, help="Seconds that SIGTERM leaves running streams to end.")] = 30.0,
    ping: Annotated[float, typer.Option(min=0.1, help="Seconds between WebSocket pings, and to answer one.")] = 20.0,
    token_file: Annotated[
        Path | None, typer.Option(help="Bearer tokens, one a line; without, nobody is asked for one.")
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option(help="A page elsewhere that may use the server, such as https://example.org.")
    ] = None,
    public_host: Annotated[
        list[str] | None, typer.Option(help="A host name that the server is called by, behind a balancer say.")
    ] = None,
) -> None:
    """Serve many live streams over HTTP and WebSockets, and a page to talk through (docs/serving.md).

    Needs: pip install 'opensnac\\[serve]'
    """
    with reporting():
        try:
            from opensnac.serving.guard import read_tokens
            from opensnac.serving.server import LOOPBACK, is_loopback
            from opensnac.serving.server import serve as run
        except ModuleNotFoundError as error:
            raise OpensnacError(f"serve needs {error.name}: pip install '{EXTRA}'") from error
        from opensnac.bitstream import Limits
        from opensnac.serving.pool import PoolLimits
        from opensnac.serving.service import Settings

        names = (*LOOPBACK, *(public_host or ())) if is_loopback(host) or public_host else ("*",)
        settings = Settings(
            model=model,
            device=device,
            streams=PoolLimits(max_streams, buffered, idle),
            files=Limits(seconds=max_seconds),
            tokens=read_tokens(token_file) if token_file else (),
            origins=tuple(origin or ()),
            hosts=names,
        )
        run(settings, host, port, drain, ping)
