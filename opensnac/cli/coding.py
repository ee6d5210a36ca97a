"""encode, decode, info, models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from opensnac import processor
from opensnac.cli.app import CODE, Model, command
from opensnac.cli.reporting import reporting, run_jobs, shown
from opensnac.errors import BackendError
from opensnac.recordings.jobs import Job, LeftOut, Report, Search, UsageError, find_jobs

if TYPE_CHECKING:
    from opensnac.recordings.grouping import Batcher
    from opensnac.recordings.preprocessing import Preprocessing
    from opensnac.recordings.transcode import Result

SNAC = ".snac"

Inputs = Annotated[list[str], typer.Argument(metavar="IN", help="Files and folders, or - for standard input.")]
Out = Annotated[
    str | None,
    typer.Option("--out", "-o", help="A file, a folder, or - for standard output. Default: beside each input."),
]
Jobs = Annotated[int, typer.Option(min=1, help="Files processed in parallel; they share the cores.")]
Runtime = Annotated[
    str | None,
    typer.Option(metavar="torch|onnx", help="What runs the model. Default: PyTorch where it is installed."),
]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda or cuda:N.")]
Force = Annotated[bool, typer.Option("--force", help="Replace existing outputs.")]
SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing", help="Skip inputs whose output exists, is complete and matches input, model and settings."
    ),
]
KeepEnding = Annotated[
    bool, typer.Option("--keep-ending", help="Keep the input's extension in output names: a.mp3 becomes a.mp3.snac.")
]
Follow = Annotated[
    bool, typer.Option("--follow/--no-follow", help="Follow symbolic links to folders, each folder once.")
]


@command(CODE, "opensnac encode talks/ -o coded/ --jobs 2")
def encode(
    inputs: Inputs,
    out: Out = None,
    model: Model = None,
    mono: Annotated[bool, typer.Option("--mono", help="Mix all channels down to one.")] = False,
    channel: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Encode channel N only, counted from 1.")
    ] = None,
    gain: Annotated[float, typer.Option(metavar="DB", help="Amplify recordings by this many decibels first.")] = 0.0,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale each recording's peak to -1 dBFS first.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on recordings that would cause a warning.")] = False,
    raw: Annotated[
        str | None,
        typer.Option(metavar="RATE[:CHANNELS]", help="The input is headerless 16-bit little-endian PCM."),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Write each coarse frame immediately, in its own packet.")
    ] = False,
    reduced: Annotated[
        bool,
        typer.Option(
            "--reduced",
            help="Multiply in bfloat16 where the CPU can: faster; a third of the codes change, quality hardly.",
        ),
    ] = False,
    refine: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="ROUNDS",
            help="Decode, compare and improve the codes this many times: nearer to the original at the same bitrate; "
            "8 take one and a half times as long as the recording on two cores.",
        ),
    ] = 0,
    device: Device = "cpu",
    runtime: Runtime = None,
    together: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Encode short recordings of similar length in batches of this much audio; 0: one by one. "
            "Default: 60 on a GPU; 0 on a CPU, which batches do not speed up.",
        ),
    ] = None,
    keep_ending: KeepEnding = False,
    follow: Follow = True,
    jobs: Jobs = 1,
    skip_existing: SkipExisting = False,
    force: Force = False,
) -> None:
    """Encode recordings (WAV, FLAC, OGG, Opus, MP3, ...) as .snac files.

    Folders are searched recursively and their tree is kept; files that are not recordings are listed at the end.
    Existing outputs are replaced only with --force. M4A, AAC, WebM, WMA, AMR and video files need:
    pip install 'opensnac\\[media]'

    A live source: [bold]arecord -t raw -f S16_LE -r 24000 | opensnac encode - --raw 24000 --live | ...[/bold]
    """
    with reporting():
        layout = _raw_layout(raw)
        if mono and channel is not None:
            raise UsageError("expected either --mono or --channel, got both")
        left_out, search = LeftOut(), Search.for_recordings([SNAC], follow)
        batch = _jobs(inputs, out, search, [SNAC], keep_ending=keep_ending, left_out=left_out)
        from opensnac.recordings import finished, model_cache, transcode
        from opensnac.recordings.preprocessing import Preprocessing

        if refine and (live or together):
            raise UsageError(f"--refine: expected without {'--live' if live else '--together'}, got both")
        models = model_cache.ModelCache(model, reduced, device, runtime=runtime, workers=jobs, rounds=refine)
        if together and models.runtime == "onnx":
            raise BackendError("--together: expected runtime torch, got onnx; leave out one of the two")
        codec = models.get()
        preprocessing = Preprocessing(mono, gain, normalize, strict, channel)
        pending = _Pending(batch, force, skip_existing)
        pending.compare(lambda source, target: finished.is_encoded(source, target, codec, preprocessing, layout))
        alone = layout or live or refine or len(batch) == 1 or (together is None and device == "cpu") or together == 0
        short = [] if alone else [job.source for job in pending.writable if job.source]
        batches = _batches(codec, short, together, preprocessing) if short else None

        def work(job: Job, report: Report) -> Result:
            pending.refuse_existing(job)
            if job.source and batches and (ready := batches.pop(job.source)):
                return transcode.write_codes(ready, _target(job), codec, force=force)
            return transcode.encode_file(
                _source(job),
                _target(job),
                codec,
                mono=mono,
                gain_db=gain,
                normalize=normalize,
                strict=strict,
                channel=channel,
                raw=layout,
                live=live,
                force=force,
                report=report,
            )

        with model_cache.shared_cores(jobs):
            run_jobs(pending.jobs, work, jobs, left_out, pending.finished)


@command(CODE, "opensnac decode talk.snac -o talk.flac --sample-rate 48000")
def decode(
    inputs: Inputs,
    out: Out = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="speech, music, another model's name or hub id, or a folder. Default: the model that each file names."
        ),
    ] = None,
    sample_rate: Annotated[
        int | None,
        typer.Option(min=1_000, max=768_000, help="Rate of the output, Hz. Default: the recording's own."),
    ] = None,
    audio_format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="wav|flac|ogg|raw", help="Default: from the name of -o, else wav; raw is for pipes."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the decoder's noise.")] = 0,
    noise: Annotated[bool, typer.Option("--noise/--no-noise", help="Add the decoder's noise, or leave it out.")] = True,
    reduced: Annotated[
        bool,
        typer.Option("--reduced", help="Multiply in bfloat16 where the CPU can: faster, error below -35 dB."),
    ] = False,
    salvage: Annotated[bool, typer.Option("--salvage", help="Decode the intact beginning of damaged files.")] = False,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HUB_ID",
            help="Allow this model to be downloaded when a file names it; OWNER/* for all of an owner's; repeatable. "
            "Otherwise only bundled and cached models are used.",
        ),
    ] = None,
    device: Device = "cpu",
    runtime: Runtime = None,
    keep_ending: KeepEnding = False,
    follow: Follow = True,
    jobs: Jobs = 1,
    skip_existing: SkipExisting = False,
    force: Force = False,
) -> None:
    """Decode .snac files to WAV, FLAC (16 bit) or OGG (Vorbis) files.

    Folders are searched recursively and their tree is kept. Each output has exactly the recording's length.

    To play packets as they arrive: [bold]... | opensnac decode - --format raw | aplay -f S16_LE -r 24000[/bold]
    """
    with reporting():
        ending = _ending(audio_format)
        from opensnac.recordings.sink import WRITABLE

        left_out = LeftOut()
        search = Search([SNAC], expected=_sound_endings(), follow=follow)
        batch = _jobs(inputs, out, search, list(WRITABLE), ending, keep_ending=keep_ending, left_out=left_out)
        from opensnac.recordings import finished, model_cache, transcode

        models = model_cache.ModelCache(model, reduced, device, trust or (), runtime, jobs)
        pending = _Pending(batch, force, skip_existing)
        pending.compare(lambda source, target: finished.is_decoded(source, target, sample_rate))

        def work(job: Job, report: Report) -> Result:
            pending.refuse_existing(job)
            return transcode.decode_file(
                _source(job),
                _target(job),
                models,
                sample_rate=sample_rate,
                ending=ending,
                seed=seed,
                noise=noise,
                salvage=salvage,
                force=force,
                report=report,
            )

        with model_cache.shared_cores(jobs):
            run_jobs(pending.jobs, work, jobs, left_out, pending.finished)


@command(CODE, "opensnac info talk.snac --json")
def info(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help=".snac files, folders of them, or - for standard input."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per file and line.")] = False,
) -> None:
    """Show the contents of .snac files: model, length, rates, bitrate, codes per scale."""
    with reporting():
        from opensnac import bitstream

        batch = [job for name in files for job in find_jobs([name], None, Search([SNAC]), [".json"])]

        def show(job: Job, report: Report) -> None:
            with open(job.source, "rb") if job.source else nullcontext(sys.stdin.buffer) as file:
                facts = {"file": job.name} | bitstream.read(file).info()
            print(json.dumps(facts) if as_json else shown(_describe(facts)))

        run_jobs(batch, show)
        if not as_json:
            print(f"\nBackend on this CPU: {processor.backend()}.")


@command(CODE, "opensnac models")
def models() -> None:
    """List the models available without a download: bundled ones, and those in the hub's cache.

    Of the speech models the larger ones are better and slower.
    """
    with reporting():
        from opensnac.models import DEFAULT_MODEL, SHORT_NAMES, bundled_models, cached_models

        short = {full: f", --model {name}" for name, full in SHORT_NAMES.items()}
        for name, folder in bundled_models().items():
            size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
            mark = ", default" if name == DEFAULT_MODEL else ""
            print(f"{name}  bundled, {size:.0f} MB{mark}{short.get(name, '')}")
        for name in cached_models():
            print(f"{name}  cached")
        print(f"\nBackend on this CPU: {processor.backend()}.")


def _batches(codec: Any, files: list[Path], seconds: float | None, preprocessing: Preprocessing) -> Batcher:
    """Batches of short recordings, for a PyTorch model."""
    from opensnac.recordings.grouping import BATCH_SECONDS, Batcher

    return Batcher(codec, files, BATCH_SECONDS if seconds is None else seconds, preprocessing)


class _Pending:
    """The jobs still to be done: with `skip`, those without a complete output.

    Without `force`, existing outputs are not replaced; their jobs fail when their turn comes.
    """

    def __init__(self, batch: list[Job], force: bool, skip: bool) -> None:
        self.jobs = batch
        self.finished = 0
        self._force, self._skip = force, skip
        self._other: dict[Job, str] = {}

    def compare(self, difference: Callable[[Path, Path], str | None]) -> None:
        """Drop the jobs whose existing output is as expected: `difference` returns None."""
        if not self._skip:
            return
        jobs = []
        for job in self.jobs:
            if job.source is not None and job.target is not None and job.target.is_file():
                if (what := difference(job.source, job.target)) is None:
                    self.finished += 1
                    continue
                self._other[job] = what
            jobs.append(job)
        self.jobs = jobs

    @property
    def writable(self) -> list[Job]:
        """The jobs whose output does not exist or may be replaced."""
        return [job for job in self.jobs if self._force or job.target is None or not job.target.exists()]

    def refuse_existing(self, job: Job) -> None:
        """FileExistsError, with the reason, where a job's output exists, differs and may not be replaced."""
        if job in self._other and not self._force:
            raise FileExistsError(f"{job.target}: exists and {self._other[job]}; --force replaces it")


