"""The configuration of a training run: one TOML file with strict keys, in sections."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from opensnac.config import CodecConfig
from opensnac.errors import ConfigError

Section = TypeVar("Section")

CONFIGS = Path(__file__).parent / "configs"  # shipped configurations
NULLABLE = ("attn_window_size", "latent_dim")
PRECISIONS = ("fp32", "tf32", "mixed", "bf16")
FREEZABLE = ("encoder", "codebooks")
QUALITIES = ("mel", "stft_distance", "pesq_wb", "stoi")
RENAMED = {"codebooks": {"follow": "ema_rate"}, "losses": {"offset": "dc"}}  # keys in older runs' files


@dataclass(frozen=True)
class Source:
    """A source of recordings: a folder, file, glob, CSV or JSONL manifest, or WebDataset shard."""

    path: str = ""
    weight: float = 1.0  # multiplies its hours when crops are drawn


@dataclass(frozen=True)
class DataConfig:
    """Recordings and how crops are cut from them."""

    train: tuple[Source, ...] = ()  # each a string, or a table {path = "...", weight = 2.0}
    valid: tuple[Source, ...] = ()
    crop_seconds: float = 0.38  # rounded to whole groups of frames
    batch_size: int = 16  # clips per step, over all processes
    accumulate: int = 1  # gradient accumulation: parts of each process's batch, one after the other, to save memory
    gain_db: tuple[float, float] = (0.0, 0.0)  # range of the random gain of each crop
    in_memory: bool = False  # decode everything once to int16: two bytes per sample
    workers: int = 0  # processes that read ahead; 0: read between the steps


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of crops, each kind with its own probability; applied to input and target alike."""

    speed: float = 0.0  # probability of another speed, and with it another pitch: new voices
    speed_range: tuple[float, float] = (0.85, 1.2)
    mix: float = 0.0  # probability of mixing in another crop
    mix_snr_db: tuple[float, float] = (0.0, 20.0)  # level of the crop above the other
    band_limit: float = 0.0  # probability of a low-pass
    band_limit_hz: tuple[float, float] = (3400.0, 8000.0)
    noise: float = 0.0  # probability of white noise
    noise_snr_db: tuple[float, float] = (15.0, 40.0)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Size of the discriminators; in the published recipe (32, 128, 512, 1024, 1024) and 32."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)
    windows: tuple[int, ...] = (2048, 1024, 512)
    window_channels: int = 32


@dataclass(frozen=True)
class LossConfig:
    """Weights of the generator's losses; the defaults are the Descript Audio Codec's."""

    mel: float = 15.0
    dc: float = 0.0  # DC offset of clips, which mel losses hardly see; not in that recipe
    complex: float = 0.0  # spectra with phase; not in that recipe
    loudness: float = 0.0  # differences by PESQ's hearing model; not in that recipe
    tones: float = 0.0  # steady tones that the original does not have; not in that recipe
    feature: float = 2.0
    adversarial: float = 1.0
    codebook: float = 1.0
    commitment: float = 0.25


