"""The command line: parse, call, print. What needs torch is imported by the command that needs it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from opensnac import __version__
from opensnac.batch import Job, PlanError, Report, plan, run
from opensnac.errors import OpensnacError

if TYPE_CHECKING:
    from rich.progress import Progress

    from opensnac.transcode import Result

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

FAILED, MISUSED, INTERRUPTED, TERMINATED = 1, 2, 130, 143  # exit codes
SNAC = ".snac"

Inputs = Annotated[list[str], typer.Argument(metavar="IN", help="Files and folders, or - for standard input.")]
Out = Annotated[
    str | None,
    typer.Option("--out", "-o", help="A file, a folder, or - for standard output. Default: beside each input."),
]
Model = Annotated[str | None, typer.Option(help="A bundled model's name, a folder, or a hub id.")]
Jobs = Annotated[int, typer.Option(min=1, help="Files worked on at once; they share the cores.")]
Force = Annotated[bool, typer.Option("--force", help="Replace outputs that exist.")]


def main() -> None:
    """The `opensnac` command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # unwind, so that nothing half-written stays
    app()


@app.callback(invoke_without_command=True)
def opensnac(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """opensnac, a neural audio codec: speech at about one kilobit a second.

    Exit codes: 0 all done, 1 something failed and is listed (the rest was done), 2 wrong use.
    OPENSNAC_DEBUG=1 in the environment shows where an unexpected error came from.
    """
    if version:
        print(f"opensnac {__version__}")
        raise typer.Exit


@app.command(epilog="Example: [bold]opensnac encode talks/ -o coded/ --jobs 2[/bold]")
def encode(
    inputs: Inputs,
    out: Out = None,
    model: Model = None,
    mono: Annotated[bool, typer.Option("--mono", help="Mix all channels into one.")] = False,
    raw: Annotated[
        str | None,
        typer.Option(metavar="RATE[:CHANNELS]", help="The input is headerless 16-bit little-endian samples."),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Send each coarse frame at once, in a packet of its own.")
    ] = False,
    jobs: Jobs = 1,
    force: Force = False,
) -> None:
    """Code recordings (WAV, FLAC, OGG, Opus, MP3, ...) into .snac files.

    A folder is searched for recordings, whose tree is kept. What exists is not replaced without --force.
    A live source: [bold]arecord -t raw -f S16_LE -r 24000 | opensnac encode - --raw 24000 --live | ...[/bold]
    """
    with _reporting():
        layout = _raw_layout(raw)
        from opensnac import audio

        batch = _plan(inputs, out, audio.READABLE, [SNAC])
        from opensnac import transcode

        codec = transcode.ModelShelf(model).get()

        def work(job: Job, report: Report) -> Result:
            return transcode.encode_file(
                _source(job), _target(job), codec, mono=mono, raw=layout, live=live, force=force, report=report
            )

        with transcode.shared_cores(jobs):
            _run(batch, work, jobs)


@app.command(epilog="Example: [bold]opensnac decode talk.snac -o talk.flac --sample-rate 48000[/bold]")
def decode(
    inputs: Inputs,
    out: Out = None,
    model: Annotated[
        str | None,
        typer.Option(help="A bundled model's name, a folder, or a hub id. Default: the one each file names."),
    ] = None,
    sample_rate: Annotated[
        int | None,
        typer.Option(min=1_000, max=768_000, help="Rate of the output, Hz. Default: the recording's own."),
    ] = None,
    audio_format: Annotated[
        str | None,
        typer.Option("--format", metavar="wav|flac|ogg|raw", help="Default: as -o ends, else wav; raw is for pipes."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the decoder's noise.")] = 0,
    noise: Annotated[bool, typer.Option("--noise/--no-noise", help="The decoder's noise.")] = True,
    reduced: Annotated[
        bool, typer.Option("--reduced", help="Multiply in bfloat16 where the processor can: faster, -44 dB off.")
    ] = False,
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Of a damaged file, decode what precedes the damage.")
    ] = False,
    jobs: Jobs = 1,
    force: Force = False,
) -> None:
    """Decode .snac files into WAV, FLAC (16 bit) or OGG (Vorbis) files.

    A folder is searched for .snac files, whose tree is kept. Each output has exactly the recording's length.
    To listen as packets come: [bold]... | opensnac decode - --format raw | aplay -f S16_LE -r 24000[/bold]
    """
    with _reporting():
        ending = _ending(audio_format)
        from opensnac import audio

        batch = _plan(inputs, out, [SNAC], list(audio.WRITABLE), ending)
        from opensnac import transcode

        shelf = transcode.ModelShelf(model, reduced=reduced)

        def work(job: Job, report: Report) -> Result:
            return transcode.decode_file(
                _source(job),
                _target(job),
                shelf,
                sample_rate=sample_rate,
                ending=ending,
                seed=seed,
                noise=noise,
                salvage=salvage,
                force=force,
                report=report,
            )

        with transcode.shared_cores(jobs):
            _run(batch, work, jobs)


@app.command(epilog="Example: [bold]opensnac info talk.snac --json[/bold]")
def info(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help=".snac files, folders of them, or - for standard input."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line for each file.")] = False,
) -> None:
    """Show what .snac files hold: model, length, rates, bits per second, codes per scale."""
    with _reporting():
        from opensnac import bitstream

        batch = [job for name in files for job in plan([name], None, [SNAC], [".json"])]

        def show(job: Job, report: Report) -> None:
            with open(job.source, "rb") if job.source else nullcontext(sys.stdin.buffer) as file:
                facts = {"file": job.name} | bitstream.read(file).info()
            print(json.dumps(facts) if as_json else _describe(facts))

        _run(batch, show)


@app.command(epilog="Example: [bold]opensnac models[/bold]")
def models() -> None:
    """List the models that need no download: bundled ones, and those in the hub's cache."""
    with _reporting():
        from opensnac.model.pretrained import DEFAULT_MODEL, bundled_models, cached_models

        for name in bundled_models():
            print(f"{name}  bundled{', default' if name == DEFAULT_MODEL else ''}")
        for name in cached_models():
            print(f"{name}  cached")


@app.command(epilog="Example: [bold]opensnac train speech.toml --set data.batch_size=8 --out runs/speech[/bold]")
def train(
    config: Annotated[str, typer.Argument(help="What to train, and on what: a TOML file, or a shipped one's name.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of checkpoints and logs.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as schedule.steps=100.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Start from a bundled model, a folder, a hub id or a slim checkpoint.")
    ] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(help="encoder or codebooks; give both to keep tokens valid.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be trained, and stop.")] = False,
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Measure the speed of a step and where its time goes, and stop.")
    ] = False,
) -> None:
    """Train a model from a configuration file.

    On many GPUs: torchrun --nproc_per_node 8 -m opensnac.cli train ..., or accelerate launch in its place.
    """
    with _reporting():
        _needs_extra("train", "accelerate")
        from opensnac.training.config import TrainConfig
        from opensnac.training.loop import find_config
        from opensnac.training.loop import train as run_training

        given = [*(changes or []), *([f"init={json.dumps(init)}"] if init else [])]
        given += [f"freeze={json.dumps(freeze)}"] if freeze else []
        path = find_config(config)
        if not path.is_file():
            raise PlanError(f"{config}: no such file, nor a configuration that comes with the package")
        wanted = TrainConfig.from_toml(path, given)
        if dry_run:
            from opensnac.training.plan import describe

            print(describe(wanted))
        elif benchmark:
            from opensnac.training.benchmark import run_benchmark

            run_benchmark(wanted)
        else:
            run_training(wanted, out or Path("runs") / wanted.name, resume)


