"""Writers of a shard's files: Parquet, WebDataset or flat tokens. Equal rows give equal bytes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from opensnac import bitstream
from opensnac.bitstream import Header
from opensnac.config import CodecConfig
from opensnac.corpus.plan import KINDS, passed_name
from opensnac.corpus.rows import Row, flat_tokens
from opensnac.streaming.tokens import TokenLayout

ROWS_A_GROUP = 256  # of a Parquet file: the least a reader of one row must read
ENDINGS = {"parquet": (".parquet",), "webdataset": (".tar",), "bin": (".bin", ".parquet")}


def row_schema(columns: dict[str, str], scales: int | None) -> pa.Schema:
    """The columns of a row without codes; with `scales` also the lists of codes, one flat list for 0."""
    fields = [
        ("id", pa.string()),
        ("source", pa.string()),
        *((name, KINDS[kind]) for name, kind in columns.items()),
        ("channel", pa.int32()),
        ("start", pa.float64()),
        ("num_samples", pa.int64()),
        ("sampling_rate", pa.int32()),
        ("seconds", pa.float64()),
        ("peak", pa.float64()),
        ("level_db", pa.float64()),
        ("clipped", pa.float64()),
    ]
    if scales == 0:
        fields.append(("tokens", pa.list_(pa.int32())))
    fields += [(f"codes_{scale}", pa.list_(pa.uint16())) for scale in range(scales or 0)]
    return pa.schema(fields)


def facts_of(row: Row, columns: dict[str, str]) -> dict[str, Any]:
    """A row without its codes, in the order of the schema."""
    given = {passed_name(name): value for name, value in row.columns.items()}
    return {
        "id": row.id,
        "source": row.source,
        **{name: _as(given.get(name), kind) for name, kind in columns.items()},
        "channel": row.channel,
        "start": row.start,
        "num_samples": row.num_samples,
        "sampling_rate": row.sampling_rate,
        "seconds": round(row.seconds, 6),
        "peak": row.peak,
        "level_db": row.level_db,
        "clipped": row.clipped,
    }


def _as(value: Any, kind: str) -> Any:
    """A column's value as its type; a value of no type becomes JSON text."""
    if value is None:
        return None
    if kind == "json":
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return float(value) if kind == "float" else value


def write_parquet(
    path: Path, rows: Sequence[Row], columns: dict[str, str], layout: TokenLayout | None, facts: str, scales: int
) -> None:
    """One Parquet file of codes by scale, or of tokens if there is a `layout`; `facts` is JSON for its metadata."""
    schema = row_schema(columns, 0 if layout else scales).with_metadata({"opensnac": facts})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, len(rows), ROWS_A_GROUP):
            group = rows[first : first + ROWS_A_GROUP]
            table = _facts_table(group, columns)
            if layout:
                lists = {"tokens": _lists([flat_tokens(row.codes, layout) for row in group], np.int32)}
            else:
                lists = {f"codes_{n}": _lists([row.codes[n] for row in group], np.uint16) for n in range(scales)}
            for name, values in lists.items():
                table = table.append_column(name, values)
            writer.write_table(table.cast(schema), row_group_size=ROWS_A_GROUP)


def _facts_table(rows: Sequence[Row], columns: dict[str, str]) -> pa.Table:
    return pa.Table.from_pylist([facts_of(row, columns) for row in rows], row_schema(columns, None))


def _lists(values: Sequence[np.ndarray], dtype: Any) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int32)
    flat = np.concatenate([np.zeros(0, dtype), *values]).astype(dtype)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def write_webdataset(
    path: Path, shard: int, rows: Sequence[Row], columns: dict[str, str], model: tuple[str, str], config: CodecConfig
) -> None:
    """A tar file with KEY.snac, which `opensnac decode` reads, and KEY.json for each row. It contains no timestamps."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, row in enumerate(rows):
            key = f"{shard:06d}_{number:06d}"
            _add(archive, f"{key}.json", json.dumps(facts_of(row, columns), ensure_ascii=False).encode())
            _add(archive, f"{key}.snac", snac_bytes(row.codes, row.num_samples, row.sampling_rate, model, config))


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(data), 0, 0o644
    archive.addfile(member, io.BytesIO(data))


def snac_bytes(
    codes: Sequence[np.ndarray], num_samples: int, rate: int, model: tuple[str, str], config: CodecConfig
) -> bytes:
    """A row as a `.snac` file; `model` is its name and fingerprint."""
    file = io.BytesIO()
    bitstream.write(file, header_of(rate, model, config), [code[None].astype(np.int64) for code in codes], num_samples)
    return file.getvalue()


def header_of(rate: int, model: tuple[str, str], config: CodecConfig) -> Header:
    """The header of a row's `.snac` file; `model` is its name and fingerprint."""
    name, fingerprint = model
    return Header(
        model_name=name,
        weights_hash=fingerprint[: bitstream.WEIGHTS_HASH_DIGITS],
        sampling_rate=config.sampling_rate,
        original_rate=rate,
        channels=1,
        hop_length=config.hop_length,
        vq_strides=config.vq_strides,
        codebook_size=config.codebook_size,
        frame_multiple=config.frame_multiple,
    )


def end_token(layout: TokenLayout) -> int:
    """The end token after each row in a file of flat tokens: the first number past the codes."""
    return layout.vocabulary.stop


def bin_dtype(end: int) -> type[np.uint16] | type[np.uint32]:
    """The narrowest of the two types that holds every token and the end token."""
    return np.uint16 if end < 1 << 16 else np.uint32


def write_bin(tokens: Path, index: Path, rows: Sequence[Row], columns: dict[str, str], layout: TokenLayout) -> None:
    """A shard's tokens, little-endian, each row followed by the end token; and an index of rows with their counts."""
    counts = []
    with tokens.open("wb") as file:
        for row in rows:
            flat = np.append(flat_tokens(row.codes, layout), end_token(layout))
            file.write(flat.astype(np.dtype(bin_dtype(end_token(layout))).newbyteorder("<")).tobytes())
            counts.append(len(flat) - 1)
    table = _facts_table(rows, columns).append_column("num_tokens", pa.array(counts, pa.int64()))
    pq.write_table(table, index, compression="zstd")
