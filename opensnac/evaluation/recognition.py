"""Metrics by recognition models: words, by a speech recogniser, and the voice, by a speaker model.

Both need a model, given as a local folder or a hub id; nothing is unpickled. `faster-whisper:MODEL` is a Whisper model
in the format of `faster-whisper` (CTranslate2), any other name a model of `transformers`.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from opensnac.errors import OpensnacError
from opensnac.evaluation.metrics import Metric, package_version
from opensnac.evaluation.spectral import silent
from opensnac.recordings import audio

WORD_ERRORS, SIMILARITY = "word_error_rate", "speaker_similarity"  # names of the metrics
SHORTEST = 0.5  # seconds; less holds neither words nor a voice
WHISPER_RATE = 16_000  # Hz
WHISPER_SECONDS = 30.0  # per pass; longer audio makes Whisper predict timestamps
FASTER_WHISPER = "faster-whisper:"
UNTRAINED = "masked_spec_embed"  # used only in training; published models may lack it


class Names(NamedTuple):
    """The models for speech recognition (words) and speaker recognition (voice)."""

    asr: str | None = None
    speaker: str | None = None


NO_MODELS = Names()


class Model(NamedTuple):
    """`run` takes float32 (samples,) at `rate` Hz and returns text, or an embedding; `version` identifies the model."""

    run: Callable[[np.ndarray], Any]
    rate: int
    version: str


@dataclass(frozen=True, kw_only=True)
class ModelMetric(Metric):
    """A metric that needs a model, which may be missing."""

    model: str
    load: Callable[[str], Model]

    def missing(self) -> str | None:
        absent = [package for package in self.packages if package_version(package) is None]
        if absent:
            return f"{', '.join(absent)} not installed; run: pip install 'opensnac[recognition]'"
        try:
            self.load(self.model)
        except (OSError, ValueError, ImportError, RuntimeError, OpensnacError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            return f"{self.model}: {reason} (give a folder that holds the model, or run where the hub can be reached)"
        return None


def metrics(names: Names, transcript: str | None = None) -> dict[str, Metric]:
    """The metrics of the given models, for a clip with this transcript, if known."""
    found: list[Metric] = []
    if names.asr is not None:
        packages = ("jiwer", "faster-whisper" if names.asr.startswith(FASTER_WHISPER) else "transformers")
        measure = functools.partial(word_error_rate, names.asr, transcript)
        found += [
            ModelMetric(WORD_ERRORS, "WER, %", 1, False, measure, packages, True, model=names.asr, load=asr_model)
        ]
    if names.speaker is not None:
        measure = functools.partial(speaker_similarity, names.speaker)
        found += [
            ModelMetric(
                SIMILARITY, "Speaker similarity", 3, True, measure, ("transformers",), True,
                model=names.speaker, load=speaker_model,
            )
        ]  # fmt: skip
    return {metric.name: metric for metric in found}


def word_error_rate(
    asr: str, transcript: str | None, reference: np.ndarray, decoded: np.ndarray, sample_rate: int
) -> float | None:
    """Word error rate: insertions, deletions and substitutions, in % of the reference words, 0 or more.

    Reference words are those of `transcript`, else what the recogniser finds in the original. None without words.
    """
    import jiwer

    expected = words(asr, transcript, reference, sample_rate)
    if not expected:
        return None
    heard = [] if silent(decoded) else normalised(_transcribe(asr, decoded, sample_rate))
    return 100 * float(jiwer.wer(" ".join(expected), " ".join(heard)))


def words(asr: str, transcript: str | None, reference: np.ndarray, sample_rate: int) -> list[str]:
    """The reference words of a clip."""
    if transcript is not None:
        return normalised(transcript)
    if len(reference) < SHORTEST * sample_rate or silent(reference):
        return []
    return normalised(_transcribe(asr, reference, sample_rate))


def normalised(text: str) -> list[str]:
    """Lower-case words without punctuation; numbers stay as written."""
    return re.findall(r"\w+(?:'\w+)*", text.casefold().replace("’", "'"))


def speaker_similarity(speaker: str, reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """Cosine similarity of a speaker model's embeddings of both, -1 to 1; 1 for an indistinguishable voice."""
    if len(reference) < SHORTEST * sample_rate or silent(reference) or silent(decoded):
        return None
    model = speaker_model(speaker)
    embeddings = [model.run(_at(model.rate, signal, sample_rate)) for signal in (reference, decoded)]
    first, second = (embedding / np.linalg.norm(embedding) for embedding in embeddings)
    return float(first @ second)


