"""Codes in formats other than `.snac`: JSON, a NumPy archive, tokens of one channel as JSON or text."""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Annotated, Any, BinaryIO

import numpy as np
import torch
from pydantic import Field, TypeAdapter

from opensnac import bitstream
from opensnac.bitstream import Limits
from opensnac.engine.engine import Engine
from opensnac.errors import AudioError, CodesError, LimitError
from opensnac.recordings.preprocessing import Preprocessing
from opensnac.recordings.source import Source
from opensnac.recordings.transcode import Coding, header_for
from opensnac.serving.messages import Message, MessageError, Token, parsed
from opensnac.serving.text import TextReader
from opensnac.streaming.tokens import TokenLayout

FORMS = {
    "snac": "application/octet-stream",
    "json": "application/json",
    "npz": "application/zip",
    "tokens": "application/json",
    "text": "text/plain",
}
MOST_BYTES = 1 << 24  # of a body that is not .snac, and of the arrays in it
MOST_ARRAYS = 32  # in an archive
MOST_VALUE = 1 << 16  # of a code; the codebook's size is checked later
NO_ARCHIVE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, OverflowError)
Codes = list[np.ndarray]  # integers (channels, n / stride) of each scale


class Facts(Message):
    """Metadata of a coded recording; null means the model's value."""

    model: str | None = Field(default=None, max_length=255)
    rate: int | None = Field(default=None, ge=8_000, le=48_000, description="Of the recording, Hz.")
    num_samples: int | None = Field(default=None, ge=1, le=2**39, description="Of one channel, at that rate.")
    sampling_rate: int | None = Field(default=None, description="Of the model, Hz.")
    strides: list[int] | None = Field(default=None, description="Frames of one code of each scale, coarse to fine.")


class Coded(Facts):
    """A recording as codes."""

    codes: list[list[list[Annotated[int, Field(ge=0, lt=MOST_VALUE)]]]] = Field(
        description="[scale][channel][code], coarse to fine."
    )


JSON: TypeAdapter[Any] = TypeAdapter(Coded | list[Token])


def form_of(content_type: str) -> str:
    """The format of a content type; `.snac` for unknown ones, since curl sends its own by default."""
    media = content_type.partition(";")[0].strip().lower()
    return {"application/json": "json", "application/zip": "npz", "text/plain": "text"}.get(media, "snac")


def encoded(
    source: BinaryIO, engine: Engine, form: str, mono: bool, raw: tuple[int, int] | None, offset: int, limits: Limits
) -> bytes:
    """A recording's codes in a format, with metadata. Raises AudioError for tokens of several channels."""
    with Source(source, raw, limits=limits) as recording:
        coding = Coding(recording, engine, Preprocessing(mono=mono))
        codes = [np.concatenate(scale, axis=1) for scale in zip(*coding, strict=True)]
    config = engine.config
    if form in ("json", "npz"):
        facts = Facts(
            model=engine.name,
            rate=coding.rate,
            num_samples=coding.num_samples,
            sampling_rate=config.sampling_rate,
            strides=list(config.vq_strides),
        )
        return _as_npz(facts, codes) if form == "npz" else _as_json(facts, codes)
    if coding.channels != 1:
        raise AudioError(f"expected one channel for tokens, got {coding.channels}; use mono=true")
    layout = TokenLayout.of(config, offset)
    tokens = layout.flatten([torch.from_numpy(code) for code in codes])[0].tolist()
    return layout.to_text(tokens).encode() if form == "text" else TypeAdapter(list[int]).dump_json(tokens)


def as_snac(
    source: BinaryIO, form: str, named: Callable[[str | None], Engine], model: str | None, offset: int
) -> BinaryIO:
    """Codes in another format as a `.snac` file; `named` loads the model that they name, or else `model`.

    Raises MessageError or CodesError for input in a wrong format or that does not fit the model, LimitError for more
    than MOST_BYTES, ModelError for an unknown model.
    """
    data = source.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise LimitError(f"expected at most {MOST_BYTES} bytes of codes, got more; send a .snac file")
    facts, codes = _from_npz(data) if form == "npz" else (Facts(), [])
    tokens = None
    if form == "text":
        tokens = data.decode(errors="replace")
    elif form in ("json", "tokens"):
        said = parsed(data, JSON)
        if isinstance(said, Coded):
            facts, codes = said, _arrays(said)
        else:
            tokens = said
    engine = named(facts.model or model)
    if tokens is not None:
        codes = _of_tokens(tokens, TokenLayout.of(engine.config, offset))
    return _written(facts, codes, engine)


