"""The package in a browser equals Python: codes, samples, files, whole and as streams."""

import io
import shutil

import configs
import numpy as np
import pytest
import torch
from arrays import SCRIPT, packed, unpacked
from bitstream.streams import assert_same_codes

from opensnac import SNAC
from opensnac.bitstream import read

PAGE = f"""
<!doctype html><title>the package alone</title><body><script type="module">{SCRIPT}
  Object.assign(window, await import("/opensnac/src/index.js"));
  document.body.dataset.ready = "yes";
</script>
"""
FOLDERS = {"model": configs.TINY, "odd": configs.ODD_ATTENTION}


@pytest.fixture(scope="module")
def tab(browser, site):
    """An empty page of the site with the package in its globals."""
    page = opened_page(browser, site)
    yield page
    page.close()


def opened_page(browser, address: str):
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.route(
        "**/empty", lambda route: route.fulfill(response=route.fetch(url=address), content_type="text/html", body=PAGE)
    )
    page.goto(f"{address}/empty")
    page.wait_for_selector("body[data-ready]", state="attached")
    return page


@pytest.fixture(scope="module", params=["model", pytest.param("odd", marks=pytest.mark.thorough)])
def folder(request) -> str:
    """Of a model of the site."""
    return request.param


@pytest.fixture
def model(folder) -> SNAC:
    return configs.model_of(FOLDERS[folder])


@pytest.fixture(scope="module")
def opened(tab, folder):
    """The tab with the model in float32 as `codec`."""
    tab.evaluate(
        "async (model) => { window.codec = await Codec.open({ model, runtime: 'ort', weights: 'fp32' }); }", folder
    )
    yield tab
    tab.evaluate("codec.close()")


def sound(samples: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(samples).uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)


def python_codes(model: SNAC, audio: np.ndarray) -> list[np.ndarray]:
    return [scale.numpy() for scale in model.encode(torch.from_numpy(audio[:, None]))]


def python_decoded(model: SNAC, codes: list[np.ndarray], samples: int, **choices) -> np.ndarray:
    decoded = model.decode([torch.from_numpy(scale) for scale in codes], num_samples=samples, **choices)
    return decoded[:, 0].numpy()


@pytest.mark.parametrize(("seconds", "channels"), [(0, 1), (2.6, 2)])
def test_files_are_python_s(opened, model, seconds, channels):
    samples = round(seconds * model.config.sampling_rate) or 1
    audio = sound(samples, channels)
    text = opened.evaluate(
        "(texts) => codec.encode(texts.map(floats)).then(packed)", [packed(channel) for channel in audio]
    )
    file = unpacked(text, "u1").tobytes()
    recording = read(io.BytesIO(file))
    assert recording.header.weights_hash == model.fingerprint[:16]
    assert recording.num_samples == samples
    wanted = python_codes(model, audio)
    assert_same_codes(recording.codes, wanted)
    heard = opened.evaluate(
        "(text) => codec.decode(bytes(text), { seed: 7 }).then(({ channels }) => channels.map(packed))", packed(file)
    )
    decoded = python_decoded(model, wanted, samples, seed=7)
    np.testing.assert_allclose([unpacked(channel) for channel in heard], decoded, atol=2e-5)


STREAMED = """async ([text, sizes]) => {
  const samples = floats(text);
  const encoder = codec.encoder();
  const decoder = codec.decoder({ noise: 0 });
  const codes = [];
  const heard = [];
  let known = 0;
  for (let at = 0, turn = 0; at < samples.length; at += sizes[turn++ % sizes.length]) {
    codes.push(await encoder.push(samples.subarray(at, at + sizes[turn % sizes.length])));
    heard.push(...(await decoder.push(codes.at(-1))));
    known = Math.max(known, at + sizes[turn % sizes.length] - heard.reduce((sum, piece) => sum + piece.length, 0));
  }
  codes.push(await encoder.finish());
  heard.push(...(await decoder.push(codes.at(-1))), ...(await decoder.finish()));
  const flat = codec.strides.map((_, scale) => codes.flatMap((piece) => [...piece[scale][0]]));
  return [flat, packed(Float32Array.from(heard.flatMap((piece) => [...piece]))), known, codec.groupSamples];
}"""


def test_streams_give_the_whole_whatever_their_pieces(opened, model):
    audio = sound(9001)
    codes, text, behind, group = opened.evaluate(STREAMED, [packed(audio), [1, 700, 4000, 13]])
    wanted = python_codes(model, audio)
    assert codes == [scale[0].tolist() for scale in wanted]
    heard = unpacked(text)
    np.testing.assert_allclose(heard, python_decoded(model, wanted, len(heard), noise=False)[0], atol=2e-5)
    assert len(heard) % group == 0
    assert 9001 <= len(heard) < 9001 + group
    assert 0 < behind < 9001, "sound comes before the end"


