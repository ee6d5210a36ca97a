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
        str, typer.Option(help="Address to listen on; the default accepts this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8000,
    model: Model = None,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda or cuda:N.")] = "cpu",
    reduced: Annotated[
        bool,
        typer.Option(
            "--reduced", help="Multiply in bfloat16 where the CPU can: more streams; a third of the codes change."
        ),
    ] = False,
    max_streams: Annotated[int, typer.Option(min=1, help="Streams open at once.")] = 64,
    max_seconds: Annotated[float, typer.Option(min=1.0, help="Longest recording over HTTP, in seconds.")] = 600.0,
    buffered: Annotated[
        float, typer.Option(min=0.5, help="Seconds of a stream that may be queued, unprocessed or unread.")
    ] = 10.0,
    idle: Annotated[float, typer.Option(min=0.5, help="Seconds without a message before a stream is closed.")] = 60.0,
    drain: Annotated[
        float, typer.Option(min=0.0, help="Seconds that running streams have to end after SIGTERM.")
    ] = 30.0,
    ping: Annotated[
        float, typer.Option(min=0.1, help="Seconds between WebSocket pings, which keep quiet connections open.")
    ] = 20.0,
    token_file: Annotated[
        Path | None, typer.Option(help="File of bearer tokens, one per line; without it, no authentication.")
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin of other pages that may use the server, such as https://example.org; repeatable."),
    ] = None,
    public_host: Annotated[
        list[str] | None, typer.Option(help="Host name that clients use, such as a load balancer's; repeatable.")
    ] = None,
) -> None:
    """Serve many live streams over HTTP and WebSockets, with a demo page (docs/serving.md).

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
            reduced=reduced,
            streams=PoolLimits(max_streams, buffered, idle),
            files=Limits(seconds=max_seconds),
            tokens=read_tokens(token_file) if token_file else (),
            origins=tuple(origin or ()),
            hosts=names,
        )
        run(settings, host, port, drain, ping)
