"""The page from end to end: a file in, a .snac file out, a link, a recording, no network, compared with Python."""

import io

import numpy as np
import pytest
import soundfile
import soxr
import torch

from opensnac.bitstream import read

RATE = 24_000


@pytest.fixture
def tab(context, site):
    return ready(context.new_page(), site)


def ready(page, address: str, state: str = "ready"):
    page.set_default_timeout(120_000)  # a busy machine takes long to compile the runtime
    page.goto(address)
    page.wait_for_selector(f"body[data-state={state}]")
    return page


@pytest.fixture
def wave(tmp_path):
    """A recording of 2.2 s at 16 kHz, and its samples."""
    samples = 0.3 * np.sin(np.arange(35_000) ** 1.2 / 40)
    soundfile.write(tmp_path / "sweep.wav", samples, 16_000, subtype="FLOAT")
    return tmp_path / "sweep.wav", samples.astype(np.float32)


def saved(tab) -> bytes:
    with tab.expect_download() as download:
        tab.click("#save")
    assert download.value.suggested_filename == "recording.snac"
    return download.value.path().read_bytes()


def done(tab, state: str = "done") -> None:
    tab.wait_for_selector(f"body[data-state={state}]")


def test_a_file_in_and_its_codes_out(tab, wave, tiny, tmp_path):
    path, samples = wave
    tab.set_input_files("#file", path)
    done(tab)
    file = saved(tab)
    recording = read(io.BytesIO(file))
    assert (recording.header.original_rate, recording.num_samples) == (16_000, len(samples))
    wanted = tiny.encode(torch.from_numpy(soxr.resample(samples, 16_000, RATE, "VHQ"))[None, None])
    same = [np.mean(ours == theirs.numpy()) for ours, theirs in zip(recording.codes, wanted, strict=True)]
    assert min(same) > 0.75, "resampled by another, encoded in float16"
    assert tab.inner_text("#bytes") == f"{len(file):,} bytes"
    assert tab.inner_text("#seconds") == "2.2 s"
    assert "2.2 s" in tab.get_attribute("#decoded-picture", "aria-label")
    assert "codes of 3 scales" in tab.get_attribute("#codes", "aria-label").lower()

    tab.click("#decoded-play")
    tab.wait_for_function("document.getElementById('decoded-place').value > 0.2")
    assert tab.inner_text("#decoded-play") == "Pause decoded"
    tab.keyboard.press("Space")
    tab.wait_for_function("document.getElementById('decoded-play').textContent === 'Play decoded'")

    (tmp_path / "again.snac").write_bytes(file)  # and back
    tab.set_input_files("#file", tmp_path / "again.snac")
    done(tab)
    assert not tab.is_visible("#original-panel")
    assert tab.inner_text("#status") == "Decoded."
    assert saved(tab) == file


def test_a_link_contains_the_sound(tab, context, site, wave):
    tab.set_input_files("#file", wave[0])
    done(tab)
    file = saved(tab)
    tab.click("#share")
    link = tab.input_value("#link")
    assert tab.url == link
    assert len(link) < 1.4 * len(file) + 50
    tab.evaluate("navigator.serviceWorker.ready")
    context.set_offline(True)
    other = ready(context.new_page(), link, "done")
    assert saved(other) == file
    other.set_input_files("#file", wave[0])
    done(other)
    assert saved(other) == file, "coded without a network"
    context.set_offline(False)


@pytest.mark.thorough
def test_damaged_files_and_links(tab, context, site, wave, tmp_path):
    tab.set_input_files("#file", wave[0])
    done(tab)
    file = saved(tab)
    (tmp_path / "cut.snac").write_bytes(file[:60])
    tab.set_input_files("#file", tmp_path / "cut.snac")
    done(tab, "failed")
    assert "nothing before the damage can be decoded" in tab.inner_text("#error")
    (tmp_path / "more.snac").write_bytes(file + b"more")
    tab.set_input_files("#file", tmp_path / "more.snac")
    done(tab)
    assert "4 bytes follow the end" in tab.inner_text("#status")
    assert not tab.is_visible("#error")
    (tmp_path / "words.txt").write_text("no sound")
    tab.set_input_files("#file", tmp_path / "words.txt")
    done(tab, "failed")
    assert "words.txt: expected a recording that this browser plays" in tab.inner_text("#error")
    broken = ready(context.new_page(), f"{site}/#snac=%%%", "failed")
    assert "expected a link with sound" in broken.inner_text("#error")


@pytest.mark.thorough
def test_a_recording_is_coded_while_it_is_made(context, site):
    page = context.new_page()
    page.add_init_script("""
      navigator.mediaDevices.getUserMedia = async () => {
        const context = new AudioContext();
        const destination = new MediaStreamAudioDestinationNode(context, { channelCount: 1 });
        const oscillator = new OscillatorNode(context, { frequency: 440 });
        oscillator.connect(destination);
        oscillator.start();
        return destination.stream;
      };
    """)
    tab = ready(page, site)
    tab.click("#record")
    tab.wait_for_function("parseFloat(document.getElementById('seconds').textContent) > 0.5")
    assert tab.inner_text("#record") == "Stop"
    assert tab.locator("#codes span").count() > 0, "codes come while it records"
    tab.keyboard.press("Enter")
    done(tab)
    recording = read(io.BytesIO(saved(tab)))
    assert recording.num_samples / RATE == pytest.approx(float(tab.inner_text("#seconds").split()[0]), abs=0.06)
    assert "most energy near 4" in tab.get_attribute("#original-picture", "aria-label")
    tab.click("#compare")
    tab.click("text=Play B")
    assert tab.get_attribute("text=Play B", "aria-pressed") == "true"
    tab.click("#record")  # a new input ends the comparison
    tab.wait_for_function("document.getElementById('comparison').childElementCount === 0")
    tab.wait_for_function("document.getElementById('record').textContent === 'Stop'")
    tab.click("#record")
    tab.wait_for_selector("body:not([data-state=working])")
    assert tab.inner_text("#record") == "Record"
