"""The tutorial in two languages: both run as they stand, and their code is one."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest
from conftest import ROOT

NOTEBOOKS = {language: ROOT / "notebooks" / f"tutorial.{language}.py" for language in ("tr", "en")}
LANGUAGES = pytest.mark.parametrize("language", NOTEBOOKS)


def cells(language: str, kind: str) -> list[str]:
    notebook = jupytext.read(NOTEBOOKS[language])
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


@LANGUAGES
def test_the_notebook_runs_from_top_to_bottom_and_leaves_nothing_behind(language: str, tmp_path: Path) -> None:
    temporary, folder = tmp_path / "temporary", tmp_path / "folder"
    temporary.mkdir()
    folder.mkdir()
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1", "TMPDIR": str(temporary)}
    environment["OMP_NUM_THREADS"] = "1"  # maps of 8×8: threads that wait for a busy core cost twenty times the work
    command = [sys.executable, str(NOTEBOOKS[language])]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert list(folder.iterdir()) == []


def test_both_languages_have_the_same_code() -> None:
    turkish, english = ([ast.dump(ast.parse(source)) for source in cells(language, "code")] for language in NOTEBOOKS)
    assert len(turkish) == len(english)
    for number, (ours, theirs) in enumerate(zip(turkish, english, strict=True), start=1):
        assert ours == theirs, f"code cell {number} differs"


def test_both_languages_explain_at_the_same_places() -> None:
    kinds = {language: [cell.cell_type for cell in jupytext.read(path).cells] for language, path in NOTEBOOKS.items()}
    assert kinds["tr"] == kinds["en"]
    headings = {
        language: [
            line.split(" ")[0] for text in cells(language, "markdown") for line in text.splitlines() if line[:1] == "#"
        ]
        for language in NOTEBOOKS
    }
    assert headings["tr"] == headings["en"]


@LANGUAGES
def test_jupytext_writes_it_as_a_notebook_and_reads_that_back(language: str, tmp_path: Path) -> None:
    notebook = jupytext.read(NOTEBOOKS[language])
    jupytext.write(notebook, tmp_path / "tutorial.ipynb")
    again = jupytext.read(tmp_path / "tutorial.ipynb")
    assert [cell.source for cell in again.cells] == [cell.source for cell in notebook.cells]
    assert len(again.cells) > 20
    assert again.metadata["kernelspec"]["language"] == "python"
