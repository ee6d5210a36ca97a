"""The interface of codecs in the evaluation: a clip is encoded to actual bytes and decoded.

A codec's bytes are those that a receiver needs for decoding, without container overhead; `counted` describes them.
Times include reading and writing files and starting programs.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from opensnac.errors import OpensnacError

POLL_SECONDS = 0.002  # between readings of a program's memory


class Coded(NamedTuple):
    """A decoded clip: float32 (samples,), with the original's length and rate and aligned to it.

    `num_bytes` is None for the original. `codes` (coarse to fine) and `codebook_size` are set by codecs that expose
    them, `peak_bytes` (of memory) by those that are programs.
    """

    audio: np.ndarray
    num_bytes: int | None
    file_bytes: int | None
    encode_seconds: float
    decode_seconds: float
    codes: list[np.ndarray] | None = None
    codebook_size: int | None = None
    peak_bytes: int | None = None


class Codec(ABC):
    """A codec by its name on the command line; `missing`, then `version`, then calls."""

    name: str
    counted: str  # what `num_bytes` counts
    in_process: ClassVar[bool] = False  # it runs in this process, whose memory is measured

    @abstractmethod
    def missing(self) -> str | None:
        """None when the codec can run here, else what is missing and how to install it."""

    @abstractmethod
    def version(self) -> str:
        """The versions that determine the result."""

    @abstractmethod
    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        """Encode and decode a clip: float32 (samples,), rate in Hz."""


class Original(Codec):
    """The unchanged clip: the ceiling of every metric."""

    name = "original"
    counted = "not coded"

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return "not coded"

    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        return Coded(clip, None, None, 0.0, 0.0)


def fit(samples: np.ndarray, num_samples: int) -> np.ndarray:
    """Cut or zero-pad to exactly `num_samples`."""
    return np.pad(samples[:num_samples], (0, max(0, num_samples - len(samples)))).astype(np.float32)


def split_choice(choice: str) -> tuple[str, str | None]:
    """`RATE@MODEL` as (rate, model); without an @ the model is None."""
    rate, _, model = choice.partition("@")
    return rate, model or None


class ProgramRun(NamedTuple):
    """A program's seconds and peak memory in bytes (None if the system does not report it)."""

    seconds: float
    peak_bytes: int | None


def run_program(command: list[str]) -> ProgramRun:
    """Run a program. Raises OpensnacError with its last line of output if it fails."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        peaks: list[int] = []
        watcher = threading.Thread(target=_watch, args=(process, peaks), daemon=True)
        watcher.start()
        try:
            printed, complained = process.communicate()
        except BaseException:  # the waiting process is being terminated
            process.kill()
            raise
        seconds = time.perf_counter() - start
        watcher.join()
    if process.returncode != 0:
        words = (complained.strip() or printed.strip() or "no output").splitlines()[-1]
        raise OpensnacError(f"{command[0]} expected exit code 0, got {process.returncode}: {words}")
    return ProgramRun(seconds, max(peaks, default=None))


def _watch(process: subprocess.Popen[str], peaks: list[int]) -> None:
    """Poll the peak memory; rusage would include the parent's memory before exec."""
    while process.returncode is None and (peak := peak_memory(process.pid)) is not None:
        peaks.append(peak)
        time.sleep(POLL_SECONDS)


def peak_memory(pid: int | str = "self") -> int | None:
    """Peak resident memory of a running process in bytes; None without /proc."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), None)


def missing_programs(*programs: str, debian_package: str) -> str | None:
    """The `programs` that are not on the path and how to install them; None if all are."""
    absent = [program for program in programs if shutil.which(program) is None]
    if not absent:
        return None
    return f"{', '.join(absent)} not found; run: apt-get install {debian_package}"


def first_line(command: list[str]) -> str:
    """The first line that a program prints."""
    return subprocess.run(command, capture_output=True, text=True).stdout.partition("\n")[0]


def debian_version(package: str) -> str | None:
    """Name and version of an installed Debian package, None if it is not installed or this is not Debian."""
    if shutil.which("dpkg-query") is None:
        return None
    return first_line(["dpkg-query", "--show", "--showformat", "${Package} ${Version}", package]) or None
