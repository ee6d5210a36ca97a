"""Words and voices through the code that loads published models, here tiny random ones from folders."""

import json

import numpy as np
import pytest

from opensnac.errors import OpensnacError
from opensnac.evaluation import evaluate, recognition
from opensnac.evaluation.evaluate import evaluate_folder, transcript_of
from opensnac.evaluation.metrics import METRICS
from opensnac.evaluation.recognition import Model, Names, normalised, word_error_rate
from opensnac.recordings import audio

RATE = 24_000
LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz'"]
TINY = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "conv_dim": [8, 8], "conv_stride": [20, 16], "conv_kernel": [20, 16], "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def ctc(tmp_path_factory):
    """A wav2vec 2.0 of random weights, as `save_pretrained` writes it and the hub stores it."""
    transformers = pytest.importorskip("transformers", reason="pip install 'opensnac[recognition]'")
    pytest.importorskip("jiwer", reason="pip install 'opensnac[recognition]'")
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("ctc")
    (folder / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(LETTERS)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(folder / "vocab.json")
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(vocab_size=len(LETTERS), **TINY)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    """A WavLM with x-vectors."""
    transformers = pytest.importorskip("transformers", reason="pip install 'opensnac[recognition]'")
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("voices")
    config = transformers.WavLMConfig(
        tdnn_dim=[8, 8, 16], tdnn_kernel=[5, 3, 1], tdnn_dilation=[1, 2, 1], xvector_output_dim=8, **TINY
    )
    transformers.WavLMForXVector(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture
def hears(monkeypatch):
    """A fake recogniser with given results, selected by the clip's loudness: 0 is the original."""
    said: list[str] = []
    model = Model(lambda samples: said[int(np.abs(samples).max() < 0.3)], RATE, "a recogniser 1.0")
    monkeypatch.setattr(recognition, "asr_model", lambda name: model)
    recognition._transcribe_bytes.cache_clear()
    yield said
    recognition._transcribe_bytes.cache_clear()


def test_word_error_rate_by_hand(clip, hears):
    pytest.importorskip("jiwer")
    hears[:] = ["Four words, no more.", "for words"]
    assert word_error_rate("any", None, clip, clip / 2, RATE) == 75  # one replaced, two lost, of four
    assert word_error_rate("any", None, clip, clip, RATE) == 0
    assert word_error_rate("any", "For words!", clip, clip / 2, RATE) == 0
    assert word_error_rate("any", "For words!", clip, clip, RATE) == 150  # one replaced, two put in, of two
    assert word_error_rate("any", "two words", clip, np.zeros_like(clip), RATE) == 100, "silence says nothing"


def test_without_words_there_is_no_rate(clip, hears):
    pytest.importorskip("jiwer")
    hears[:] = [" ... ", "noise"]
    assert word_error_rate("any", None, clip, clip / 2, RATE) is None
    hears[:] = ["a word", "a word"]
    recognition._transcribe_bytes.cache_clear()
    assert word_error_rate("any", None, np.zeros_like(clip), clip, RATE) is None
    assert word_error_rate("any", None, clip[: RATE // 10], clip[: RATE // 10], RATE) is None


def test_case_and_punctuation_are_ignored():
    assert normalised(" Don’t: 'Straße' – 25 %, x-ray.\n") == ["don't", "strasse", "25", "x", "ray"]


def test_a_recogniser_runs_and_is_named(ctc, clip):
    (metric,) = recognition.metrics(Names(asr=str(ctc))).values()
    assert metric.missing() is None
    assert metric.measure(clip, clip.copy(), RATE) == 0
    assert metric.measure(clip, clip[::-1].copy(), RATE) > 0
    assert recognition.words(str(ctc), None, clip, RATE), "a test that hears nothing would show nothing"
    assert f"{ctc}, weights " in recognition.asr_model(str(ctc)).version


def test_a_voice_is_most_similar_to_itself(voices, clip):
    (metric,) = recognition.metrics(Names(speaker=str(voices))).values()
    assert metric.missing() is None
    assert metric.measure(clip, clip.copy(), RATE) == pytest.approx(1, abs=1e-5)
    noise = np.random.default_rng(0).standard_normal(len(clip)).astype(np.float32)
    assert -1 <= metric.measure(clip, noise, RATE) < 0.999
    assert metric.measure(clip, np.zeros_like(clip), RATE) is None
    assert metric.measure(clip[:5000], clip[:5000], RATE) is None


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A Whisper of random weights, with a tokenizer of bytes and Whisper's control tokens."""
    transformers = pytest.importorskip("transformers", reason="pip install 'opensnac[recognition]'")
    import torch
    from tokenizers.pre_tokenizers import ByteLevel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("whisper")
    steering = ["endoftext", "startoftranscript", "en", "translate", "transcribe", "startoflm", "startofprev"]
    times = [f"{index * 0.02:.2f}" for index in range(1501)]
    special = [f"<|{name}|>" for name in (*steering, "nospeech", "notimestamps", *times)]
    letters = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = transformers.WhisperTokenizer(vocab=letters | {special[0]: len(letters)}, merges=[])
    tokenizer.add_tokens([transformers.AddedToken(token, special=True) for token in special[:9]], special_tokens=True)
    tokenizer.add_tokens(special[9:])
    tokenizer.save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    start = {"decoder_start_token_id": 257, "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256}
    model = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(
            vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, **start,
        )
    )  # fmt: skip
    model.generation_config = transformers.GenerationConfig(
        max_length=12, is_multilingual=False, no_timestamps_token_id=264, prev_sot_token_id=262,
        return_timestamps=False, alignment_heads=[[0, 0]], **start,
    )  # fmt: skip
    model.get_input_embeddings().weight.data[256:] = 0  # so that letters are likelier than control tokens
    model.save_pretrained(folder)
    return folder


def test_whisper_takes_clips_of_any_length(whisper, clip):
    model = recognition.asr_model(str(whisper))
    heard = model.run(audio.resample(clip[None], RATE, model.rate)[0])
    assert heard, "random weights hear nonsense, but something"
    assert model.run(audio.resample(clip[None], RATE, model.rate)[0]) == heard
    assert isinstance(model.run(np.tile(clip, 20)), str), "beyond 30 s"


def test_faster_whisper_runs_a_converted_model(whisper, clip, tmp_path):
    pytest.importorskip("faster_whisper", reason="pip install 'opensnac[recognition]'")
    from ctranslate2.converters import TransformersConverter

    folder = tmp_path / "converted"
    TransformersConverter(str(whisper), copy_files=["tokenizer.json", "preprocessor_config.json"]).convert(str(folder))
    model = recognition.asr_model(f"faster-whisper:{folder}")
    samples = audio.resample(clip[None], RATE, model.rate)[0]
    assert model.run(samples)
    assert model.run(samples) == model.run(samples)
    assert f"{folder}, weights " in model.version


def test_an_unavailable_model_is_reported_with_a_remedy(tmp_path, voices, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (str(tmp_path), f"faster-whisper:{tmp_path}", "faster-whisper:no-such-size"):
        (metric,) = recognition.metrics(Names(asr=name)).values()
        assert metric.missing().startswith(f"{name}: ")
        assert metric.missing().endswith("(give a folder that holds the model, or run where the hub can be reached)")
    (metric,) = recognition.metrics(Names(asr="any")).values()
    object.__setattr__(metric, "packages", ("jiwer", "no-such-package"))
    assert metric.missing() == "no-such-package not installed; run: pip install 'opensnac[recognition]'"


def test_missing_weights_are_not_replaced_by_random_ones(ctc):
    """A speech recogniser has no x-vectors: transformers would initialise them randomly."""
    (metric,) = recognition.metrics(Names(speaker=str(ctc))).values()
    assert "expected a model of this kind" in metric.missing()


def test_nothing_is_unpickled(ctc, tmp_path):
    import torch
    import transformers

    for file in ctc.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(transformers.AutoModelForCTC.from_pretrained(ctc).state_dict(), tmp_path / "pytorch_model.bin")
    (metric,) = recognition.metrics(Names(asr=str(tmp_path))).values()
    assert "safetensors" in metric.missing()


@pytest.fixture
def folder(tmp_path, clip):
    """Speech with its text, speech without, and music."""
    audio.write(tmp_path / "clips" / "speech" / "told.wav", clip[None], RATE)
    (tmp_path / "clips" / "speech" / "told.txt").write_text("One, two, three!\n")
    audio.write(tmp_path / "clips" / "speech" / "untold.wav", clip[None, ::-1], RATE)
    audio.write(tmp_path / "clips" / "music" / "song.wav", clip[None], RATE)
    return tmp_path / "clips"


@pytest.fixture
def measured(monkeypatch):
    """Measure in this process, and with one quick metric besides."""
    for name in set(METRICS) - {"si_sdr"}:
        monkeypatch.delitem(METRICS, name)
    monkeypatch.setattr(evaluate, "_measure_all", lambda tasks, jobs: map(evaluate.measure, tasks))


def test_the_rate_is_over_all_words(folder, measured, hears, tmp_path):
    pytest.importorskip("jiwer")
    hears[:] = ["one two four", ""]
    results = evaluate_folder(folder, ["original"], tmp_path / "out", asr="any")
    (entry,) = results["codecs"]
    # One of three words of the text is wrong; what is heard without a text is the three words there are.
    assert entry["scores"]["word_error_rate"]["mean"] == pytest.approx(100 / 6)
    assert entry["scores"]["word_error_rate"]["count"] == 2
    assert entry["labels"]["music"]["scores"]["word_error_rate"] is None
    assert results["metrics"]["word_error_rate"]["model"] == "a recogniser 1.0"
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| original | – | – |" in report
    assert (
        "- WER, %, by a recogniser 1.0; reference words: transcripts of 1 of 3 clips, "
        "else the recogniser's own on the original" in report
    )
    assert "- WER, % of original applied to 2 of 3 clips" in report


def test_longer_texts_count_for_more(folder, measured, hears, tmp_path):
    pytest.importorskip("jiwer")
    (folder / "speech" / "untold.txt").write_text("one two three four five six seven eight nine")
    hears[:] = ["one two three", ""]
    (entry,) = evaluate_folder(folder, ["original"], tmp_path / "out", asr="any")["codecs"]
    assert entry["scores"]["word_error_rate"]["mean"] == pytest.approx(100 * 6 / 12)


def test_a_changed_transcript_is_measured_again(folder, measured, hears, tmp_path):
    pytest.importorskip("jiwer")
    hears[:] = ["one two three", ""]
    scores = []
    for text in ("one two three", "one two six"):
        (folder / "speech" / "told.txt").write_text(text)
        (entry,) = evaluate_folder(folder, ["original"], tmp_path / "out", asr="any")["codecs"]
        scores.append(entry["scores"]["word_error_rate"]["mean"])
    assert scores == pytest.approx([0, 100 / 6])


def test_a_missing_model_is_reported_only_if_requested(folder, measured, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    results = evaluate_folder(folder, ["original"], tmp_path / "out")
    assert results["metrics"].keys() == {"si_sdr"}
    results = evaluate_folder(folder, ["original"], tmp_path / "out", speaker=str(tmp_path / "nowhere"))
    assert results["codecs"][0]["scores"].keys() == {"si_sdr", "speaker_similarity"}
    assert results["codecs"][0]["scores"]["speaker_similarity"] is None
    report = (tmp_path / "out" / "report.md").read_text()
    assert f"- Not measured, Speaker similarity: {tmp_path / 'nowhere'}: " in report


def test_a_transcript_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OpensnacError, match="a.txt: expected a transcript in UTF-8"):
        transcript_of(tmp_path / "a.wav")
    (tmp_path / "b.txt").write_text(" \n")
    assert transcript_of(tmp_path / "b.wav") is None
    assert transcript_of(tmp_path / "c.wav") is None