@app.command(epilog="Example: [bold]opensnac ablate speech_24khz --out runs/ablations[/bold]")
def ablate(
    recipe: Annotated[str, typer.Argument(help="What to vary: a TOML file, or a shipped one's name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs and the table.")] = Path("ablations"),
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of every run.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Train this variant; give it again for more.")] = None,
) -> None:
    """Train variants of a model at one budget from several seeds, and write one table of what they are worth."""
    with _reporting():
        _needs_extra("train", "accelerate")
        from opensnac.training import ablate as training

        path = training.find_recipe(recipe)
        if not path.is_file():
            raise PlanError(f"{recipe}: no such file, nor a recipe that comes with the package")
        table = training.ablate(path, out, changes or [], only or [])
        print(table.read_text(encoding="utf-8"), end="")


@app.command(epilog="Example: [bold]opensnac evaluate recordings/ --codec opensnac --codec opus:6 --out report/[/bold]")
def evaluate(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of recordings.")],
    codec: Annotated[
        list[str] | None,
        typer.Option(help="Codec to measure; give it again for more. Default: opensnac, opus:6, codec2:1200."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")] = Path("evaluation"),
    jobs: Annotated[int, typer.Option(min=1, help="Recordings measured at once.")] = 1,
    baseline: Annotated[str | None, typer.Option(help="Codec to compare the others with, clip by clip.")] = None,
    players: Annotated[int, typer.Option(min=0, help="Recordings to hear and see in report.html.")] = 6,
) -> None:
    """Measure the quality of decoded recordings beside other codecs.

    Sub-folders are labels (speech, music, ...), which the report also shows one by one. Codecs: opensnac,
    opensnac:MODEL, opus:KILOBITS, codec2:BITS, speex:KILOBITS, amrwb:KILOBITS, lyra:KILOBITS@FOLDER, and
    encodec:, dac: or mimi:KILOBITS\\[@MODEL]. A killed run goes on where it was.
    """
    with _reporting():
        from opensnac.evaluation.evaluate import evaluate_folder

        evaluate_folder(folder, codec or [], out, jobs, baseline, players)


listen = typer.Typer(no_args_is_help=True, help="Listening tests after ITU-R BS.1534-3 (MUSHRA).")
app.add_typer(listen, name="listen")
Test = Annotated[Path, typer.Argument(metavar="TEST", exists=True, file_okay=False, help="What `build` made.")]


@listen.command(
    epilog="Example: [bold]opensnac listen build report/ --out test/ --codec opensnac --codec opus:6[/bold]"
)
def build(
    results: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder that `evaluate` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the test.")] = Path("listening"),
    codec: Annotated[
        list[str] | None, typer.Option(help="Codec to be heard; give it again for more. Default: all of them.")
    ] = None,
    training: Annotated[
        bool, typer.Option("--training/--no-training", help="A first page that does not count.")
    ] = True,
) -> None:
    """Make a test's page for listeners, and the key to their answers.

    TEST/page/ works from a folder (open index.html) and with `opensnac listen serve`. Keep key.json to yourself.
    """
    with _reporting():
        from opensnac.listening.build import build as make

        count = make(results, out, codec or [], training)
        print(f"{count} trials. Open {out / 'page' / 'index.html'}, or: opensnac listen serve {out}")


@listen.command(epilog="Example: [bold]opensnac listen serve test/ --answers answers/ --host 0.0.0.0[/bold]")
def serve(
    test: Test,
    answers: Annotated[Path, typer.Option(help="Folder of answers, a file a listener.")] = Path("answers"),
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
) -> None:
    """Give listeners the page, and keep what they answer."""
    with _reporting():
        from opensnac.listening.serve import serve as run_server

        run_server(test, answers, host, port)


@listen.command(epilog="Example: [bold]opensnac listen score answers/ --test test/[/bold]")
def score(
    answers: Annotated[list[Path], typer.Argument(metavar="ANSWERS", help="Files of answers, or folders of them.")],
    test: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder that `build` made.")] = Path(
        "listening"
    ),
) -> None:
    """Screen listeners, and print means, intervals and pairwise tests, with the paper's figures beside them."""
    with _reporting():
        from opensnac.listening.score import score as judge

        print(judge(test, answers))


@app.command(epilog="Example: [bold]opensnac bench --against-reference --threads 1[/bold]")
def bench(
    model: Model = None,
    config: Annotated[
        str | None,
        typer.Option(help="A model with random weights instead: a config.json, or a shipped run such as music_32khz."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of audio to code at once.")] = 10.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: as many as PyTorch takes.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Calls that are timed, after a first one.")] = 3,
    against_reference: Annotated[
        bool, typer.Option("--against-reference", help="Run the package snac beside it, with the same weights.")
    ] = False,
    reduced: Annotated[bool, typer.Option("--reduced", help="Decode with products in bfloat16.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file for the figures, JSON.")] = None,
) -> None:
    """Measure speed and memory: whole recordings and streams, encoding and decoding."""
    with _reporting():
        from opensnac.bench import run_bench, subject

        run_bench(subject(model, config), seconds, threads, rounds, against_reference, reduced, out)


@app.command(epilog="Example: [bold]opensnac demo -o demo_output[/bold]")
def demo(
    recording: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A recording. Default: an example."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of what it makes.")] = Path("demo_output"),
    model: Model = None,
) -> None:
    """Code and decode a recording: sizes, speed, quality, and a picture of both spectrograms."""
    with _reporting():
        from opensnac.demo import run_demo

        run_demo(out, recording, model)


