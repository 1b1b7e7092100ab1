"""Files damaged at random are answered or refused; what `fuzz.py` found is among its first numbers, or below."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from PIL import ExifTags, Image

from faults.fuzz import TARGETS, changed_card, made, models, outcome
from wideresnet.checkpoint import load_model
from wideresnet.errors import ModelFileError


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of what is damaged
@pytest.mark.parametrize("target", TARGETS)
def test_a_file_damaged_at_random_is_answered_or_refused_in_one_of_our_errors(target: str, tmp_path: Path) -> None:
    real, wrong = TARGETS[target][0](), list[str]()
    for number in range(2000):
        if found := outcome(target, made(target, 0, number, real), tmp_path):
            wrong.append(f"number {number}: {found}")
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format_version": "1"}, "not a model file"),
        ({"format_version": [1]}, "not a model file"),
        ({"architecture": {"depth": 10**30}}, "of a smaller network"),
        ({"architecture": {"depth": 6_000_004}}, "of a smaller network"),
        ({"architecture": {"widen_factor": 100_000}}, "of a smaller network"),
        ({"architecture": {"num_blocks": [10**6, 1, 1]}}, "of a smaller network"),
        ({"architecture": {"widen_factor": 2}}, "not the tensors of wrn_10_2"),
        ({"architecture": {"depth": "x"}}, "does not fit together"),
        ({"architecture": 5}, "does not fit together"),
        ({"class_names": 5}, "does not fit together"),
        ({"class_names": ["a"]}, "1 class names for a network of 2"),
        ({"temperature": -1.0}, "temperature=-1.0: expected a number above 0"),
        ({"temperature": "hot"}, "temperature='hot': expected a number"),
        ({"preprocess": 7}, "does not fit together"),
        ({"preprocess": {"size": 2**40}}, "from 1 to 16,384"),
        ({"preprocess": {"border": 10**30}}, "from 0 to 16,384"),
        ({"preprocess": {"mean": {"a": 1}}}, "expected a tuple of 1 or 3 numbers"),
    ],
    ids=json.dumps,
)
def test_a_card_made_to_do_harm_is_refused_in_one_line(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(changed_card(models()[0], changes))
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 200_000, "5", '"x"', "null", "[]", '{"digest": "\\ud800"}', "{", ""])
def test_an_entry_that_is_none_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(changed_card(models()[0], {}, text=text))
    with pytest.raises(ModelFileError, match=r"damaged: its header cannot be read|damaged: its content differs"):
        load_model(path)


WITHIN_A_GIGABYTE = """
import resource, sys
from pathlib import Path
from wideresnet import images
from wideresnet.errors import ImageError
used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (used + (1 << 30),) * 2)
for name in sys.argv[1:]:
    try:
        images.decode(Path(name))
    except ImageError as error:
        print(f"{Path(name).name}: {error}")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_what_once_took_more_than_a_gigabyte_takes_less(tmp_path: Path) -> None:
    corpus = sorted(str(path) for path in (Path(__file__).parent / "corpus").iterdir())
    assert len(corpus) >= 5
    large = tmp_path / "large.png"  # as many pixels as are read, in colours with transparency, turned
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGBA", (9459, 9459), (10, 20, 30, 40)).save(large, compress_level=1, exif=exif)
    words = [sys.executable, "-c", WITHIN_A_GIGABYTE, *corpus, str(large)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("wide.webp: a WebP of 40×2097192 pixels, which no WebP can have") == 1
    assert "large.png" not in done.stdout
