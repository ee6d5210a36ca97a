"""Summarises records of clips as means with intervals, over all clips and per label: the contents of results.json."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from opensnac import __version__
from opensnac.evaluation.codecs import Codec
from opensnac.evaluation.metrics import Metric, codebook_use, package_version
from opensnac.evaluation.recognition import WORD_ERRORS, ModelMetric
from opensnac.evaluation.statistics import mean_with_interval, paired_difference

SCHEMA = """results.json, schema 2:
    schema          2
    created         time in UTC, ISO 8601
    command         the command line that made it
    machine         cpu, cores, system
    versions        of opensnac, Python and every package used
    clips, seconds  number of recordings, and their total length
    labels          label -> clips, seconds; a label is the first sub-folder a recording is in; empty for none
    baseline        the codec that `differences` are from, or null
    metrics         name -> label, digits, higher_is_better, missing (null, or why it was not measured); of metrics
                    by a model also have model, and transcripts: how many clips have a transcript
    skipped         codec -> why it was not run
    kept            clips on the page: clip, label, and files: codec -> file below audio/, the first 12 s
    codecs          one entry per codec that ran:
        codec, name             as requested, and without the folders of a model's path
        version
        counted                 what the bytes consist of
        bits_per_second         of all clips together; null for the original
        file_bits_per_second    the same from whole files, containers included
        encode_times_real_time, decode_times_real_time
        peak_bytes              of memory: a program's own, else of a Python process that codes the largest clip;
                                null if the system does not report it
        scores                  metric -> mean; low, high: its 95 % bootstrap interval, null for one clip;
                                count: clips it applied to. null if it applied to none. Word errors: over all words
        differences             the same of this codec minus the baseline on the same clips; null without a baseline
                                and for the baseline itself
        labels                  label -> bits_per_second, scores, differences: as above, of its clips alone
        codebooks               per scale, coarse to fine: count, share, share_if_uniform, entropy_bits, perplexity;
                                null for codecs without codebooks
        failed                  clip -> error

Decoded audio is aligned with the original in time and loudness before it is scored (see matching.py).
"""
PACKAGES = ("numpy", "torch", "soundfile", "soxr", "numba", "pyloudnorm", "scipy")

Record = Mapping[str, Any]  # one clip through one codec, made by evaluate.measure


def summarise(
    records: Sequence[Record],
    codecs: Sequence[Codec],
    metrics: Mapping[str, Metric],
    skipped: Mapping[str, str],
    absent: Mapping[str, str],
    baseline: str | None,
    command: str,
) -> dict[str, Any]:
    """The contents of results.json (see SCHEMA), from the records of every clip and codec."""
    clips = [record for record in records if "memory_of" not in record]
    used = {package for metric in metrics.values() for package in metric.packages} | set(PACKAGES)
    names = short_names([codec.name for codec in codecs])
    return {
        "schema": 2,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "machine": {"cpu": _cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"opensnac": __version__, "python": platform.python_version()}
        | {package: package_version(package) for package in sorted(used)},
        **_extent(clips),
        "labels": {label: _extent(chosen) for label, chosen in _by_label(clips).items()},
        "baseline": baseline,
        "metrics": {name: _facts(metric, absent.get(name), clips) for name, metric in metrics.items()},
        "skipped": dict(skipped),
        "kept": _kept(clips),
        "codecs": [_codec_summary(codec, names[codec.name], metrics, records, baseline) for codec in codecs],
    }


def _facts(metric: Metric, missing: str | None, records: Sequence[Record]) -> dict[str, Any]:
    facts = {
        "label": metric.label,
        "digits": metric.digits,
        "higher_is_better": metric.higher_is_better,
        "missing": missing,
    }
    if not isinstance(metric, ModelMetric):
        return facts
    model = metric.model if missing else metric.load(metric.model).version
    return facts | {"model": model, "transcripts": len({one["clip"] for one in records if one.get("transcript")})}


def label_of(clip: str) -> str:
    """The first sub-folder of a clip's path; empty if it is in none."""
    return clip.split("/")[0] if "/" in clip else ""


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without the folders of a model's path, as long as they stay distinct."""
    short = {}
    for name in names:
        family, mark, model = name.partition("@" if "@" in name else ":")
        short[name] = family + mark + PurePath(model).name
    return {name: new if list(short.values()).count(new) == 1 else name for name, new in short.items()}