@pytest.mark.thorough
@pytest.mark.parametrize("folder", ["model"], indirect=True)
def test_float16_is_near_and_a_closed_codec_says_so(tab, model):
    audio = sound(24_000)
    text = tab.evaluate(
        "async (text) => { const codec = window.small = await Codec.open({ model: 'model', runtime: 'ort/' }); "
        "return packed(await codec.encode(floats(text))); }",
        packed(audio[0]),
    )
    ended = "(() => { const late = small.encode(new Float32Array(9)); small.close(); return late; })()"
    assert tab.evaluate(f"{ended}.catch((error) => error.message)") == "the codec is closed"
    codes = read(io.BytesIO(unpacked(text, "u1").tobytes())).codes
    same = [np.mean(ours == theirs) for ours, theirs in zip(codes, python_codes(model, audio), strict=True)]
    assert min(same) > 0.8
    assert min(same) < 1, "or it was float32"


@pytest.mark.thorough
@pytest.mark.parametrize("folder", ["model"], indirect=True)
def test_threads_give_the_same_on_an_isolated_page(browser, isolated_site, model):
    page = opened_page(browser, isolated_site)
    assert page.evaluate("crossOriginIsolated")
    audio = sound(9001)
    assert codes_of(page, audio, "threads: 2") == plain(python_codes(model, audio))
    page.close()


@pytest.mark.thorough
@pytest.mark.parametrize("folder", ["model"], indirect=True)
def test_webgpu_gives_the_same(browser, site, model):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium's headless shell has no WebGPU; apt-get install chromium")
    program = browser.browser_type.launch(
        executable_path=chromium,
        args=["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"],
    )
    page = opened_page(program, site)
    if not page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"):
        pytest.skip("this Chromium has no WebGPU in software")
    audio = sound(9001)
    assert codes_of(page, audio, "device: 'auto'") == plain(python_codes(model, audio))
    assert page.evaluate("codec.device") == "webgpu"
    program.close()


def plain(codes: list[np.ndarray]) -> list:
    return [scale.tolist() for scale in codes]


def codes_of(page, audio: np.ndarray, options: str) -> list:
    text = page.evaluate(
        "async (text) => { window.codec = await Codec.open({ model: 'model', runtime: 'ort', weights: 'fp32', "
        + options
        + " }); return packed(await codec.encode(floats(text))); }",
        packed(audio[0]),
    )
    return plain(read(io.BytesIO(unpacked(text, "u1").tobytes())).codes)


@pytest.mark.parametrize("folder", ["model"], indirect=True)
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("codec.encode(new Float32Array([0, NaN]))", "AudioError: expected finite audio"),
        ("codec.encode([new Float32Array(5), new Float32Array(4)])", "AudioError: expected Float32Arrays"),
        ("codec.encoder({ channels: 2 }).push(new Float32Array(5))", "AudioError: expected 2 channels of audio, got 1"),
        ("codec.encoder().finish()", "AudioError: expected at least one sample, got the end"),
        ("codec.decoder().push([[[1]]])", "CodesError: expected codes of 3 scales, got 1"),
        ("codec.decoder().push([[[1]], [[1, 2]], [[1, 2, 3, 4096]]])", "CodesError: scale 2: expected codes from 0 to"),
        ("codec.decoder().push([[[1]], [[1, 2]], [[1, 2, 3]]])", "CodesError: scale 2: expected 4 codes, got 3"),
        ("codec.decode(new Uint8Array(5))", "NotSnacError: expected a .snac stream"),
        ("codec.decode(write(new Header({ ...codec.header(), weightsHash: 'f'.repeat(16) }), [[[]], [[]], [[]]], 0))",
         "ModelMismatchError: expected a file encoded by tiny ("),
        ("Codec.open({ model: 'nowhere', runtime: 'ort' })", "/nowhere/opensnac.json: expected a file"),
        ("Codec.open({ model: 'model', runtime: 'ort', weights: 'int8' })", ", got encoder_stream_int8.onnx"),
        ("codec.encode(new Float32Array(9), { signal: AbortSignal.abort() })", "AbortError: "),
    ],
)  # fmt: skip
def test_invalid_calls_are_refused(opened, script, message):
    answer = opened.evaluate(f"Promise.resolve({script}).catch((error) => `${{error.name}}: ${{error.message}}`)")
    assert message in answer


@pytest.mark.parametrize("folder", ["model"], indirect=True)
def test_an_empty_recording(opened):
    file = unpacked(opened.evaluate("codec.encode(new Float32Array(0)).then(packed)"), "u1").tobytes()
    assert read(io.BytesIO(file)).num_samples == 0
    assert opened.evaluate("(text) => codec.decode(bytes(text)).then((r) => r.channels[0].length)", packed(file)) == 0
