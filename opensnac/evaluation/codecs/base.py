"""What every codec is to the evaluation: a clip goes to real bytes and comes back.

What counts as a codec's bytes is what a receiver needs to decode, without the container's own overhead; each codec
says in `counted` what that is. Times include files that are written and read, and the start of programs.
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

POLL_SECONDS = 0.002  # between looks at a program's memory


class Coded(NamedTuple):
    """One clip after a codec: float32 (samples,), as long and as fast as the original and aligned to it.

    `num_bytes` is None for what is not coded. `codes` (coarse to fine) and `codebook_size` are there for
    codecs that show them, `peak_bytes` (of memory) for those that are programs.
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
    in_process: ClassVar[bool] = False  # it runs in this process, whose memory is then the codec's

    @abstractmethod
    def missing(self) -> str | None:
        """None when the codec can run here, else what is missing and how to install it."""

    @abstractmethod
    def version(self) -> str:
        """What was run: enough to tell two runs apart that may differ."""

    @abstractmethod
    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        """Code and decode a clip: float32 (samples,), rate in Hz."""


class Original(Codec):
    """The clip itself: the ceiling of every metric."""

    name = "original"
    counted = "not coded"

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return "not coded"

    def __call__(self, clip: np.ndarray, sample_rate: int) -> Coded:
        return Coded(clip, None, None, 0.0, 0.0)


def fit(samples: np.ndarray, num_samples: int) -> np.ndarray:
    """Exactly `num_samples`: cut, or filled up with silence."""
    return np.pad(samples[:num_samples], (0, max(0, num_samples - len(samples)))).astype(np.float32)


def split_choice(choice: str) -> tuple[str, str | None]:
    """`RATE@MODEL` as (rate, model); without an @ the model is None."""
    rate, _, model = choice.partition("@")
    return rate, model or None


class Ran(NamedTuple):
    """What a program took: seconds, and bytes of memory at its peak (None where the system does not tell)."""

    seconds: float
    peak_bytes: int | None


def run_program(command: list[str]) -> Ran:
    """Run a program to its end. Raises OpensnacError with its last words if it fails."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        peaks: list[int] = []
        watcher = threading.Thread(target=_watch, args=(process, peaks), daemon=True)
        watcher.start()
        try:
            printed, complained = process.communicate()
        except BaseException:  # who waits for it is told to end
            process.kill()
            raise
        seconds = time.perf_counter() - start
        watcher.join()
    if process.returncode != 0:
        words = (complained.strip() or printed.strip() or "it said nothing").splitlines()[-1]
        raise OpensnacError(f"{command[0]} failed with exit code {process.returncode}: {words}")
    return Ran(seconds, max(peaks, default=None))


def _watch(process: subprocess.Popen[str], peaks: list[int]) -> None:
    """Peak memory so far, again and again. rusage would not do: it counts what the parent held before exec."""
    while process.returncode is None and (peak := peak_memory(process.pid)) is not None:
        peaks.append(peak)
        time.sleep(POLL_SECONDS)


def peak_memory(pid: int | str = "self") -> int | None:
    """Most bytes that a living process ever had in memory; None where there is no /proc to tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), None)


def missing_programs(*programs: str, debian_package: str) -> str | None:
    """Which of `programs` are not on the path and how to install them; None where all are."""
    absent = [program for program in programs if shutil.which(program) is None]
    if not absent:
        return None
    return f"{', '.join(absent)} not found; run: apt-get install {debian_package}"


def first_line(command: list[str]) -> str:
    """The first line that a program prints."""
    return subprocess.run(command, capture_output=True, text=True).stdout.partition("\n")[0]


def debian_version(package: str) -> str | None:
    """Name and version of an installed Debian package, None where there is none or no Debian."""
    if shutil.which("dpkg-query") is None:
        return None
    return first_line(["dpkg-query", "--show", "--showformat", "${Package} ${Version}", package]) or None
