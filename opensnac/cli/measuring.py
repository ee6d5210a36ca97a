"""evaluate, listen, bench, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from opensnac.cli.app import CODE, MEASURE, Command, Model, app, command
from opensnac.cli.reporting import reporting
from opensnac.errors import OpensnacError


@command(MEASURE, "opensnac evaluate recordings/ --codec opensnac --codec opus:6 --out report/")
def evaluate(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of recordings.")],
    codec: Annotated[
        list[str] | None,
        typer.Option(help="Codec to measure; repeatable. Default: opensnac, opus:6, codec2:1200."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path("evaluation"),
    jobs: Annotated[int, typer.Option(min=1, help="Recordings measured in parallel.")] = 1,
    baseline: Annotated[str | None, typer.Option(help="Codec that the others are compared with, clip by clip.")] = None,
    players: Annotated[int, typer.Option(min=0, help="Recordings with players and spectrograms in report.html.")] = 6,
    asr: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Speech recogniser for word error rates: a folder, a hub id, or faster-whisper:MODEL.",
        ),
    ] = None,
    speaker: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Speaker model for speaker similarity: a folder or a hub id."),
    ] = None,
) -> None:
    """Compare the quality of codecs on a folder of recordings.

    Sub-folders are labels (speech, music, ...) with results of their own. Codecs: opensnac, opensnac:MODEL,
    refined:ROUNDS\\[@MODEL], opus:KILOBITS, codec2:BITS, speex:KILOBITS, amrwb:KILOBITS, lyra:KILOBITS@FOLDER, and
    encodec:, dac: or mimi:KILOBITS\\[@MODEL]. A killed run resumes when started again.
    """
    with reporting():
        from opensnac.evaluation.evaluate import evaluate_folder

        results = evaluate_folder(folder, codec or [], out, jobs, baseline, players, asr, speaker)
        _refuse_failures(results, out)


def _refuse_failures(results: dict[str, Any], out: Path) -> None:
    """OpensnacError if a clip failed, or none of the requested codecs is available."""
    report, clips = out / "report.md", results["clips"]
    coded = [entry for entry in results["codecs"] if entry["name"] != "original"]
    if not coded and results["skipped"]:
        raise OpensnacError(f"none of the codecs {', '.join(results['skipped'])} is available here; {report} says why")
    failed = {entry["name"]: len(entry["failed"]) for entry in coded or results["codecs"] if entry["failed"]}
    if failed and sum(failed.values()) == clips * len(coded or results["codecs"]):
        raise OpensnacError(f"all clips failed with all codecs; {report} says why for each")
    if failed:
        counts = ", ".join(f"{count} of {clips} with {name}" for name, count in failed.items())
        raise OpensnacError(f"clips failed: {counts}; {report} says why for each")


listen = typer.Typer(no_args_is_help=True, help="Listening tests after ITU-R BS.1534-3 (MUSHRA).")
app.add_typer(listen, name="listen", rich_help_panel=MEASURE)
Test = Annotated[Path, typer.Argument(metavar="TEST", exists=True, file_okay=False, help="Folder that `build` wrote.")]


@listen.command(
    cls=Command,
    epilog="Example: [bold]opensnac listen build report/ --out test/ --codec opensnac --codec opus:6[/bold]",
)
def build(
    results: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder that `evaluate` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the test.")] = Path("listening"),
    codec: Annotated[list[str] | None, typer.Option(help="Codec to include; repeatable. Default: all.")] = None,
    training: Annotated[
        bool, typer.Option("--training/--no-training", help="Start with a training phase: all pages once, not scored.")
    ] = True,
) -> None:
    """Build the listeners' page, and the key to their answers.

    TEST/page/ works from a folder (open index.html) and with `opensnac listen serve`. Do not give key.json to
    listeners.
    """
    with reporting():
        from opensnac.listening.build import build as make

        built = make(results, out, codec or [], training)
        print(f"{built.trials} trials. Open {out / 'page' / 'index.html'}, or: opensnac listen serve {out}")
        if built.trials < built.advised:
            print(f"BS.1534-3 recommends {built.advised} for this many codecs: evaluate --players {built.advised}")


@listen.command(
    cls=Command, epilog="Example: [bold]opensnac listen serve test/ --answers answers/ --host 0.0.0.0[/bold]"
)
def serve(
    test: Test,
    answers: Annotated[Path, typer.Option(help="Folder for the answers, one file per session.")] = Path("answers"),
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8000,
) -> None:
    """Serve the page to listeners, and save their answers."""
    with reporting():
        from opensnac.listening.serve import serve as run_server

        run_server(test, answers, host, port)


@listen.command(cls=Command, epilog="Example: [bold]opensnac listen score answers/ --test test/[/bold]")
def score(
    answers: Annotated[list[Path], typer.Argument(metavar="ANSWERS", help="Answer files, or folders of them.")],
    test: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder that `build` wrote.")] = Path(
        "listening"
    ),
) -> None:
    """Screen listeners, and print means, intervals and pairwise tests, with the paper's results for comparison."""
    with reporting():
        from opensnac.listening.score import score as compute

        print(compute(test, answers))


@command(MEASURE, "opensnac bench --against-reference --threads 1")
def bench(
    model: Model = None,
    config: Annotated[
        str | None,
        typer.Option(help="Use random weights for this config.json, or for a shipped run such as music_32khz."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of audio per clip.")] = 10.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: PyTorch's number of threads.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed calls, after a warm-up call.")] = 3,
    against_reference: Annotated[
        bool, typer.Option("--against-reference", help="Compare with the package snac, with the same weights.")
    ] = False,
    reduced: Annotated[bool, typer.Option("--reduced", help="Multiply in bfloat16.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Clips per batch; repeatable. Default: 1.")] = None,
    streams: Annotated[list[int] | None, typer.Option(min=1, help="Parallel streams; repeatable. Default: 1.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file for the results.")] = None,
) -> None:
    """Measure speed and memory: whole recordings and streams, encoding and decoding.

    On a GPU: [bold]opensnac bench --device cuda --batch 1 --batch 32 --streams 1 --streams 16 --streams 64[/bold]
    """
    with reporting():
        from opensnac.showcase.bench import bench_model, run_bench

        run_bench(
            bench_model(model, config),
            seconds,
            threads,
            rounds,
            against_reference,
            reduced,
            out,
            device=device,
            batches=batch or [1],
            streams=streams or [1],
        )


@command(CODE, "opensnac demo -o demo_output")
def demo(
    recording: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A recording. Default: an example."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the outputs.")] = Path("demo_output"),
    model: Model = None,
) -> None:
    """Encode and decode a recording: sizes, speed, quality, and a picture of both spectrograms."""
    with reporting():
        from opensnac.showcase.demo import run_demo

        run_demo(out, recording, model)
