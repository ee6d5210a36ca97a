"""The pages' parts in a browser: the player plays every sample, the recorder resamples as soxr does, pictures show."""

import base64
import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from arrays import SCRIPT, packed, unpacked

import opensnac

COMPONENTS = Path(opensnac.__file__).parent / "serving/web/components"
RATE = 24_000
PAGE = f"""
<!doctype html><html lang="en"><title>parts</title><link rel="stylesheet" href="/style.css">
<main><canvas id="picture" class="spectrogram"></canvas><div id="codes"></div><div id="ab"></div></main>
<script type="module">{SCRIPT}
  for (const name of ["player", "recorder", "resampler", "spectrogram", "tokens", "ab"])
    Object.assign(window, await import(`/${{name}}.js`));
  document.body.dataset.ready = "yes";
</script>
"""


@pytest.fixture(scope="module")
def window(shared_context, serve):
    """A window for all tests, and the address of the page."""
    with serve(COMPONENTS) as address:
        page = shared_context.new_page()
        page.route("**/page", lambda route: route.fulfill(content_type="text/html", body=PAGE))
        yield page, f"{address}/page"


@pytest.fixture
def tab(window):
    """A fresh page with the components' exports in its globals."""
    page, address = window
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    return page


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def speech(seconds: float, rate: int) -> np.ndarray:
    recording, own = soundfile.read(Path(__file__).parents[2] / "examples/lj_speech.flac")
    return soxr.resample(recording, own, rate)[: int(seconds * rate)].astype(np.float32)


def decibels(wanted: np.ndarray, got: np.ndarray) -> float:
    """The error in dB below the expected signal, without the ends."""
    wanted, got = wanted[1000 : len(got) - 1000], got[1000:-1000]
    return 10 * np.log10(np.mean(wanted**2) / (np.mean((got - wanted) ** 2) + 1e-20))


OPEN_PLAYER = """async ({ lead, keep }) => {
  window.states = [];
  window.player = await Player.open({ sampleRate: 24000, lead, keep, onstate: (p) => states.push({ ...p.state }) });
  await player.context.audioWorklet.addModule("/recorder-worklet.js");
  const options = { numberOfOutputs: 0, processorOptions: { rate: 24000, pieceSamples: 24000 } };
  const tap = new AudioWorkletNode(player.context, "opensnac-recorder", options);
  window.heard = new Promise((resolve) => {
    const pieces = [];
    tap.port.onmessage = ({ data }) => (data ? pieces.push(...data) : resolve(new Float32Array(pieces)));
  });
  window.untap = () => tap.port.postMessage("finish");
  player.node.connect(tap);
}"""


def heard(tab) -> np.ndarray:
    """The player's output, from the first non-silent sample to the last."""
    sound = unpacked(tab.evaluate("untap(); heard.then(packed)"))
    (places,) = np.nonzero(sound)
    return sound[places[0] : places[-1] + 1]


