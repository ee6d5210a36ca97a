"""Servers on this machine, of a small model with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import configs
import pytest
import torch

pytest.importorskip("fastapi", reason="pip install 'opensnac[serve]'")

from running import Program, Running

from opensnac import SNAC, Engine
from opensnac.serving.client import Client
from opensnac.serving.service import Settings


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder."""
    place = tmp_path_factory.mktemp("models") / "tiny"
    configs.model_of(configs.TINY).save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def engine(folder: Path) -> Engine:
    return SNAC.from_pretrained(folder).freeze()


@pytest.fixture(scope="module")
def serve(folder: Path) -> Iterator[Callable[..., Running]]:
    """Start a server with some settings; they all end with the module."""
    running: list[Running] = []

    def start(ping: float = 20.0, **options: Any) -> Running:
        running.append(Running(Settings(**{"model": str(folder)} | options), ping))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="module")
def server(serve: Callable[..., Running]) -> Running:
    return serve()


@pytest.fixture(scope="module")
def program(folder: Path) -> Iterator[Callable[..., Program]]:
    """Start `opensnac serve`; whatever runs at the end of the module is killed."""
    running: list[Program] = []

    def start(*options: str, model: str | Path = folder) -> Program:
        running.append(Program(model, *options))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def codes(engine: Engine) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(64, (1, 80 // stride), generator=generator) for stride in engine.config.vq_strides]
