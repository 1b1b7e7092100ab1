"""The README is true: its commands run in order as they stand, in both languages the same."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from test_jobs import shapes

READMES = ("README.md", "README.tr.md")


def blocks(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_commands_and_the_python_of_the_readme_run_as_they_stand(tmp_path: Path) -> None:
    shapes(tmp_path / "photos", {"ants": 20, "bees-with-a-bar": 20}, size=16)
    shapes(tmp_path / "other_photos", {"ants": 4, "bees-with-a-bar": 4}, size=16)
    shapes(tmp_path / "x", {"ants": 2}, size=16)
    (tmp_path / "x" / "ants").rename(tmp_path / "new_pictures")
    (tmp_path / "new_pictures" / "0.png").rename(tmp_path / "new_pictures" / "a.png")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    commands = "".join(blocks("README.md", "sh"))
    assert commands.count("wrn ") >= 6

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    done = run("bash", "-euo", "pipefail", "-c", commands)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "photos-1" / "report.html").exists()
    program = "".join(blocks("README.md", "python"))
    done = run(sys.executable, "-c", program)
    assert done.stdout.strip() in {"ants", "bees-with-a-bar"}, done.stderr


def test_both_languages_show_the_same_commands() -> None:
    english, turkish = READMES
    for language in ("sh", "python"):
        assert blocks(english, language) == blocks(turkish, language)
    without_comments = [[re.sub(r" *#.*", "", block) for block in blocks(name, "console")] for name in READMES]
    assert without_comments[0] == without_comments[1]


@pytest.mark.parametrize("page", [*READMES, *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))])
def test_every_link_to_a_file_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        assert target.startswith("http") or (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"
