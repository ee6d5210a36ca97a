"""Shapes and types that the model's and the losses' signatures state are checked at every call the tests make.

And a browser for the tests of pages, if the system has one.
"""

import shutil
import signal

import configs
import pytest
import torch
from jaxtyping import install_import_hook

CHECKED = ("attention", "decoder", "encoder", "layers", "noise", "quantizer")

install_import_hook([f"opensnac.model.{name}" for name in CHECKED], "beartype.beartype")
install_import_hook(["opensnac.training.losses", "opensnac.training.discriminators"], "beartype.beartype")

# Started in the background by a shell, the tests would inherit an interrupt that is ignored, and hand it on.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Nothing of the browser's own goes over the network; sound may start without a user's gesture.
BROWSER_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]


@pytest.fixture(autouse=True)
def _threads_as_before():
    """A test that measures in one thread leaves the next one as many as there were: sums depend on their number."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def browser_options():
    """What Chromium is started with; a module's own fixture of this name adds to it."""
    return BROWSER_OPTIONS


@pytest.fixture(scope="module")  # no longer: as long as it is there, no test can run an event loop of its own
def browser(browser_options):
    """A headless Chromium of the system, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium found; apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=browser_options)
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser):
    """A browser's profile of its own, without a network; a page that raises an error or asks for one fails the test."""
    complaints = []
    profile = browser.new_context(viewport={"width": 1280, "height": 900})
    profile.on("weberror", lambda error: complaints.append(str(error.error)))
    profile.on("request", lambda request: complaints.extend([request.url] if is_remote(request.url) else []))
    yield profile
    profile.close()
    assert complaints == []


def is_remote(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:"))


@pytest.fixture(scope="session")
def tiny():
    return configs.model_of(configs.TINY)


@pytest.fixture(scope="session", params=configs.SMALL)
def small(request):
    return configs.model_of(configs.SMALL[request.param])
