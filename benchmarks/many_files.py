"""How the time to plan and report many files grows with their number, with empty files and jobs that only report.

python benchmarks/many_files.py --counts 10000 40000
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from opensnac.cli.reporting import run_jobs
from opensnac.recordings.jobs import Job, LeftOut, Report, find_jobs

FILES_A_FOLDER = 200


def main() -> None:
    """Measure each number of files, and print seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", nargs="+", type=int, default=[10_000, 40_000])
    for count in parser.parse_args().counts:
        with tempfile.TemporaryDirectory() as folder:
            planning, working = measure(Path(folder), count)
        print(f"{count} files: plan {planning:.2f} s, jobs and progress {working:.2f} s (processor time)")


def measure(folder: Path, count: int) -> tuple[float, float]:
    """Processor seconds of the plan and of the jobs."""
    for number in range(count):
        place = folder / str(number // FILES_A_FOLDER)
        place.mkdir(exist_ok=True)
        (place / f"{number}.wav").touch()
    start = time.process_time()
    batch = find_jobs([str(folder)], "out", [".wav"], [".snac"], left_out=LeftOut())
    middle = time.process_time()
    run_jobs(batch, _report_only, workers=2)
    return middle - start, time.process_time() - middle


def _report_only(job: Job, report: Report) -> None:
    report(0.5)


if __name__ == "__main__":
    main()
