"""The checks of test_as_documented.py on the kernels for aarch64, cross-compiled and run by an emulator.

Calls of the kernels are caught on their way to C, written into a file with the memory they name, and made by
emulated.c.
"""

from __future__ import annotations

import ast
import ctypes
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
import test_as_documented
import torch
from test_as_documented import (  # noqa: F401  (collected here once more)
    _seed,
    test_a_trained_unit,
    test_linear,
    test_nearest,
    test_noise,
    test_noise_is_pinned,
    test_single,
    test_snake_and_depthwise,
    test_symmetric,
    test_units_without_samples,
)

from opensnac import kernels, processor
from opensnac.kernels import library

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"]
SETUP = Path(__file__).parents[2] / "setup.py"
ARGUMENTS_AT, LIST_AT, DATA_AT, ALIGNED = 32, 160, 192, 64  # bytes in the file that emulated.c reads


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library and the program that calls it."""
    for program in (COMPILER, EMULATOR[0]):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing: apt-get install gcc-aarch64-linux-gnu qemu-user-static")
    folder = tmp_path_factory.mktemp("aarch64")
    flags = ast.literal_eval(re.search(r"^FLAGS = (\[.*\])$", SETUP.read_text(), re.MULTILINE)[1])
    sources = [path for path in processor.FOLDER.glob("*.c") if path.name != "probe.c"]
    flags.append("-O1")  # as in standin.py
    subprocess.run([COMPILER, *flags, "-fPIC", "-shared", *sources, "-o", folder / "_neon.so"], check=True)
    subprocess.run([COMPILER, "-O1", Path(__file__).with_name("emulated.c"), "-o", folder / "call", "-ldl"], check=True)
    return folder


@pytest.fixture(autouse=True)
def neon(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulated = Emulated(built)
    plain = library.as_word

    def as_word(argument: Any) -> int:
        emulated.keep(argument)
        return plain(argument)

    monkeypatch.setattr(library, "as_word", as_word)
    found = library.Library("neon", emulated, bfloat16=False)
    monkeypatch.setattr(library, "loaded", lambda: found)
    monkeypatch.setattr(kernels, "loaded", lambda: found)


@pytest.mark.parametrize(("channels", "noisy"), [(16, False), (48, True)])
def test_units(channels: int, noisy: bool) -> None:
    """A few of that test's cases, as the emulator is slow."""
    test_as_documented.test_units(1, channels, (1, 3, 9), noisy, 1300)


class Emulated:
    """A proxy for the library: its functions run in the emulator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pieces: dict[int, tuple[int, Any]] = {}  # address -> size and what keeps it alive

    def keep(self, argument: Any) -> None:
        """Remember the memory of an argument."""
        if isinstance(argument, torch.Tensor):
            storage = argument.untyped_storage()
            self.pieces[storage.data_ptr()] = storage.nbytes(), argument
        elif isinstance(argument, ctypes.Array):
            self.pieces[ctypes.addressof(argument)] = ctypes.sizeof(argument), argument

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.call(name, [self.number(argument) for argument in arguments])

    def number(self, argument: Any) -> int:
        self.keep(argument)
        return ctypes.addressof(argument) if isinstance(argument, ctypes.Array) else argument.value

    def base(self, value: int) -> int | None:
        """The start of the memory block that a word points into, or None for a number."""
        inside = [base for base, (size, _) in self.pieces.items() if base and base <= value <= base + size]
        return max(inside, default=None)

    def reached(self, words: list[int]) -> set[int]:
        """The memory blocks that words point into, directly or through tables."""
        found: set[int] = set()
        while words:
            base = self.base(words.pop())
            if base is not None and base not in found:
                found.add(base)
                words += self.words(base)
        return found

    def words(self, base: int) -> list[int]:
        kept = self.pieces[base][1]
        return [*kept] if isinstance(kept, ctypes.Array) else []

    def call(self, name: str, arguments: list[int]) -> int:
        """Write what the function reaches into a file, have it called, and take the memory back."""
        image, place = bytearray(DATA_AT), {}
        for base in self.reached([*arguments]):
            place[base] = len(image)
            image += ctypes.string_at(base, self.pieces[base][0])
            image += bytes(-len(image) % ALIGNED)
        words = dict(enumerate(arguments, start=ARGUMENTS_AT // 8))
        for base, offset in place.items():
            words |= enumerate(self.words(base), start=offset // 8)
        moved = [at for at, value in words.items() if self.base(value) is not None]
        for at in moved:
            base = self.base(words[at])
            words[at] += place[base] - base
        for at, value in words.items():
            struct.pack_into("q", image, 8 * at, value)
        struct.pack_into("32s", image, 0, name.encode())
        struct.pack_into("q", image, LIST_AT, len(image))
        image += struct.pack(f"{len(moved)}q", *(8 * at for at in moved))

        file = self.folder / "memory"
        file.write_bytes(image)
        subprocess.run([*EMULATOR, self.folder / "call", self.folder / "_neon.so", file], check=True)
        answer = file.read_bytes()
        for base, offset in place.items():
            if not self.words(base):  # a table's addresses are the emulator's
                ctypes.memmove(base, answer[offset:], self.pieces[base][0])
        return struct.unpack_from("q", answer, ARGUMENTS_AT)[0]
