"""Shapes and types in the signatures of the model and the losses are checked at every call, but in whole training runs.

And a browser for the tests of pages, if the system has one.
"""

import functools
import gc
import multiprocessing
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import configs
import hypothesis
import pytest
import typer.testing
from jaxtyping import install_import_hook

CHECKED = ("attention", "decoder", "encoder", "layers", "noise", "quantizer")

install_import_hook([f"opensnac.model.{name}" for name in CHECKED], "beartype.beartype")
install_import_hook(
    ["opensnac.training.losses", "opensnac.spectra.distances", "opensnac.training.discriminators"], "beartype.beartype"
)

# Started in the background by a shell, the tests would inherit an ignored SIGINT and pass it on.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("without_deadline", deadline=None)
hypothesis.settings.load_profile("without_deadline")

# Processes that tests start as forks come from one that has imported all of this, once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["opensnac.training.loop", "torch._dynamo", "torch.utils.tensorboard", "pystoi"])

# The application for typer's runner is made once: that takes longer than most commands run.
typer.testing._get_command = functools.cache(typer.testing._get_command)

LONG = ("training", "serving", "benchmarks", "web", "cli", "corpus")  # tests that train, or wait for other processes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the long files first, so that parallel processes end at about the same time."""
    items.sort(key=lambda item: (not _starts_forks(item.path), item.path.parent.name not in LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run all files that start forks in one process: the imports before the first fork take four seconds."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "forks" if _starts_forks(config.rootpath / file) else file

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@functools.cache
def _starts_forks(file: Path) -> bool:
    return "forks" in file.read_text(encoding="utf-8")


def pytest_collection_finish() -> None:
    """Exclude what the imports have made from garbage collection, which would go through it again and again."""
    gc.collect()
    gc.freeze()


BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")  # the first starts fastest
# The browser itself does not use the network; sound may start without a user gesture.
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
    """Restore the number of threads after each test, as sums depend on it."""
    import torch  # not above: the process that only gives out the tests does without

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def forks(monkeypatch):
    """Start as such forks the processes that are otherwise spawned and import PyTorch each."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: FORKS)
    return FORKS


@pytest.fixture(scope="module")
def browser_options():
    """Chromium's options; a module's own fixture of this name adds to them."""
    return BROWSER_OPTIONS


@pytest.fixture(scope="module")  # stopped here, as no test can run its own event loop meanwhile
def browser(browser_options):
    """A headless Chromium of the system, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium found; apt-get install chromium-headless-shell")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=browser_options)
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser):
    """A separate browser profile without network; a page that raises an error or uses the network fails the test."""
    with _profile(browser) as profile:
        yield profile


@pytest.fixture(scope="module")
def shared_context(browser):
    """The same for all tests of a module: a new profile or page takes the browser long."""
    with _profile(browser) as profile:
        yield profile


@contextmanager
def _profile(browser):
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