def _by_label(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by label, if there is any label."""
    labels: dict[str, list[Record]] = {}
    for record in records:
        labels.setdefault(label_of(record["clip"]), []).append(record)
    return {} if set(labels) == {""} else labels


def _extent(records: Sequence[Record]) -> dict[str, Any]:
    lengths = {record["clip"]: record["seconds"] for record in records if "error" not in record}
    return {"clips": len({record["clip"] for record in records}), "seconds": sum(lengths.values())}


def _kept(records: Sequence[Record]) -> list[dict[str, Any]]:
    kept: dict[str, dict[str, str]] = {}
    for record in records:
        if record.get("kept") and "error" not in record:
            kept.setdefault(record["clip"], {})[record["codec"]] = record["kept"]
    return [{"clip": clip, "label": label_of(clip), "files": files} for clip, files in kept.items()]


def _codec_summary(
    codec: Codec, name: str, metrics: Mapping[str, Metric], records: Sequence[Record], baseline: str | None
) -> dict[str, Any]:
    own = [record for record in records if record["codec"] == codec.name and "memory_of" not in record]
    done = [record for record in own if "error" not in record]
    compared = baseline if baseline != codec.name else None
    against = [record for record in records if record["codec"] == compared and "scores" in record]
    peaks = [record["peak_bytes"] for record in records if record["codec"] == codec.name and record.get("peak_bytes")]
    return {
        "codec": codec.name,
        "name": name,
        "version": codec.version(),
        "counted": codec.counted,
        **_rates(done),
        "encode_times_real_time": _inverse(_rate(done, "encode_seconds")),
        "decode_times_real_time": _inverse(_rate(done, "decode_seconds")),
        "peak_bytes": max(peaks, default=None),
        "scores": _scores(done, metrics),
        "differences": _differences(done, against, metrics),
        "labels": {
            label: {
                **_rates(chosen),
                "scores": _scores(chosen, metrics),
                "differences": _differences(chosen, against, metrics),
            }
            for label, chosen in _by_label(done).items()
        },
        "codebooks": _codebooks(done),
        "failed": {record["clip"]: record["error"] for record in own if "error" in record},
    }


def _rates(records: Sequence[Record]) -> dict[str, float | None]:
    return {
        "bits_per_second": _rate(records, "num_bytes", 8),
        "file_bits_per_second": _rate(records, "file_bytes", 8),
    }


def _values(records: Sequence[Record], metric: str) -> dict[str, float]:
    """Scores by clip, without missing ones."""
    return {record["clip"]: value for record in records if (value := record["scores"].get(metric)) is not None}


def _weights(records: Sequence[Record], metric: str) -> dict[str, float] | None:
    """The weight of each clip for word error rates, its number of words; None for other metrics."""
    return {record["clip"]: record.get("words", 0) for record in records} if metric == WORD_ERRORS else None


def _scores(records: Sequence[Record], metrics: Iterable[str]) -> dict[str, Any]:
    def mean(metric: str) -> dict[str, Any] | None:
        values, weights = _values(records, metric), _weights(records, metric)
        return mean_with_interval([*values.values()], None if weights is None else [weights[clip] for clip in values])

    return {metric: mean(metric) for metric in metrics}


def _differences(records: Sequence[Record], against: Sequence[Record], metrics: Iterable[str]) -> dict[str, Any] | None:
    if not against:
        return None
    return {
        metric: paired_difference(_values(records, metric), _values(against, metric), _weights(records, metric))
        for metric in metrics
    }


def _rate(records: Sequence[Record], quantity: str, factor: float = 1) -> float | None:
    """`quantity` per second of audio, over all clips."""
    counted = [record for record in records if record[quantity] is not None]
    if not counted:
        return None
    return factor * sum(record[quantity] for record in counted) / sum(record["seconds"] for record in counted)


def _inverse(value: float | None) -> float | None:
    return 1 / value if value else None


def _codebooks(records: Sequence[Record]) -> list[dict[str, Any]] | None:
    """Use of each scale's codebook over all clips together."""
    coded = [record for record in records if record["codes"] is not None]
    if not coded:
        return None
    scales = zip(*(record["codes"] for record in coded), strict=True)
    size = coded[0]["codebook_size"]
    return [asdict(codebook_use(np.concatenate(clips).astype(np.int64), size)) for clips in scales]


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
