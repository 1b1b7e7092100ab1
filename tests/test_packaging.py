"""What others install: a wheel with the compiled library where there is a compiler, one without where there is none."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

from wideresnet.kernels import library

SETTINGS = ("CXX", "CXXFLAGS", "LDFLAGS", "WRN_NO_KERNELS")  # the build reads these; not those of whoever tests
LOAD = "from wideresnet.kernels import library; found = library.load(); print(getattr(found, 'isas', found))"

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))) and not os.environ.get("CI"), reason="no C++ compiler"
)


def python(*words: str | Path, environment: dict[str, str] | None = None, executable: Path | None = None) -> str:
    """What it printed, both channels. Fails the test if it fails."""
    outside = {name: value for name, value in os.environ.items() if name not in {*SETTINGS, "PYTHONPATH"}}
    command = [str(executable or sys.executable), *map(str, words)]
    environment = outside | (environment or {})
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, made from a copy: a build writes beside its sources."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__"))
    python("-m", "build", "--no-isolation", "--sdist", copy)
    return next((copy / "dist").glob("*.tar.gz"))


@pytest.fixture
def tree(sdist: Path, tmp_path: Path) -> Path:
    """The source distribution, unpacked."""
    shutil.unpack_archive(sdist, tmp_path)
    return tmp_path / sdist.name.removesuffix(".tar.gz")


@pytest.fixture
def environment(tmp_path: Path) -> Callable[..., Path]:
    """Makes a new virtual environment, which sees what this one has if `full`; returns its Python."""

    def make(*, full: bool) -> Path:
        folder = tmp_path / ("full" if full else "bare")
        venv.create(folder, symlinks=True)
        executable = folder / "bin" / "python"
        if full:
            site = python("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", executable=executable)
            Path(site.strip(), "full.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
        return executable

    return make


def pip(executable: Path, *words: str | Path, environment: dict[str, str] | None = None) -> str:
    """`pip install` into the environment of `executable`; nothing is fetched, nothing that is there is removed."""
    options = ("--no-deps", "--no-build-isolation", "--ignore-installed", "--no-index", "--disable-pip-version-check")
    command = ("-m", "pip", "--python", executable, "install", *options, *words)
    return python(*command, environment=environment)


def build_wheel(tree: Path, environment: dict[str, str]) -> tuple[Path, str]:
    """The wheel, and what the build printed."""
    printed = python("-m", "build", "--no-isolation", "--wheel", tree, environment=environment)
    (wheel,) = (tree / "dist").glob("*.whl")
    return wheel, printed


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as file:
        return file.namelist()


@needs_compiler
def test_a_wheel_from_the_source_distribution_holds_a_library_that_loads_in_any_python_of_the_platform(
    tree: Path, environment: Callable[..., Path]
) -> None:
    wheel, printed = build_wheel(tree, {})
    assert "left out" not in printed, printed
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-py3-none-{platform}.whl") or sys.platform == "darwin"
    assert "wideresnet/kernels/_kernels.so" in names(wheel)
    assert [name for name in names(wheel) if "csrc" in name or name.endswith(".o")] == []

    bare, full = environment(full=False), environment(full=True)
    pip(bare, wheel)
    code = """
import ctypes, importlib.util, pathlib
folder = pathlib.Path(importlib.util.find_spec("wideresnet").origin).parent
print(importlib.util.find_spec("torch"), ctypes.CDLL(str(folder / "kernels" / "_kernels.so")).wrn_abi())
"""
    assert python("-c", code, executable=bare) == f"None {library.ABI}\n"
    pip(full, wheel)
    assert "'scalar'" in python("-c", LOAD, executable=full)


@needs_compiler
def test_an_editable_installation_builds_into_the_source_tree_and_takes_the_library_away_again(
    tree: Path, environment: Callable[..., Path]
) -> None:
    executable, built = environment(full=True), tree / "src" / "wideresnet" / "kernels" / "_kernels.so"
    pip(executable, "--editable", tree, environment={"CXXFLAGS": "-O0", "WRN_NO_KERNELS": ""})
    assert [path for path in (tree / "src").rglob("*") if path.suffix in {".o", ".so"}] == [built]
    assert "'scalar'" in python("-c", LOAD, executable=executable)
    pip(executable, "--editable", tree, environment={"WRN_NO_KERNELS": "1"})
    assert not built.exists()
    built.write_bytes(b"of an earlier build")
    pip(executable, "--editable", tree, environment={"CXXFLAGS": "--no-such-flag"})
    assert list(built.parent.glob("*.so")) == []


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="looks for sections of ELF")
def test_flags_of_the_environment_reach_the_compiler_and_the_linker(tree: Path) -> None:
    wheel, _ = build_wheel(tree, {"CXXFLAGS": "-O0 -g", "LDFLAGS": "-Wl,-rpath,/of-the-test"})
    with zipfile.ZipFile(wheel) as file:
        content = file.read("wideresnet/kernels/_kernels.so")
    assert b".debug_info" in content
    assert b"/of-the-test" in content


def test_without_a_compiler_the_build_says_so_and_the_package_says_that_it_has_no_kernels(
    tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    wheel, printed = build_wheel(tree, {"PATH": str(tmp_path / "empty")})
    assert "kernels for the CPU are left out" in printed
    assert "no C++ compiler is installed; install g++ or clang++" in printed
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
        assert b"Root-Is-Purelib: true" in file.read(next(n for n in file.namelist() if n.endswith("/WHEEL")))
    assert python("-c", LOAD, environment={"PYTHONPATH": str(tmp_path / "installed")}).startswith("not built")


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"WRN_NO_KERNELS": "1"}, "WRN_NO_KERNELS is set"),
        ({"CXX": "no-such-compiler"}, "no-such-compiler does not run (No such file or directory)"),
        pytest.param({"CXXFLAGS": "--no-such-flag"}, "no-such-flag", marks=needs_compiler),
    ],
    ids=["left out", "no compiler of this name", "failed"],
)
def test_a_library_that_cannot_be_built_is_left_out_with_the_reason(
    tree: Path, environment: dict[str, str], reason: str
) -> None:
    wheel, printed = build_wheel(tree, environment)
    assert "kernels for the CPU are left out, torch computes instead" in printed
    assert reason in printed
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "wideresnet/kernels/library.py" in names(wheel)
    assert "wideresnet/kernels/_kernels.so" not in names(wheel)


@needs_compiler
def test_a_folder_that_cannot_be_made_is_a_reason_to_leave_the_library_out(tree: Path) -> None:
    with (tree / "setup.cfg").open("a", encoding="utf-8") as file:
        file.write("\n[build_ext]\nbuild_temp = README.md/objects\n")
    wheel, printed = build_wheel(tree, {})
    assert "torch computes instead: cannot write README.md/objects (Not a directory)" in printed
    assert wheel.name.endswith("-py3-none-any.whl")


@pytest.mark.skipif(not os.environ.get("CI"), reason="a checkout may have been set up without a compiler; CI's is not")
def test_in_ci_the_kernels_are_there() -> None:
    assert isinstance(library.load(), library.Library), library.load()
