"""The pictures are up to date with the published configuration and the import contract."""

import importlib
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "website")
    return importlib.import_module("pictures").pictures()


def test_the_pictures_are_up_to_date(pictures):
    for name, picture in pictures.items():
        assert (REPOSITORY / "docs" / name).read_text(encoding="utf-8") == picture, "python website/pictures.py"


def test_a_picture_says_the_rates(pictures):
    words = [element.text for element in ElementTree.fromstring(pictures["codec.svg"]).iter() if element.text]
    assert {"984 bits per second", "46.9 Hz × 768", "341 ms", "÷8", "×2"} <= set(words)


def test_every_subpackage_is_a_layer(pictures):
    rooms = {path.name for path in (REPOSITORY / "opensnac").iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(re.findall(r">(\w+)</text>", pictures["layers.svg"]))


def test_links_to_recordings_are_players_on_the_site(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(REPOSITORY / "website")
    importlib.import_module("pages").main(tmp_path / "pages")
    page = (tmp_path / "pages/index.md").read_text(encoding="utf-8")
    players = re.findall(r'<audio [^>]*src="([^"]+)">', page)
    assert "examples/lj_speech.flac" in players
    assert all((tmp_path / "pages" / player).is_file() for player in players)
    assert "](../" not in page
