"""Settings that determine a corpus: two runs with equal settings write the same files."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from opensnac.config import CodecConfig
from opensnac.errors import ConfigError

if TYPE_CHECKING:
    from opensnac.streaming.tokens import TokenLayout

FORMATS = ("parquet", "webdataset", "bin")
ORPHEUS_OFFSET = 128266  # of the first codec token in the vocabulary of Orpheus TTS
LAYOUTS = "tree, tree:OFFSET or orpheus"


@dataclass(frozen=True)
class Settings:
    """Options of `opensnac tokenize`, under the same names; ConfigError for invalid values.

    inputs                  folders, files, globs, manifests, shards, as given
    model                   a bundled name, a folder or a hub id; the default model for None
    fingerprint             of that model
    format                  parquet, webdataset or bin
    tokens                  None for a list of codes per scale, else the layout of one flat list
    min_seconds             of a recording, and of a segment
    max_seconds             of a recording
    segment                 seconds of a row, rounded to whole groups of frames; None for whole recordings
    mono                    channels are mixed down, else each becomes a row
    trim_silence            dB below full scale; leading and trailing audio below that is cut off
    loudness                target LUFS of every recording (ITU-R BS.1770)
    drop_repeated_frames    coarse frames whose coarse code repeats the one before are dropped
    reduced                 matrix products in bfloat16
    licence                 of all recordings, for the data card
    shard_megabytes         of recordings per shard; None: by the corpus's size
    """

    inputs: tuple[str, ...]
    model: str | None = None
    fingerprint: str = ""
    format: str = "parquet"
    tokens: str | None = None
    min_seconds: float = 0.0
    max_seconds: float | None = None
    segment: float | None = None
    mono: bool = False
    trim_silence: float | None = None
    loudness: float | None = None
    drop_repeated_frames: bool = False
    reduced: bool = False
    licence: str | None = None
    shard_megabytes: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        if self.format not in FORMATS:
            raise ConfigError(f"format: expected {', '.join(FORMATS)}, got {self.format!r}")
        if self.tokens is not None:
            _offset(self.tokens)
        if self.format == "bin" and self.tokens is None:
            object.__setattr__(self, "tokens", "tree")
        if self.format == "webdataset" and (self.tokens is not None or self.drop_repeated_frames):
            raise ConfigError(
                "format webdataset: expected all codes, scale by scale, as in a .snac file, got a token layout or "
                "dropped frames; choose the format parquet or bin"
            )
        if self.max_seconds is not None and self.max_seconds < self.min_seconds:
            raise ConfigError(f"max-seconds: expected at least min-seconds {self.min_seconds}, got {self.max_seconds}")

    @property
    def command(self) -> str:
        """The command that writes this corpus, without options that do not affect it: folder, engine, workers."""
        words = ["opensnac", "tokenize", *self.inputs]
        for field in fields(self):
            value, option = getattr(self, field.name), f"--{field.name.replace('_', '-')}"
            if field.name in ("inputs", "fingerprint") or value == field.default:
                continue
            words += [option] if value is True else [option, str(value)]
        return shlex.join(words)

    def layout(self, config: CodecConfig) -> TokenLayout | None:
        """The layout of a row's flat tokens; None if codes are stored scale by scale."""
        return None if self.tokens is None else layout_by_name(self.tokens, config)

    def to_json(self) -> str:
        """One line of JSON, equal for equal settings."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Parse the output of `to_json`."""
        values: dict[str, Any] = json.loads(text)
        return cls(**values)


def layout_by_name(name: str, config: CodecConfig) -> TokenLayout:
    """The layout called `name`: tree, tree:OFFSET or orpheus. ConfigError for others, or one that does not fit."""
    from opensnac.streaming.tokens import TokenLayout  # imports PyTorch, which reader processes do without

    offset = _offset(name)
    if name == "orpheus" and (tuple(config.vq_strides), config.codebook_size) != ((4, 2, 1), 4096):
        raise ConfigError(
            f"tokens orpheus: expected a model of strides 4, 2, 1 with 4096 codes each, got {list(config.vq_strides)} "
            f"with {config.codebook_size}; choose tree:{ORPHEUS_OFFSET} for another model"
        )
    return TokenLayout.of(config, offset)


def _offset(name: str) -> int:
    kind, _, offset = name.partition(":")
    if name == "orpheus":
        return ORPHEUS_OFFSET
    if kind != "tree" or (":" in name and not offset.isdecimal()):
        raise ConfigError(f"tokens: expected {LAYOUTS}, got {name!r}")
    return int(offset or 0)
