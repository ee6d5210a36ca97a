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
Jobs = Annotated[int, typer.Option(min=1, help="Files worked on at once; they share the cores.")]
Runtime = Annotated[
    str | None,
    typer.Option(metavar="torch|onnx", help="What runs the model. Default: PyTorch where it is installed."),
]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda or cuda:N.")]
Force = Annotated[bool, typer.Option("--force", help="Replace outputs that exist.")]
SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing", help="Leave outputs that exist and are whole, of this input, and by this model and settings."
    ),
]
KeepEnding = Annotated[
    bool, typer.Option("--keep-ending", help="Name outputs after the whole input: a.mp3 becomes a.mp3.snac.")
]
Follow = Annotated[bool, typer.Option("--follow/--no-follow", help="Follow links to folders, each folder once.")]


@command(CODE, "opensnac encode talks/ -o coded/ --jobs 2")
def encode(
    inputs: Inputs,
    out: Out = None,
    model: Model = None,
    mono: Annotated[bool, typer.Option("--mono", help="Mix all channels into one.")] = False,
    channel: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Take channel N alone, counted from 1, instead of a mix.")
    ] = None,
    gain: Annotated[float, typer.Option(metavar="DB", help="Make recordings so many decibels louder first.")] = 0.0,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Bring each recording's loudest sample to -1 dB of full scale first.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse recordings that there would be a warning about.")
    ] = False,
    raw: Annotated[
        str | None,
        typer.Option(metavar="RATE[:CHANNELS]", help="The input is headerless 16-bit little-endian samples."),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Send each coarse frame at once, in a packet of its own.")
    ] = False,
    reduced: Annotated[
        bool,
        typer.Option(
            "--reduced",
            help="Multiply in bfloat16 where the processor can: faster; a third of the codes differ, scores hardly.",
        ),
    ] = False,
    device: Device = "cpu",
    runtime: Runtime = None,
    together: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Code short recordings of similar length in batches of so much audio; 0: one by one. "
            "Default: 60 on a GPU; 0 on the processor, which one recording keeps busy: no faster in batches.",
        ),
    ] = None,
    keep_ending: KeepEnding = False,
    follow: Follow = True,
    jobs: Jobs = 1,
    skip_existing: SkipExisting = False,
    force: Force = False,
) -> None:
    """Code recordings (WAV, FLAC, OGG, Opus, MP3, ...) into .snac files.

    A folder is searched for recordings, whose tree is kept; what it holds besides is listed at the end. What exists is
    not replaced without --force. M4A, AAC, WebM, WMA, AMR and films need: pip install 'opensnac\\[media]'
    A live source: [bold]arecord -t raw -f S16_LE -r 24000 | opensnac encode - --raw 24000 --live | ...[/bold]
    """
    with reporting():
        layout = _raw_layout(raw)
        if mono and channel is not None:
            raise UsageError("--mono mixes all channels and --channel takes one; give one of the two")
        left_out, search = LeftOut(), Search.for_recordings([SNAC], follow)
        batch = _jobs(inputs, out, search, [SNAC], keep_ending=keep_ending, left_out=left_out)
        from opensnac.recordings import finished, model_cache, transcode
        from opensnac.recordings.preprocessing import Preprocessing

        models = model_cache.ModelCache(model, reduced, device, runtime=runtime, workers=jobs)
        if together and models.runtime == "onnx":
            raise BackendError("batches need the runtime torch; leave out --together or --runtime onnx")
        codec = models.get()
        preprocessing = Preprocessing(mono, gain, normalize, strict, channel)
        pending = _Pending(batch, force, skip_existing)
        pending.compare(lambda source, target: finished.coded_already(source, target, codec, preprocessing, layout))
        alone = layout or live or len(batch) == 1 or (together is None and device == "cpu") or together == 0
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
        bool,
        typer.Option("--reduced", help="Multiply in bfloat16 where the processor can: faster, its error below -35 dB."),
    ] = False,
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Of a damaged file, decode what precedes the damage.")
    ] = False,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HUB_ID",
            help="Download this model where a file names it; OWNER/* for all of an owner's. Give it again for more. "
            "Without, files may name bundled and cached models only.",
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
    """Decode .snac files into WAV, FLAC (16 bit) or OGG (Vorbis) files.

    A folder is searched for .snac files, whose tree is kept. Each output has exactly the recording's length.
    To listen as packets come: [bold]... | opensnac decode - --format raw | aplay -f S16_LE -r 24000[/bold]
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
        pending.compare(lambda source, target: finished.decoded_already(source, target, sample_rate))

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
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line for each file.")] = False,
) -> None:
    """Show what .snac files hold: model, length, rates, bits per second, codes per scale."""
    with reporting():
        from opensnac import bitstream

        batch = [job for name in files for job in find_jobs([name], None, Search([SNAC]), [".json"])]

        def show(job: Job, report: Report) -> None:
            with open(job.source, "rb") if job.source else nullcontext(sys.stdin.buffer) as file:
                facts = {"file": job.name} | bitstream.read(file).info()
            print(json.dumps(facts) if as_json else shown(_describe(facts)))

        run_jobs(batch, show)
        if not as_json:
            print(f"\nOn this processor files are decoded by {processor.backend()}.")


@command(CODE, "opensnac models")
def models() -> None:
    """List the models that need no download: bundled ones, and those in the hub's cache."""
    with reporting():
        from opensnac.models import DEFAULT_MODEL, bundled_models, cached_models

        for name in bundled_models():
            print(f"{name}  bundled{', default' if name == DEFAULT_MODEL else ''}")
        for name in cached_models():
            print(f"{name}  cached")
        print(f"\nOn this processor they run by {processor.backend()}.")


