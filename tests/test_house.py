"""The house stands as STYLE.md draws it: each room imports only rooms above it and the packages named there."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import wideresnet

HOUSE = ROOT / "src" / "wideresnet"
ROOMS: dict[str, set[str]] = {  # in order, front to back; the packages that each may import at its top level
    "errors": set(),
    "arrival": set(),
    "kinds": set(),
    "files": set(),
    "runtime": {"torch"},
    "processes": {"torch"},
    "images": {"numpy", "PIL"},
    "reading": set(),
    "preprocess": {"numpy", "torch", "torchvision"},
    "data": {"numpy", "torch", "PIL", "sklearn"},
    "recipes": set(),
    "augment": {"torch", "torchvision"},
    "model": {"torch"},
    "kernels": {"torch"},
    "dialects": {"torch", "safetensors"},
    "networks": {"torch", "safetensors", "torchvision"},
    "checkpoint": {"torch", "safetensors"},
    "runs": set(),
    "metrics": {"numpy", "sklearn"},
    "corruptions": {"numpy", "PIL"},
    "engines": {"torch"},
    "training": {"torch"},
    "lr_range": set(),
    "classification": {"torch"},
    "prediction": {"torch", "numpy", "PIL"},
    "evaluation": {"numpy"},
    "explanation": {"torch", "numpy"},
    "report": {"matplotlib", "jinja2", "PIL", "numpy"},
    "detection": {"torch", "torchvision", "numpy", "PIL"},
    "hub": {"torch", "huggingface_hub"},
    "tuning": set(),
    "jobs": {"torch", "numpy", "PIL"},
    "cli": {"cyclopts", "rich"},
}
ALONE = {"model"}  # imports no other room, so that it can be copied out and read alone
FILES = [f for f in sorted(HOUSE.rglob("*.py")) if f.parent != HOUSE or f.stem not in {"__init__", "__main__"}]


def imports(file: Path) -> list[tuple[str, int, bool]]:
    """(dotted module, line, at top level?) of every import in `file`, relative ones made absolute."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = ["wideresnet", *file.relative_to(HOUSE).parts[:-1]]
    late: list[ast.AST] = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    late += [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    inside = {node for block in late for node in ast.walk(block)}  # not run when the module is imported
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names] if stem == "wideresnet" else [stem]
        else:
            continue
        found += [(name, node.lineno, node not in inside) for name in names]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(HOUSE)))
def test_a_room_imports_only_rooms_above_it_and_the_packages_named(file: Path) -> None:
    room, order = file.relative_to(HOUSE).parts[0].removesuffix(".py"), list(ROOMS)
    assert room in ROOMS, f"{file.name}: a new room; give it a row here, and say in docs/decisions.md what it is for"
    for name, line, top in imports(file):
        where, first, *rest = f"{file}:{line}", *name.split(".")
        if first == "wideresnet":
            other = rest[0] if rest else "__init__"
            assert other in ROOMS, f"{where}: imports {name}; name the room itself, not the package"
            above = other == room or (order.index(other) < order.index(room) and room not in ALONE)
            assert above, f"{where}: {room} imports {other}, which stands behind it"
        elif top and first not in sys.stdlib_module_names:
            assert first in ROOMS[room], f"{where}: {room} may not import {first} at its top level"


def test_every_room_of_the_table_exists() -> None:
    there = {path.stem for path in HOUSE.iterdir() if not path.name.startswith("__")} - {"py"}
    assert set(ROOMS) == there


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(HOUSE)))
def test_a_file_opens_with_its_job_and_stays_short(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{file.name} does not say what its job is"
    assert text.count("\n") <= 400, f"{file.name}: {text.count(chr(10))} lines; two rooms in one?"


@pytest.mark.parametrize("code", ["import wideresnet", "import wideresnet.cli", "import wideresnet; dir(wideresnet)"])
def test_torch_numpy_and_matplotlib_are_not_imported_by(code: str) -> None:
    probe = f"{code}\nimport sys; print([m for m in ('torch', 'numpy', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], cwd=HOUSE.parent, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_command_shows_its_help_without_importing_torch_numpy_or_matplotlib() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "wideresnet", "--help"]
    done = subprocess.run(command, cwd=HOUSE.parent, capture_output=True, text=True, check=True)
    modules = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "cyclopts" in modules
    assert not modules & {"torch", "numpy", "matplotlib"}
    assert "wrn train" in done.stdout


def test_every_public_name_loads_and_a_room_never_hides_a_function() -> None:
    for room in ROOMS:
        importlib.import_module(f"wideresnet.{room}")
    for name in wideresnet.__all__:
        value = getattr(wideresnet, name)
        assert callable(value), f"wideresnet.{name} is a {type(value).__name__}: hidden by a room of the same name?"
    assert sorted(wideresnet.__all__) == sorted(wideresnet._PUBLIC)


def test_the_public_names_are_those_that_the_documentation_lists() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    listed = {
        line.split("`")[1].split("(")[0].removeprefix("wrn.") for line in page.splitlines() if line[:5] == "| `wr"
    }
    assert listed == set(wideresnet.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = wideresnet.trian