def _needs_extra(extra: str, *packages: str) -> None:
    """OpensnacError that says what to install where one of an extra's packages is missing."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise OpensnacError(f"{', '.join(missing)} is not installed; run: pip install 'opensnac[{extra}]'")


def _plan(
    inputs: list[str], out: str | None, read: Sequence[str], write: Sequence[str], ending: str | None = None
) -> list[Job]:
    batch = plan(inputs, out, read, write, ending)
    if batch[0].target is None and sys.stdout.isatty():
        raise PlanError("standard output is a terminal; name a file with -o, or pipe the bytes on")
    return batch


def _ending(audio_format: str | None) -> str | None:
    if audio_format not in (None, "wav", "flac", "ogg", "raw"):
        raise PlanError(f"--format is {audio_format!r}; it must be wav, flac, ogg or raw")
    return f".{audio_format}" if audio_format else None


def _raw_layout(raw: str | None) -> tuple[int, int] | None:
    """Rate and channels of headerless samples."""
    if raw is None:
        return None
    rate, _, channels = raw.partition(":")
    if not rate.isdecimal() or not (channels or "1").isdecimal() or not int(channels or 1):
        raise PlanError(f"--raw is {raw!r}; a rate in Hz was needed, or a rate and channels such as 48000:2")
    return int(rate), int(channels or 1)


def _source(job: Job) -> Path | BinaryIO:
    return sys.stdin.buffer if job.source is None else job.source


def _target(job: Job) -> Path | BinaryIO:
    return sys.stdout.buffer if job.target is None else job.target


def _run(batch: list[Job], work: Callable[[Job, Report], Result | None], workers: int = 1) -> None:
    """Do the work with a progress bar on a terminal; list failures, and exit with 1 if there are any."""
    with _progress_bar() as bar:
        task = bar.add_task("", total=sum(job.bytes for job in batch))
        done = dict.fromkeys(batch, 0.0)

        def advance(job: Job, share: float) -> None:
            done[job] = share * job.bytes
            bar.update(task, description=job.name, completed=sum(done.values()))

        def fail(job: Job, error: Exception) -> None:
            _say(_message(error, job))
            advance(job, 1)

        def work_and_warn(job: Job, report: Report) -> None:
            result = work(job, report)
            if result is not None and result.damage:
                _say(f"{job.name}: only the first {result.seconds:.1f} s could be kept: {result.damage}")

        failures = run(batch, work_and_warn, workers, advance, fail)
    if failures:
        if len(batch) > 1:
            _say(f"{failures} of {len(batch)} files failed")
        raise typer.Exit(FAILED)


def _progress_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        redirect_stdout=sys.stdout.isatty(),  # else it carries bytes
        transient=True,
    )


@contextmanager
def _reporting() -> Iterator[None]:
    """Turn what a command raises into one line on stderr and an exit code."""
    try:
        yield
        sys.stdout.flush()
    except typer.Exit:
        raise
    except PlanError as error:
        _say(str(error))
        raise typer.Exit(MISUSED) from error
    except KeyboardInterrupt as error:
        _say("interrupted; what was finished stays, nothing is half-written")
        raise typer.Exit(INTERRUPTED) from error
    except BrokenPipeError as error:  # whoever read our output has gone: no complaint, nor at shutdown
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from error
    except Exception as error:
        _say(_message(error))
        raise typer.Exit(FAILED) from error


def _message(error: Exception, job: Job | None = None) -> str:
    """One line about an error, which names the file."""
    if os.environ.get("OPENSNAC_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, OpensnacError | FileExistsError):
        text = str(error)
    elif isinstance(error, MemoryError):
        text = "there is not enough memory for this file"
    else:
        text = f"unexpected {type(error).__name__}: {error} (OPENSNAC_DEBUG=1 shows where)"
    named = job is None or any(str(path) in text for path in (job.source, job.target) if path)
    return " ".join((text if named or job is None else f"{job.name}: {text}").split())


def _say(text: str) -> None:
    print(f"opensnac: {text}", file=sys.stderr)


def _describe(facts: dict[str, Any]) -> str:
    """What `info` shows of a stream."""
    strides, counts = facts["vq_strides"], facts["codes_per_scale"]
    channels = "1 channel" if facts["channels"] == 1 else f"{facts['channels']} channels"
    rate, hop = facts["sampling_rate"], facts["hop_length"]
    scales = ", ".join(f"{count} (stride {s})" for count, s in zip(counts, strides, strict=True))
    bits = f"{facts['num_bytes']} bytes, {facts['file_bits_per_second']:.0f} bits per second"
    lines = {
        "model": f"{facts['model_name']}, weights {facts['weights_hash']}",
        "recording": f"{facts['duration_seconds']:.3f} s, {channels}, "
        f"{facts['num_samples']} samples at {facts['original_rate']} Hz",
        "codec": f"{rate} Hz, {facts['num_frames']} frames of {hop} samples",
        "codes": f"{scales}, each below {facts['codebook_size']}, in every channel",
        "size": f"{bits}; codes alone {facts['bits_per_second']:.0f}",
        "format": f"version {facts['format_version']}, {facts['num_packets']} packets",
    }
    return "\n".join([facts["file"], *(f"  {name:<10}{text}" for name, text in lines.items())])


if __name__ == "__main__":
    main()
