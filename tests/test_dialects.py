"""The table of networks and the names they go by."""

from dataclasses import fields
from typing import get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wideresnet.dialects import ARCHITECTURES, DIALECTS, FORMS, Architecture, arch_name, find_dialect, parse_arch
from wideresnet.model import Options, Variant, WideResNetClassifier

PUBLISHED = {  # depth → widen factors: the nets of table b2 of the published numbers
    16: (2, 4, 8, 10),
    22: (8, 10),
    28: (2, 8, 10, 12),
    34: (10,),
    40: (1, 2, 4, 8, 10),
}
sizes = {"depth": st.integers(1, 40).map(lambda n: 6 * n + 4), "widen_factor": st.integers(1, 20)}


@given(**sizes, form=st.sampled_from(sorted(FORMS)))
def test_a_name_survives_the_round_trip(depth: int, widen_factor: int, form: str) -> None:
    name = f"wrn_{depth}_{widen_factor}" + (f".{form}" if form else "")
    assert parse_arch(arch_name(parse_arch(name))) == parse_arch(name)


@pytest.mark.parametrize("form", FORMS)
def test_the_name_of_a_built_network_builds_it_again(form: str) -> None:
    name = "wrn_10_1" + (f".{form}" if form else "")
    with torch.device("meta"):
        model = WideResNetClassifier(10, **parse_arch(name))
        again = WideResNetClassifier(10, **parse_arch(arch_name(model.architecture)))
    assert again.architecture == model.architecture


@pytest.mark.parametrize("name", ["wrn_10_1", "wrn_10_1.paper", "wrn_28_2.torchssl"])
def test_a_network_is_called_by_the_shortest_name_of_its_form(name: str) -> None:
    assert arch_name(parse_arch(name)) == name


@given(**sizes)
def test_the_papers_spelling_is_read_too(depth: int, widen_factor: int) -> None:
    assert parse_arch(f"WRN-{depth}-{widen_factor}") == {"depth": depth, "widen_factor": widen_factor}


def test_the_form_after_the_dot_adds_its_options() -> None:
    assert parse_arch("wrn_28_10.paper") == {"depth": 28, "widen_factor": 10, **FORMS["paper"]}


def test_options_that_are_no_form_are_spelt_out() -> None:
    assert arch_name({**parse_arch("wrn_16_4"), "stem": "conv"}) == "wrn_16_4 with stem=conv"


@pytest.mark.parametrize(
    "arch",
    [
        "",
        "wrn",
        "wrn_28",
        "wrn_28_10_2",
        "resnet_50_2",
        "wrn_a_b",
        "wrn_28_-2",
        "wrn_28_10.",
        "wrn_28_10.papr",
        "wrn_٢٨_2",
    ],
)
def test_any_other_name_is_refused_with_the_form_expected(arch: str) -> None:
    with pytest.raises(ValueError, match=r"wrn_DEPTH_WIDEN \(as in wrn_28_10\)") as caught:
        parse_arch(arch)
    assert repr(arch) in str(caught.value)
    assert "wrn_DEPTH_WIDEN.paper" in str(caught.value)


def test_a_misspelt_form_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'trades'"):
        parse_arch("wrn_34_10.tradez")


def test_an_impossible_depth_in_a_name_is_refused_by_the_network() -> None:
    with pytest.raises(ValueError, match="nearest: 28 and 34"):
        WideResNetClassifier(10, **parse_arch("wrn_30_2"))


def test_the_options_that_type_checkers_know_are_the_networks_own() -> None:
    assert list(Options.__annotations__) == [field.name for field in fields(Variant)]
    assert get_type_hints(Options) == get_type_hints(Variant)


def test_the_table_has_every_net_of_the_published_counts() -> None:
    published = {(depth, widen_factor) for depth, factors in PUBLISHED.items() for widen_factor in factors}
    assert published <= {(row.depth, row.widen_factor) for row in ARCHITECTURES}


def test_the_tables_rows_are_sorted_and_told_once() -> None:
    order = [(row.depth, row.widen_factor) for row in ARCHITECTURES]
    assert order == sorted(set(order))


@pytest.mark.parametrize("row", ARCHITECTURES, ids=lambda row: row.name)
def test_every_row_can_be_built_and_says_who_uses_it(row: Architecture) -> None:
    assert row.used_by
    assert row.title == row.name.upper().replace("_", "-")
    with torch.device("meta"):
        model = WideResNetClassifier(10, **parse_arch(row.name))
    assert arch_name(model.architecture) == row.name


def test_no_name_of_a_dialect_is_anothers() -> None:
    names = [name for row in DIALECTS for name in (row.name, *row.aliases)]
    assert sorted(names) == sorted(set(names))
    assert all(find_dialect(name.upper()) in DIALECTS for name in names)