def _written(facts: Facts, codes: Codes, engine: Engine) -> BinaryIO:
    config = engine.config
    for name, got, own in (
        ("sampling_rate", facts.sampling_rate, config.sampling_rate),
        ("strides", facts.strides, list(config.vq_strides)),
    ):
        if got not in (None, own):
            raise CodesError(f"expected {name} {own} for the model {engine.name}, got {got}")
    if not codes or not codes[0].size:
        raise CodesError("expected codes of at least one coarse frame, got none")
    header = header_for(engine, len(codes[0]), facts.rate or config.sampling_rate)
    frames = codes[0].shape[1] * config.vq_strides[0]
    file = io.BytesIO()
    bitstream.write(file, header, codes, facts.num_samples or header.num_samples(frames))
    file.seek(0)
    return file


def _of_tokens(tokens: list[int] | str, layout: TokenLayout) -> Codes:
    if isinstance(tokens, str):
        tokens = TextReader(layout).push(tokens)
    if not tokens:
        raise CodesError(f"expected tokens such as {layout.to_text([layout.offset])} or {layout.offset}, got none")
    return [code.numpy() for code in layout.unflatten(torch.tensor([tokens]))]


def _arrays(coded: Coded) -> Codes:
    try:
        return [np.array(scale, np.int64, ndmin=2) for scale in coded.codes]
    except ValueError as error:
        raise CodesError(
            "expected the same number of codes in each channel of a scale, got lists of unequal lengths"
        ) from error


def _as_json(facts: Facts, codes: Codes) -> bytes:
    """Metadata, then codes, [channel][n] per scale."""
    return Coded(**facts.model_dump(), codes=[scale.tolist() for scale in codes]).model_dump_json().encode()


def _as_npz(facts: Facts, codes: Codes) -> bytes:
    """The same as a NumPy archive: int32 `codes_0`, ... and the metadata."""
    file = io.BytesIO()
    arrays: dict[str, Any] = {f"codes_{scale}": code.astype(np.int32) for scale, code in enumerate(codes)}
    np.savez_compressed(file, **(arrays | {name: np.asarray(value) for name, value in facts.model_dump().items()}))
    return file.getvalue()


def _from_npz(data: bytes) -> tuple[Facts, Codes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > MOST_ARRAYS or sum(member.file_size for member in members) > MOST_BYTES:
                raise LimitError(f"expected at most {MOST_ARRAYS} arrays of {MOST_BYTES} bytes in all, got more")
            arrays = {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}
    except (*NO_ARCHIVE, ValueError) as error:
        raise MessageError(f"expected an archive as numpy.savez writes it ({error})") from error
    scales = [name for name in arrays if name.startswith("codes_")]
    codes = [arrays.pop(f"codes_{scale}") for scale in range(len(scales)) if f"codes_{scale}" in arrays]
    if len(codes) != len(scales):
        raise CodesError(f"expected the arrays codes_0, codes_1 and so on, got {', '.join(sorted(scales))[:200]}")
    facts = json.dumps({name: array.tolist() for name, array in arrays.items()}, default=str)
    return parsed(facts, TypeAdapter(Facts)), codes


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """An array in the .npy format. Raises ValueError for objects, or if the header does not match the data's size."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("expected arrays that are stored or deflated, got another compression")
    with archive.open(member) as packed:
        data = packed.read(member.file_size)  # unbounded, it would unpack more than the archive declares
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("expected arrays of version 1.0")
    shape, _, kind = np.lib.format.read_array_header_1_0(file)
    if kind.hasobject or math.prod(shape) * kind.itemsize != len(data) - file.tell():
        raise ValueError("expected arrays of numbers, as long as their headers say")
    return np.load(io.BytesIO(data), allow_pickle=False)
