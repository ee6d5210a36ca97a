"""The page of web/ with small models, served to a browser on this machine."""

import dataclasses
import functools
import os
import sys
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import configs
import pytest

THOROUGH = "OPENSNAC_TEST_WEB" in os.environ  # make test-web: also the slow tests
WEB = Path(__file__).parents[2] / "web"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words) -> None:
        pass


class Isolated(Quiet):
    """Sends the headers that allow a page to use threads."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


@contextmanager
def served(folder: Path, handler: type[Quiet] = Quiet):
    """Serve `folder` during the context; returns the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("thorough") and not THOROUGH:
            item.add_marker(pytest.mark.skip(reason="make test-web"))


@pytest.fixture(scope="session")
def serve():
    return served


@pytest.fixture(scope="session")
def assembled(tmp_path_factory, tiny):
    """The output of `make web` for a tiny model; odd/ has another with attention."""
    if not (WEB / "node_modules/onnxruntime-web").exists():
        pytest.skip("no onnxruntime-web in web/node_modules; make web")
    pytest.importorskip("onnx", reason="pip install 'opensnac[export]'")
    from opensnac.export import Weights, export

    sys.path.insert(0, str(WEB))
    from assemble import assemble

    folder = tmp_path_factory.mktemp("site") / "dist"
    assemble(folder, dataclasses.replace(Weights.of(tiny), name="tiny"), ("fp32", "fp16"))
    odd = dataclasses.replace(Weights.of(configs.model_of(configs.ODD_ATTENTION)), name="odd")
    export(odd, folder / "odd", ("fp32",), stream=True)
    return folder


@pytest.fixture(scope="session")
def site(assembled):
    """The address of a static host."""
    with served(assembled) as address:
        yield address


@pytest.fixture(scope="session")
def isolated_site(assembled):
    """The address of one that lets pages have threads."""
    with served(assembled, Isolated) as address:
        yield address
