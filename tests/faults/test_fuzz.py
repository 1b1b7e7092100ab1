"""Files damaged at random are answered or refused; what `fuzz.py` found is among its first numbers, or below."""

import json
from pathlib import Path
from typing import Any

import pytest

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