@dataclass(frozen=True)
class CodebookConfig:
    """How codebooks are initialised, follow the encoder and stay in use."""

    start_vectors: int = 2  # vectors per entry of the coarsest codebook that k-means is fitted to
    ema_rate: float = 0.1  # 1 - decay of an entry's moving average over its vectors; 0: gradients only
    patience: int = 8  # an entry is dead after this many vectors per entry without being used
    revive_every: int = 100  # steps


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, optionally with Muon; learning rates warm up, then decay along a cosine to `final_fraction`."""

    learning_rate: float = 1e-4
    matrix_learning_rate: float = 0.0  # Muon's, for the generator's dense kernels; 0: AdamW for them too
    discriminator_learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.8, 0.99)
    warmup_steps: int = 200
    final_fraction: float = 0.1
    clip_norm: float = 1.0
    discriminator_clip_norm: float = 10.0
    ema_decay: float = 0.999


@dataclass(frozen=True)
class ScheduleConfig:
    """The length of the run, and when each part starts."""

    steps: int = 400_000
    minutes: float | None = None  # stop, and decay the learning rates, by time instead of by steps
    quantize_from: int = 500  # before this step the latent is not quantised; then codebooks are initialised from data
    quantize_below: float = 4.5  # wait until the mel loss is below this, but at most four times as many steps
    adversarial_from: int = 5_000
    discriminate_from: int = 4_500  # the discriminators train alone for a while before they train the generator
    log_every: int = 50
    validate_every: int = 1_000
    checkpoint_every: int = 1_000
    best_by: str = "mel"  # criterion of the best model, one of QUALITIES


@dataclass(frozen=True)
class TrainConfig:
    """A training run. ConfigError names an unknown key or an invalid value."""

    name: str
    model: CodecConfig
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    codebooks: CodebookConfig = field(default_factory=CodebookConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    seed: int = 0
    device: str = "auto"
    # Of matrix products. tf32: 10-bit mantissa on a GPU; mixed: tf32, and the discriminators in bfloat16; bf16: all in
    # bfloat16, to which the decoder's audio is rounded too.
    precision: str = "fp32"
    compile: bool = False  # try torch.compile too; a GPU tries graphs anyway; the fastest form is used
    init: str = ""  # a bundled model, folder, hub id or slim checkpoint to start from
    adapt: bool = False  # init may have another layout: what fits is kept, and codebooks are initialised from data
    freeze: tuple[str, ...] = ()  # encoder, codebooks, or both, which keeps existing tokens valid

    def __post_init__(self) -> None:
        schedule = self.schedule
        at_least_one = {
            "[data] batch_size": self.data.batch_size,
            "[data] accumulate": self.data.accumulate,
            "[codebooks] start_vectors": self.codebooks.start_vectors,
            "[codebooks] patience": self.codebooks.patience,
            "[codebooks] revive_every": self.codebooks.revive_every,
            "[schedule] steps": schedule.steps,
            "[schedule] log_every": schedule.log_every,
            "[schedule] validate_every": schedule.validate_every,
            "[schedule] checkpoint_every": schedule.checkpoint_every,
        }
        for key, value in at_least_one.items():
            if value < 1:
                raise ConfigError(f"{key}: expected at least 1, got {value}")
        if self.data.workers < 0:
            raise ConfigError(f"[data] workers: expected 0 or more, got {self.data.workers}")
        if self.data.crop_seconds <= 0:
            raise ConfigError(f"[data] crop_seconds: expected more than 0, got {self.data.crop_seconds}")
        for key in ("speed", "mix", "band_limit", "noise"):
            if not 0 <= getattr(self.augment, key) <= 1:
                raise ConfigError(f"[augment] {key}: expected a probability, got {getattr(self.augment, key)}")
        slowest, fastest = self.augment.speed_range
        if not 0.25 <= slowest <= fastest <= 4:
            raise ConfigError(f"[augment] speed_range: expected speeds from 0.25 to 4, got {slowest} to {fastest}")
        choices = {"precision": PRECISIONS, "[schedule] best_by": QUALITIES, "freeze": FREEZABLE}
        chosen = {"precision": (self.precision,), "[schedule] best_by": (schedule.best_by,), "freeze": self.freeze}
        for key, texts in chosen.items():
            for text in texts:
                if text not in choices[key]:
                    raise ConfigError(f"{key}: expected {' or '.join(choices[key])}, got {text!r}")
        if self.freeze and not self.init:
            raise ConfigError(f"freeze: expected init with it, got {', '.join(self.freeze)} of random weights")
        if self.adapt and (self.freeze or not self.init):
            raise ConfigError("adapt: expected init with it, and no freeze")
        if schedule.adversarial_from < schedule.discriminate_from:
            raise ConfigError(
                f"[schedule] adversarial_from: expected at least discriminate_from {schedule.discriminate_from}, as "
                f"discriminators must learn before they train the generator, got {schedule.adversarial_from}"
            )
        if not self.data.train:
            raise ConfigError("[data] train: expected folders, files or manifests of recordings, got none")
        for source in (*self.data.train, *self.data.valid):
            if not source.path:
                raise ConfigError("[data]: expected a source {path = ..., weight = ...}, got one without path")
            if not source.weight > 0:
                raise ConfigError(f"[data] weight of {source.path}: expected more than 0, got {source.weight}")

    @classmethod
    def from_toml(cls, path: Path, changes: Sequence[str] = ()) -> TrainConfig:
        """Read a run from a TOML file, with `changes` of the form `section.key=value`.

        Paths are relative to the working directory.
        """
        try:
            return cls.from_dict(changed(read_toml(path), changes))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Build from nested mappings, as parsed from TOML."""
        values = dict(values)
        if "name" not in values or "model" not in values:
            raise ConfigError("expected at least `name` and a section [model], got a configuration without")
        sections: dict[str, type] = {
            "data": DataConfig,
            "augment": AugmentConfig,
            "discriminator": DiscriminatorConfig,
            "codebooks": CodebookConfig,
            "losses": LossConfig,
            "optimizer": OptimizerConfig,
            "schedule": ScheduleConfig,
        }
        if not isinstance(values["model"], Mapping):
            raise ConfigError(f"[model]: expected a section of keys and values, got {values['model']!r}")
        for key, section in sections.items():
            if key in values:
                values[key] = _section(section, values[key], f"[{key}]", RENAMED.get(key, {}))
        # TOML has no null: false stands for it for keys that may be null.
        model = {key: None if value is False and key in NULLABLE else value for key, value in values["model"].items()}
        values["model"] = CodecConfig.from_dict(model)
        return _section(cls, values, "the top level")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in a checkpoint."""
        return asdict(self)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's values. ConfigError if it cannot be parsed."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML, got {error}") from error


def changed(values: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A copy of nested values with changes `section.key=value` or `key=value`, whose values are TOML.

    A value that is not valid TOML is a string: `data.valid=[]` is an empty list, `precision=bf16` a string.
    """
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for change in changes:
        key, equals, text = change.partition("=")
        *sections, name = key.strip().split(".")
        if not equals or not name or len(sections) > 1:
            raise ConfigError(f"expected a change section.key=value, got {change!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        target = result.setdefault(sections[0], {}) if sections else result
        if not isinstance(target, dict):
            raise ConfigError(f"expected a change of a section's key, got {change!r}: {sections[0]} is not a section")
        target[name] = value
    return result


def to_toml(values: Mapping[str, Any]) -> str:
    """Nested plain values as TOML, sections last; null is written as false, as from_dict reads it."""
    plain = [f"{key} = {toml_value(value)}" for key, value in values.items() if not isinstance(value, Mapping)]
    for section, content in values.items():
        if isinstance(content, Mapping):
            lines = [f"{k} = {toml_value(v)}" for k, v in content.items() if v is not None or k in NULLABLE]
            plain += ["", f"[{section}]", *lines]
    return "\n".join(plain) + "\n"


def toml_value(value: Any) -> str:
    """A plain value as TOML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(False if value is None else value)


def _section(
    section: type[Section], values: Mapping[str, Any], where: str, renamed: Mapping[str, str] | None = None
) -> Section:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a section of keys and values, got {values!r}")
    values = {(renamed or {}).get(key, key): value for key, value in values.items()}
    known = get_type_hints(section)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"unknown key {', '.join(map(repr, unknown))} in {where}; expected {', '.join(known)}")
    return section(**{key: _converted(known[key], value, f"{key} in {where}") for key, value in values.items()})


def _converted(wanted: Any, value: Any, name: str) -> Any:
    """`value` converted to the type `wanted`: integers to floats, lists to tuples, strings to sources."""
    kinds, origin = get_args(wanted), get_origin(wanted)
    if origin is tuple and isinstance(value, list | tuple):
        if kinds[-1] is not Ellipsis and len(kinds) != len(value):
            raise ConfigError(f"{name}: expected {len(kinds)} values, got {value!r}")
        return tuple(_converted(kinds[0], item, name) for item in value)
    if origin is UnionType:
        return None if value is None or value is False else _converted(kinds[0], value, name)
    if wanted is Source and isinstance(value, str | Mapping):
        return _section(Source, {"path": value} if isinstance(value, str) else value, name)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool):
        return value
    article = (
        "a list"
        if origin is tuple
        else {int: "an integer", float: "a number", bool: "true or false"}.get(
            wanted, "a string" if wanted is str else "a section"
        )
    )
    raise ConfigError(f"{name}: expected {article}, got {value!r}")
