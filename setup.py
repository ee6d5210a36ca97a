"""Builds the C kernels, one plain shared library for each level of processor; the rest is in pyproject.toml.

They need no Python headers and link the C library alone. Without a C compiler, or where it fails, the package is
installed all the same: setuptools warns, and PyTorch does the work.
"""

import os
import platform
import sys
from glob import glob

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = "opensnac/kernels"
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512dq"]
LEVELS = {
    "x86_64": {"avx2": AVX2, "avx512": AVX512, "avx512bf16": [*AVX512, "-mavx512bf16"]},
    "aarch64": {"neon": []},
}.get(platform.machine() if sys.platform == "linux" else "", {})
PROBE = f"{FOLDER}/probe.c"
SOURCES = sorted({*glob(f"{FOLDER}/*.c")} - {PROBE})
FLAGS = ["-std=gnu11", "-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"]


def library(name: str, sources: list[str], flags: list[str]) -> Extension:
    """One shared library beside the kernels' Python."""
    return Extension(
        f"opensnac.kernels._{name}",
        sources,
        depends=glob(f"{FOLDER}/*.h"),
        extra_compile_args=[*FLAGS, *flags],
        extra_link_args=["-s"],
        optional=True,
    )


class BuildKernels(build_ext):
    """Builds libraries that ctypes loads, not modules of one Python."""

    def build_extension(self, ext: Extension) -> None:
        """Compile one, its objects in a folder of their own."""
        folder = self.build_temp
        self.build_temp = os.path.join(folder, ext.name)
        try:
            super().build_extension(ext)
        finally:
            self.build_temp = folder

    def get_ext_filename(self, fullname: str) -> str:
        """No Python version in the name."""
        return fullname.replace(".", os.sep) + ".so"


class Wheel(bdist_wheel):
    """One wheel serves every Python 3 on a platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI, platform."""
        return "py3", "none", super().get_tag()[2]


LIBRARIES = [library("probe", [PROBE], [])] + [library(name, SOURCES, flags) for name, flags in LEVELS.items()]
setup(ext_modules=LIBRARIES if LEVELS else [], cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel})
