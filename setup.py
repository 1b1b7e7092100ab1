"""src/wideresnet/kernels/csrc → one shared library in the package, `_kernels.so`; all else stands in pyproject.toml.

The library is optional: where it cannot be built the installation says why and goes on, and torch computes. It is
linked against neither Python nor torch, so that one wheel serves every Python. CXX, CXXFLAGS and LDFLAGS are obeyed;
WRN_NO_KERNELS=1 leaves the library out.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NAME, CSRC = "wideresnet.kernels._kernels", Path("src/wideresnet/kernels/csrc")
# errno and traps: nobody asks after either, and both forbid vectors. psabi: GCC's note on wide vectors passed by
# value, which no function of the interface does.
FLAGS = (
    *("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi"),
)
SCALAR = ("scalar", 1, "")
AVX2 = ("avx2", 8, "-mavx2 -mfma")
AVX512 = ("avx512", 16, "-mavx512f -mavx512dq -mavx512vl -mavx512bw -mfma -mprefer-vector-width=512")
NEON = ("neon", 4, "")
# Instruction set, floats in its vector, flags; least first, as they are linked. Of an inline function that two of them
# hold, the linker keeps the first, and that must run on every processor.
ISAS = {"x86_64": (SCALAR, AVX2, AVX512), "aarch64": (SCALAR, NEON), "arm64": (SCALAR, NEON)}


class NotBuilt(Exception):  # noqa: N818  no error: the package works without
    """Why there is no library."""


def output_of(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotBuilt(f"{command[0]} does not run ({error.strerror}); name a C++ compiler by CXX") from error
    if done.returncode:
        raise NotBuilt(f"this failed:\n{shlex.join(command)}\n{done.stderr or done.stdout}")
    return done.stdout


def build_library(library: Path, objects: Path) -> None:
    """Compiles all sources at once, a process each, and links them; `library` is replaced when all is done, in one
    step, so that a program that runs never misses it. Raises NotBuilt."""
    if os.environ.get("WRN_NO_KERNELS") not in (None, "", "0"):
        raise NotBuilt("WRN_NO_KERNELS is set")
    if sys.platform == "win32":
        raise NotBuilt("they are written for Linux and macOS")
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "")
    compiler = shlex.split(os.environ.get("CXX", "")) or [found]
    if not compiler[0]:
        raise NotBuilt("no C++ compiler is installed; install g++ or clang++, then this package again")
    # After ours, so that they win: a sanitizer, -O0, or the flags of a distribution.
    cxxflags, ldflags = (shlex.split(os.environ.get(name, "")) for name in ("CXXFLAGS", "LDFLAGS"))
    machine = output_of(*compiler, "-dumpmachine").partition("-")[0]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(CSRC.iterdir()))).hexdigest()[:12]
    units = [("run", "run.cpp", f'-DWRN_SOURCES="{digest}"'), ("team", "team.cpp", ""), ("update", "update.cpp", "")]
    for isa, lanes, flags in ISAS.get(machine, (SCALAR,)):
        units.append((isa, "isa.cpp", f"{flags} -DWRN_ISA={isa} -DWRN_LANES={lanes}"))

    def compiled(unit: tuple[str, str, str]) -> str:
        name, source, flags = unit
        target = str(objects / f"{name}.o")
        output_of(*compiler, *FLAGS, *flags.split(), *cxxflags, "-c", str(CSRC / source), "-o", target)
        return target

    # Without -z defs Linux would link a library that lacks a function, and users would meet it when it is loaded.
    complete = ["-Wl,-z,defs"] if sys.platform == "linux" else []
    new = library.with_stem(f"{library.stem}-new")
    try:
        objects.mkdir(parents=True, exist_ok=True)
        library.parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = list(pool.map(compiled, units))
        output_of(*compiler, "-shared", "-pthread", *cxxflags, *parts, *complete, *ldflags, "-o", str(new))
        new.replace(library)
    except OSError as error:
        raise NotBuilt(f"cannot write {error.filename} ({error.strerror})") from error
    finally:
        if new.exists():
            new.unlink()


class BuildKernels(build_ext):  # type: ignore[misc]
    """Builds with our own flags for each instruction set, which setuptools cannot, and without Python's."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def run(self) -> None:
        library = Path(self.get_ext_fullpath(NAME))  # of an editable installation, in the source tree
        try:
            build_library(library, Path(self.build_temp))
        except NotBuilt as why:
            self.warn(f"the kernels for the CPU are left out, torch computes instead: {why}")
            if library.exists():
                library.unlink()  # of an earlier build; it would outlive its sources
            self.extensions = self.distribution.ext_modules = []


class Wheel(bdist_wheel):  # type: ignore[misc]
    """Named for the platform if the library is inside, for any if not; never for a version of Python."""

    def run(self) -> None:
        self.run_command("build")  # first: only then is it known what is inside
        self.skip_build = True
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        platform = super().get_tag()[2]
        # A Python for both of Apple's processors builds for the one that it runs on.
        return self.python_tag, "none", platform.replace("universal2", os.uname().machine)


sources, headers = ([path.as_posix() for path in sorted(CSRC.glob(f"*.{end}"))] for end in ("cpp", "h"))
setup(
    ext_modules=[Extension(NAME, sources, depends=headers)],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
)