def _transcribe(asr: str, signal: np.ndarray, sample_rate: int) -> str:
    return _transcribe_bytes(asr, signal.astype(np.float32).tobytes(), sample_rate)


@functools.lru_cache(maxsize=4)  # the original is recognised for every codec
def _transcribe_bytes(asr: str, samples: bytes, sample_rate: int) -> str:
    model = asr_model(asr)
    return str(model.run(_at(model.rate, np.frombuffer(samples, np.float32), sample_rate)))


def _at(rate: int, signal: np.ndarray, sample_rate: int) -> np.ndarray:
    return audio.resample(signal[None].astype(np.float32), sample_rate, rate)[0].copy()


@functools.cache
def asr_model(name: str) -> Model:
    """A speech recogniser. OSError, ValueError, RuntimeError or OpensnacError if it cannot be loaded."""
    if name.startswith(FASTER_WHISPER):
        return _faster_whisper(name.removeprefix(FASTER_WHISPER))
    import transformers

    config = _pretrained(transformers.AutoConfig, name)
    is_ctc = any(kind.endswith("ForCTC") for kind in config.architectures or ())
    family = transformers.AutoModelForCTC if is_ctc else transformers.AutoModelForSpeechSeq2Seq
    network = _weights(family, name)
    processor = _pretrained(transformers.AutoProcessor, name)
    pipeline = transformers.pipeline(
        "automatic-speech-recognition",
        model=network,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )
    rate = processor.feature_extractor.sampling_rate

    def run(samples: np.ndarray) -> str:
        long = not is_ctc and len(samples) > WHISPER_SECONDS * rate
        heard: Any = pipeline(samples, **({"return_timestamps": True} if long else {}))
        return str(heard["text"])

    return Model(run, rate, _version(name, network))


def _faster_whisper(name: str) -> Model:
    """Whisper in float32 on one core, with greedy decoding, so that results are reproducible."""
    import faster_whisper

    folder = name if Path(name).is_dir() else faster_whisper.download_model(name)
    network = faster_whisper.WhisperModel(folder, device="cpu", compute_type="float32", cpu_threads=1)

    def run(samples: np.ndarray) -> str:
        segments, _ = network.transcribe(
            samples, beam_size=1, temperature=0.0, condition_on_previous_text=False, without_timestamps=True
        )
        return " ".join(segment.text.strip() for segment in segments)

    weights = hashlib.sha256((Path(folder) / "model.bin").read_bytes()).hexdigest()[:16]
    packages = f"faster-whisper {package_version('faster-whisper')}, ctranslate2 {package_version('ctranslate2')}"
    return Model(run, WHISPER_RATE, f"{name}, weights {weights}, {packages}")


@functools.cache
def speaker_model(name: str) -> Model:
    """An x-vector model. OSError, ValueError, RuntimeError or OpensnacError if it cannot be loaded."""
    import torch
    import transformers

    network = _weights(transformers.AutoModelForAudioXVector, name)
    extractor = _pretrained(transformers.AutoFeatureExtractor, name)
    rate = extractor.sampling_rate

    def run(samples: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            inputs = extractor(samples, sampling_rate=rate, return_tensors="pt")
            return np.asarray(network(**inputs).embeddings[0])

    return Model(run, rate, _version(name, network))


def _weights(family: Any, name: str) -> Any:
    """A pretrained model. OpensnacError if some weights are missing from its files and would be random."""
    import transformers

    transformers.logging.disable_progress_bar()  # the evaluation has its own; missing weights are reported below
    transformers.logging.set_verbosity_error()
    network, found = _pretrained(family, name, use_safetensors=True, output_loading_info=True)
    absent = sorted(key for key in found["missing_keys"] if not key.endswith(UNTRAINED))
    if absent:
        raise OpensnacError(
            f"expected a model of this kind, got none of its weights {absent[0]} and {len(absent) - 1} more"
        )
    return network.eval()


def _pretrained(family: Any, name: str, **options: Any) -> Any:
    """Load from local files if possible, else from the hub."""
    try:
        return family.from_pretrained(name, local_files_only=True, **options)
    except OSError:
        return family.from_pretrained(name, **options)


def _version(name: str, network: Any) -> str:
    from opensnac.evaluation.codecs.transformers import fingerprint

    return f"{name}, weights {fingerprint(network)}, transformers {package_version('transformers')}"