def _batches(codec: Any, files: list[Path], seconds: float | None, preprocessing: Preprocessing) -> Batcher:
    """Batches of short recordings, for a model of PyTorch."""
    from opensnac.recordings.grouping import BATCH_SECONDS, Batcher

    return Batcher(codec, files, BATCH_SECONDS if seconds is None else seconds, preprocessing)


class _Pending:
    """The jobs of a batch that are still to be done: with `skip`, those without a finished output.

    Unless `force` is given, outputs that are there and not finished stay, and their jobs fail in time.
    """

    def __init__(self, batch: list[Job], force: bool, skip: bool) -> None:
        self.jobs = batch
        self.finished = 0
        self._force, self._skip = force, skip
        self._other: dict[Job, str] = {}

    def compare(self, difference: Callable[[Path, Path], str | None]) -> None:
        """Leave out the jobs whose output `difference` finds to be what it should be."""
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
        """The jobs whose output is not in the way."""
        return [job for job in self.jobs if self._force or job.target is None or not job.target.exists()]

    def refuse_existing(self, job: Job) -> None:
        """FileExistsError, with what was found there, where a job's output is in the way."""
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
        raise UsageError("standard output is a terminal; name a file with -o, or pipe the bytes on")
    return batch


def _ending(audio_format: str | None) -> str | None:
    if audio_format not in (None, "wav", "flac", "ogg", "raw"):
        raise UsageError(f"--format is {audio_format!r}; it must be wav, flac, ogg or raw")
    return f".{audio_format}" if audio_format else None


def _raw_layout(raw: str | None) -> tuple[int, int] | None:
    """Rate and channels of headerless samples."""
    if raw is None:
        return None
    rate, _, channels = raw.partition(":")
    if not rate.isdecimal() or not (channels or "1").isdecimal() or not int(channels or 1):
        raise UsageError(f"--raw is {raw!r}; expected a rate in Hz, or a rate and channels such as 48000:2")
    return int(rate), int(channels or 1)


def _source(job: Job) -> Path | BinaryIO:
    return sys.stdin.buffer if job.source is None else job.source


def _target(job: Job) -> Path | BinaryIO:
    return sys.stdout.buffer if job.target is None else job.target


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
