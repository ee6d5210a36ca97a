"""The project itself: names that are exported, docstrings, shipped configurations, one version everywhere."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import opensnac
from opensnac import errors
from opensnac.engine.codec import SNAC
from opensnac.training.config import TrainConfig

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "opensnac"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
CONFIGS = sorted((PACKAGE / "training/configs").glob("*.toml"))


def test_exported_names_exist() -> None:
    assert set(opensnac.__all__) == {"SNAC", "CodecConfig", "Engine", "__version__"}
    for name in opensnac.__all__:
        assert getattr(opensnac, name) is not None
    with pytest.raises(AttributeError, match="module 'opensnac' has no attribute 'SNACK'"):
        _ = opensnac.SNACK


def test_every_error_can_be_caught_as_one() -> None:
    raised = [value for value in vars(errors).values() if isinstance(value, type)]
    assert errors.OpensnacError in raised
    assert all(issubclass(error, errors.OpensnacError) for error in raised)


def test_one_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == opensnac.__version__
    assert f"\nversion: {opensnac.__version__}\n" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {opensnac.__version__}\n" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_code_has_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree), "the module has no docstring"
    assert [name for name, node in _public(tree) if not ast.get_docstring(node)] == []


def _public(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Functions and classes of a module that have public names."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_builds(path: Path) -> None:
    config = TrainConfig.from_toml(path)
    assert config.name == path.stem
    assert SNAC(**config.model.to_dict()).config == config.model


def test_there_are_shipped_configurations() -> None:
    assert {"smoke", "speech_24khz_tiny"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize(
    "module",
    [
        "opensnac",
        "opensnac.cli",
        "opensnac.processor",
        "opensnac.recordings.audio",
        "opensnac.bitstream",
        "opensnac.recordings.jobs",
    ],
)
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_everything_below_the_package_is_installed_with_it() -> None:
    """Every file that is not Python matches a pattern of pyproject's package data, so that it is installed."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["opensnac"]
    packed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    present = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc", ".so")}
    assert present == packed