@pytest.mark.parametrize("keep", [True, False])
def test_pieces_of_any_size_are_played_sample_by_sample(tab, keep):
    sound = noise(RATE // 2)
    tab.evaluate(OPEN_PLAYER, {"lead": 0.4, "keep": keep})  # begins with the last piece, however slow the machine is
    tab.evaluate("player.play()")
    cuts = [0, 1, 2, 700, 701, 5000, 5000, 9000, len(sound)]
    for start, end in pairwise(cuts):
        tab.evaluate("(piece) => player.push(floats(piece))", packed(sound[start:end]))
    tab.evaluate("player.end()")
    tab.wait_for_function("player.finished && !player.playing")
    assert tab.evaluate("[player.position, player.duration, player.buffered, player.underruns]") == [0.5, 0.5, 0, 0]
    assert np.array_equal(heard(tab), sound)
    assert any(0 < state["position"] < len(sound) for state in tab.evaluate("states")), "told while it plays"


def test_a_piece_that_comes_late_is_an_underrun_and_nothing_is_lost(tab):
    first, second = noise(2000, 1), noise(3000, 2)
    tab.evaluate(OPEN_PLAYER, {"lead": 0.05, "keep": True})
    tab.evaluate("player.play()")
    tab.evaluate("(piece) => player.push(floats(piece))", packed(first))
    tab.wait_for_function("player.underruns === 1 && player.waiting")
    tab.evaluate("(piece) => player.push(floats(piece))", packed(second[:100]))  # less than the lead: it waits on
    assert tab.evaluate("new Promise((r) => setTimeout(() => r(player.state.position), 100))") == 2000
    tab.evaluate("(piece) => player.push(floats(piece))", packed(second[100:]))
    tab.evaluate("player.end()")
    tab.wait_for_function("player.finished")
    assert tab.evaluate("player.underruns") == 1
    sound = heard(tab)
    assert np.array_equal(sound[:2000], first)
    assert np.array_equal(sound[-3000:], second)
    assert len(sound) > 5000, "a gap lies between"


def test_pause_seek_and_clear(tab):
    sound = noise(RATE)
    tab.evaluate(OPEN_PLAYER, {"lead": 0, "keep": True})
    for piece in np.split(sound, 8):
        tab.evaluate("(piece) => player.push(floats(piece))", packed(piece))
    tab.evaluate("player.end(); player.seek(0.7); player.play()")
    tab.wait_for_function("player.finished && !player.playing")
    tab.evaluate("player.seek(99)")
    tab.wait_for_function("player.position === 1")
    tab.evaluate("player.seek(-1)")
    tab.wait_for_function("player.position === 0")
    tab.evaluate("player.play()")
    tab.wait_for_function("player.position > 0.2")
    tab.evaluate("player.pause()")
    tab.wait_for_function("!player.playing")
    place = tab.evaluate("new Promise((r) => setTimeout(() => r(player.position), 100))")
    assert tab.evaluate("new Promise((r) => setTimeout(() => r(player.position), 100))") == place < 1
    tab.evaluate("player.clear()")
    tab.wait_for_function("player.duration === 0")
    assert np.array_equal(heard(tab)[: int(0.3 * RATE)], sound[int(0.7 * RATE) :])


@pytest.mark.parametrize(("old", "new"), [(48_000, RATE), (44_100, RATE), (16_000, RATE), (RATE, RATE), (RATE, 44_100)])
def test_resampling_is_soxr_s_whatever_the_pieces(tab, old, new):
    sound = speech(1.5, old)
    whole, pieces = tab.evaluate(
        """([text, old, new_]) => {
          const samples = floats(text);
          const resampler = new Resampler(old, new_);
          const pieces = [];
          for (let at = 0, size = 1; at < samples.length; at += size, size = (size * 7) % 1009)
            pieces.push(...resampler.push(samples.subarray(at, at + size)));
          pieces.push(...resampler.finish());
          return [packed(resample(samples, old, new_)), packed(new Float32Array(pieces))];
        }""",
        [packed(sound), old, new],
    )
    assert whole == pieces
    ours, theirs = unpacked(whole), soxr.resample(sound, old, new, "VHQ")
    assert len(ours) == -(-len(sound) * new // old)
    assert decibels(theirs, ours) > 45, "only in the last twentieth of the band do they differ"


@pytest.mark.parametrize(
    ("suffix", "rate", "same"), [("WAV", RATE, True), ("FLAC", RATE, True), ("WAV", 16_000, False)]
)
def test_a_file_keeps_its_own_rate_until_it_is_resampled_here(tab, suffix, rate, same):
    sound = speech(1, rate)
    file = io.BytesIO()
    soundfile.write(file, np.stack([sound, sound], 1), rate, format=suffix, subtype="PCM_16")
    pcm = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")[0][:, 0]
    text, own, count = tab.evaluate(
        """async (bytes) => {
          const file = new Blob([Uint8Array.from(atob(bytes), (one) => one.charCodeAt(0))]);
          const { samples, fileRate, fileSamples } = await readFile(file, 24000);
          return [packed(samples), fileRate, fileSamples];
        }""",
        base64.b64encode(file.getvalue()).decode(),
    )
    assert (own, count) == (rate, len(sound))
    got, wanted = unpacked(text), soxr.resample(pcm, rate, RATE, "VHQ")
    assert decibels(wanted, got) > (85 if rate == RATE else 45), "browsers divide positive samples of 16 bits by 32767"


def test_files_without_sound_are_refused(tab):
    message = tab.evaluate("readFile(new File(['no sound'], 'a.txt'), 24000).catch((error) => error.message)")
    assert message == "a.txt: expected a recording that this browser plays, got something else"


def test_a_recorder_emits_pieces_of_equal_length(tab):
    sizes, tone = tab.evaluate(
        """async () => {
          const context = new AudioContext({ sampleRate: 48000 });
          const destination = new MediaStreamAudioDestinationNode(context, { channelCount: 1 });
          const oscillator = new OscillatorNode(context, { frequency: 1000 });
          oscillator.connect(destination);
          oscillator.start();
          const pieces = [];
          const onpiece = (piece) => pieces.push(piece);
          const { stream } = destination;
          const recorder = await Recorder.open({ sampleRate: 24000, pieceSeconds: 0.1, onpiece, stream });
          while (pieces.length < 8) await new Promise((resolve) => setTimeout(resolve, 50));
          await recorder.stop();
          const middle = pieces.slice(4, 8);
          return [pieces.map((piece) => piece.length), packed(new Float32Array(middle.flatMap((piece) => [...piece])))];
        }"""
    )
    assert sizes[:-1] == [2400] * (len(sizes) - 1)
    spectrum = np.abs(np.fft.rfft(unpacked(tone) * np.hanning(9600)))
    assert spectrum.argmax() * RATE / 9600 == 1000


def test_a_spectrogram_is_described_and_drawn_in_the_page_s_colours(tab):
    tone = np.sin(2 * np.pi * 3000 * np.arange(RATE) / RATE).astype(np.float32)
    tab.evaluate(
        "(text) => { window.view = new Spectrogram(picture, { sampleRate: 24000, label: 'tone', seconds: 4 }); "
        "const tone = floats(text); for (let at = 0; at < 24000; at += 999) view.push(tone.subarray(at, at + 999)); "
        "view.describe(); }",
        packed(tone),
    )
    label = tab.get_attribute("#picture", "aria-label")
    assert label == "Spectrogram, tone: 1.0 s, level -3 dB, most energy near 3000 Hz"
    assert tab.get_attribute("#picture", "role") == "img"

    def brightness(scale: str, scheme: str) -> np.ndarray:
        tab.emulate_media(color_scheme=scheme)
        tab.evaluate(f"view.scale = '{scale}'")
        tab.evaluate("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")
        shot = tab.evaluate(
            "[...picture.getContext('2d').getImageData(picture.width / 8, 0, 1, picture.height).data]"
            ".filter((_, place) => place % 4 === 1)"
        )
        return np.array(shot) / 255

    for scheme, extreme in (("dark", np.argmax), ("light", np.argmin)):
        linear, mels = brightness("linear", scheme), brightness("mel", scheme)
        assert 1 - extreme(linear) / len(linear) == pytest.approx(3000 / 12000, abs=0.03)
        assert 1 - extreme(mels) / len(mels) == pytest.approx(0.575, abs=0.04)
    assert brightness("mel", "dark").mean() < 0.3 < 0.7 < brightness("mel", "light").mean()

    tab.evaluate("(text) => { for (let n = 0; n < 5; n++) view.push(floats(text)); }", packed(tone))
    assert tab.evaluate("view.dropped + view.spectra.length") == pytest.approx(600, abs=6)
    assert tab.evaluate("view.spectra.length") <= 401, "what scrolled away is forgotten"


def test_codes_are_rows_of_their_scales(tab):
    tab.evaluate(
        "window.row = new Tokens(codes, { strides: [4, 2, 1], size: 4096, shown: 2 }); "
        "for (let n = 0; n < 3; n++) row.push([[n], [10 + n, 20 + n], BigInt64Array.of(1n, 2n, 3n, BigInt(4 + n))]);"
    )
    rows = tab.evaluate("[...codes.children].map((r) => [...r.children].map((cell) => Number(cell.textContent)))")
    assert rows == [[1, 2], [11, 21, 12, 22], [1, 2, 3, 5, 1, 2, 3, 6]]
    widths = tab.evaluate("[...codes.children].map((r) => r.firstElementChild.getBoundingClientRect().width)")
    assert widths[0] / widths[2] == pytest.approx(4, rel=0.01)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.01)
    assert tab.evaluate("row.count") == 21


def test_a_blind_comparison_by_keyboard(tab):
    tab.evaluate(
        "([a, b]) => { const sounds = { original: floats(a), other: floats(b), sampleRate: 24000 }; window.compared = "
        "new Comparison(ab, { ...sounds, trials: 4, ondone: (result) => (window.result = result) }); }",
        [packed(noise(RATE, 1)), packed(noise(RATE + 50, 2))],
    )
    for trial in range(4):
        assert tab.inner_text("#ab p") == f"{trial + 1} of 4: which is the original?"
        answers = tab.locator("#ab button", has_text="is the original")
        tab.locator("#ab button", has_text="Play A").focus()
        tab.keyboard.press("1")
        assert [answer.is_disabled() for answer in answers.all()] == [True, True], "B was not heard yet"
        tab.keyboard.press("2")
        order = tab.evaluate("compared.order")
        tab.wait_for_function(
            "compared.voices.every((voice, i) => Math.abs(voice.gain.gain.value - (i === compared.order[1])) < 0.01)"
        )
        answers.nth(order.index(0) if trial else order.index(1)).focus()  # wrong once
        tab.keyboard.press("Enter")
    assert tab.evaluate("result") == {"right": 3, "trials": 4, "chance": 5 / 16}
    assert tab.inner_text("#ab p") == "You found the original 3 of 4 times; guessing does as well 31 % of the time."
    assert tab.evaluate("compared.close(), ab.childElementCount") == 0
