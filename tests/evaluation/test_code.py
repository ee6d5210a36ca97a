"""Digests of code without comments and docstrings."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensnac import kernels
from opensnac.evaluation.code import code_of
from opensnac.evaluation.codecs.snac import Opensnac

PROGRAM = '''"""A module."""


def double(x):
    """Twice."""
    return 2 * x  # not 3
'''


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (("Twice.", "Two times."), True),
        (("not 3", "nor 4"), True),
        (("2 * x", "3 * x"), False),
        (("double", "twice"), False),
    ],
)
def test_the_digest_ignores_comments_and_docstrings(tmp_path: Path, change: tuple[str, str], same: bool) -> None:
    files = [tmp_path / "before.py", tmp_path / "after.py"]
    files[0].write_text(PROGRAM)
    files[1].write_text(PROGRAM.replace(*change))
    assert (code_of(files[:1]) == code_of(files[1:])) == same


def test_folders_and_c_count(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    before = code_of([tmp_path])
    (tmp_path / "b.c").write_text("int x;")
    assert code_of([tmp_path]) != before


def test_a_codec_names_its_code_and_what_ran_it(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Opensnac()
    version = codec.version()
    monkeypatch.setattr("opensnac.evaluation.codecs.snac._codec_code", lambda: "0" * 16)
    assert codec.version() != version
    assert f"backend {codec.model.backend.name} {kernels.level() or ''}".strip() in version
