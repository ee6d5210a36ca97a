"""Recipes as modules, and a package of recordings made here."""

import importlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from opensnac.recordings import audio

RECIPES = Path(__file__).parent.parent.parent / "recipes"
RATE = 24_000


@pytest.fixture
def load_recipe(monkeypatch):
    """Imports a recipe by its name, as running it does."""
    monkeypatch.syspath_prepend(RECIPES)
    return importlib.import_module


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """An apt-get that downloads `noise-data`, which is made here, and nothing else."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb: not Debian")
    root = tmp_path / "noise-data"
    noise = np.linspace(-0.5, 0.5, 30 * RATE)[None]
    audio.write(root / "usr" / "share" / "noise.wav", noise, RATE)
    (root / "usr" / "share" / "list.csv").write_text("noise|A hiss\n")
    (root / "DEBIAN").mkdir()
    control = "Package: noise-data\nVersion: 1.2-3\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: noise\n"
    (root / "DEBIAN" / "control").write_text(control)
    archive = tmp_path / "noise-data.deb"
    subprocess.run(["dpkg-deb", "-b", str(root), str(archive)], check=True, capture_output=True)
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$2" = noise-data ] && exec cp {archive} .\necho "E: no $2" >&2\nexit 100\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