def _sound_endings() -> tuple[str, ...]:
    from opensnac.recordings import media
    from opensnac.recordings.source import READABLE

    return (*READABLE, *media.ENDINGS)


def _jobs(
    inputs: list[str], out: str | None, search: Search, write: Sequence[str], ending: str | None = None, **options: Any
) -> list[Job]:
    batch = find_jobs(inputs, out, search, write, ending, **options)
    if batch[0].target is None and sys.stdout.isatty():
        raise UsageError("standard output: expected a file or a pipe, got a terminal; give a file with -o")
    return batch


def _ending(audio_format: str | None) -> str | None:
    if audio_format not in (None, "wav", "flac", "ogg", "raw"):
        raise UsageError(f"--format: expected wav, flac, ogg or raw, got {audio_format!r}")
    return f".{audio_format}" if audio_format else None


def _raw_layout(raw: str | None) -> tuple[int, int] | None:
    """Rate and channels of headerless samples."""
    if raw is None:
        return None
    rate, _, channels = raw.partition(":")
    if not rate.isdecimal() or not (channels or "1").isdecimal() or not int(channels or 1):
        raise UsageError(f"--raw: expected a rate in Hz, or a rate and channels such as 48000:2, got {raw!r}")
    return int(rate), int(channels or 1)


def _source(job: Job) -> Path | BinaryIO:
    return sys.stdin.buffer if job.source is None else job.source


def _target(job: Job) -> Path | BinaryIO:
    return sys.stdout.buffer if job.target is None else job.target


def _describe(facts: dict[str, Any]) -> str:
    """The text that `info` prints for a stream."""
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
