"""What machines recognise in decoded audio: words, by a speech recogniser, and the voice, by a speaker model.

Both need a model, named as a local folder or a hub id; nothing is unpickled. `faster-whisper:MODEL` is a Whisper model
as the package `faster-whisper` (CTranslate2) keeps them, every other name one of `transformers`.
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
SHORTEST = 0.5  # seconds; less is no word and no voice
WHISPER_RATE = 16_000  # Hz
WHISPER_SECONDS = 30.0  # heard at once; of more, Whisper has to find times
FASTER_WHISPER = "faster-whisper:"
UNTRAINED = "masked_spec_embed"  # only training uses it, and published models may lack it


class Names(NamedTuple):
    """The models asked for: of speech recognition (words) and of speaker recognition (voice)."""

    asr: str | None = None
    speaker: str | None = None


NO_MODELS = Names()


class Model(NamedTuple):
    """`run` takes float32 (samples,) at `rate` Hz and gives text, or an embedding; `version` tells models apart."""

    run: Callable[[np.ndarray], Any]
    rate: int
    version: str


@dataclass(frozen=True, kw_only=True)
class ModelMetric(Metric):
    """A metric that a model measures, which may be missing too."""

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
    """The metrics that the models measure of a clip whose words are `transcript`, if they are known."""
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
    """Words put in, left out or replaced in what a recogniser hears, in % of the words there are: 0 or more.

    The words there are: those of `transcript`, or else what the recogniser hears in the original; without any, None.
    """
    import jiwer

    expected = words(asr, transcript, reference, sample_rate)
    if not expected:
        return None
    heard = [] if silent(decoded) else normalised(_heard(asr, decoded, sample_rate))
    return 100 * float(jiwer.wer(" ".join(expected), " ".join(heard)))


def words(asr: str, transcript: str | None, reference: np.ndarray, sample_rate: int) -> list[str]:
    """The words that there are to hear in a clip."""
    if transcript is not None:
        return normalised(transcript)
    if len(reference) < SHORTEST * sample_rate or silent(reference):
        return []
    return normalised(_heard(asr, reference, sample_rate))


def normalised(text: str) -> list[str]:
    """Words without case and punctuation; numbers stay as they are written."""
    return re.findall(r"\w+(?:'\w+)*", text.casefold().replace("’", "'"))


def speaker_similarity(speaker: str, reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """Cosine of a speaker model's embeddings of both, -1 to 1: 1 for a voice that it cannot tell from the original."""
    if len(reference) < SHORTEST * sample_rate or silent(reference) or silent(decoded):
        return None
    model = speaker_model(speaker)
    embeddings = [model.run(_at(model.rate, signal, sample_rate)) for signal in (reference, decoded)]
    first, second = (embedding / np.linalg.norm(embedding) for embedding in embeddings)
    return float(first @ second)


def _heard(asr: str, signal: np.ndarray, sample_rate: int) -> str:
    return _heard_bytes(asr, signal.astype(np.float32).tobytes(), sample_rate)


@functools.lru_cache(maxsize=4)  # the original is heard for every codec
def _heard_bytes(asr: str, samples: bytes, sample_rate: int) -> str:
    model = asr_model(asr)
    return str(model.run(_at(model.rate, np.frombuffer(samples, np.float32), sample_rate)))


def _at(rate: int, signal: np.ndarray, sample_rate: int) -> np.ndarray:
    return audio.resample(signal[None].astype(np.float32), sample_rate, rate)[0].copy()


@functools.cache
def asr_model(name: str) -> Model:
    """A speech recogniser. OSError, ValueError, RuntimeError or OpensnacError where it cannot be had."""
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
    """Whisper in float32 on one core, greedily, so that it hears the same every time."""
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
    """A model with x-vectors. OSError, ValueError, RuntimeError or OpensnacError where it cannot be had."""
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
    """A whole model. OpensnacError where some of its weights are in no file and would be random."""
    import transformers

    transformers.logging.disable_progress_bar()  # the evaluation has its own, and what is wrong here is said below
    transformers.logging.set_verbosity_error()
    network, found = _pretrained(family, name, use_safetensors=True, output_loading_info=True)
    absent = sorted(key for key in found["missing_keys"] if not key.endswith(UNTRAINED))
    if absent:
        raise OpensnacError(f"has no weights for {absent[0]} and {len(absent) - 1} more: another kind of model")
    return network.eval()


def _pretrained(family: Any, name: str, **options: Any) -> Any:
    """What is here first: the hub is asked only for what is not."""
    try:
        return family.from_pretrained(name, local_files_only=True, **options)
    except OSError:
        return family.from_pretrained(name, **options)


def _version(name: str, network: Any) -> str:
    from opensnac.evaluation.codecs.transformers import fingerprint

    return f"{name}, weights {fingerprint(network)}, transformers {package_version('transformers')}"
