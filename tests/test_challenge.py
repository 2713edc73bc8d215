"""Table 1 and Table 2 of the challenge, and the published networks' counts beside them."""

import csv
import dataclasses
import re
import time
from pathlib import Path

import pytest

from paretosr.analysis.challenge import tables as challenge
from paretosr.analysis.challenge.tables import (
    COUNTS,
    TABLE_2,
    Comparison,
    compare,
    has_digits,
    table_1,
    table_2,
)
from paretosr.runs.systems_docs import page
from paretosr.spaces import BUILDABLE, SYSTEMS

REPOSITORY = Path(__file__).resolve().parents[1]
NAMES = {"acts_m": "activations_m"}  # where the shared table has another name for a column


# ---- Table 1


def test_table_1_has_27_rows_and_each_has_its_system():
    teams = [row.team for row in table_1()]
    assert len(teams) == len(set(teams)) == 27
    claimed = [system.team for system in SYSTEMS.values() if system.team]
    assert sorted(claimed) == sorted(teams)


def test_table_1_is_the_shared_one(shared):
    with (shared / "aim2020.csv").open(encoding="utf-8") as file:
        theirs = list(csv.DictReader(file))
    for row, there in zip(table_1(), theirs, strict=True):
        renamed = {NAMES.get(column, column): cell for column, cell in there.items()}
        columns = ("runtime_s", *TABLE_2, "convs")
        assert row.team == there["team"]
        assert row.printed == {column: renamed[column] for column in columns if renamed[column]}
        starred = {NAMES.get(column, column) for column in there["starred"].split()}
        assert row.starred == starred & set(columns)


def test_a_cell_is_shown_as_printed_with_its_star():
    rows = {row.team: row for row in table_1()}
    assert rows["NJU MCG"].text("flops_g") == "27.10"
    assert rows["LMSR"].text("params_m") == "1.126*"
    assert rows["wozhu"].text("flops_g") == "–"
    assert rows["wozhu"].number("flops_g") is None
    assert rows["Baseline"].number("runtime_s") == 0.114


# ---- Table 2


def test_table_2_comes_out_on_21_rows():
    found = table_2()
    for column, printed in TABLE_2.items():
        assert found[column].rows == 21
        assert found[column].rho == pytest.approx(printed, abs=5e-5), column


def test_what_the_page_says_of_the_intervals_holds():
    found = table_2()
    for column in ("params_m", "flops_g", "convs"):
        low, high = found[column].low, found[column].high
        assert low is not None
        assert high is not None
        assert low < 0 < high, column
    for column in ("activations_m", "memory_m"):
        assert (found[column].low or 0) > 0.3, column
    complete = [row for row in table_1() if row.is_complete]
    assert len(complete) == 23
    # As computed from the shared table.
    for column, rho in (("params_m", 0.052), ("flops_g", 0.261), ("activations_m", 0.869), ("memory_m", 0.659)):
        assert table_2(complete)[column].rho == pytest.approx(rho, abs=5e-4)


# ---- counts


@pytest.mark.parametrize(
    ("value", "printed", "agrees"),
    [
        (0.599880, "0.599", True),  # cut
        (118.489088, "118.49", True),  # rounded
        (0.21, "0.20", False),  # a whole unit is too much, whatever floats make of it
        (0.19, "0.20", False),
        (0.2099, "0.20", True),
        (60, "60", True),
        (59, "60", False),
        (61, "60", False),
        (5.0049, "5.00", True),
    ],
)
def test_the_printed_digits(value, printed, agrees):
    assert has_digits(value, printed) is agrees


@pytest.fixture(scope="module")
def comparisons() -> dict[str, Comparison]:
    return {name: compare(name) for name in SYSTEMS}


def test_counting_all_takes_seconds():
    start = time.process_time()
    for name in SYSTEMS:
        compare(name)
    assert time.process_time() - start < 10


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_is_what_its_basis_says(comparisons, name):
    c = comparisons[name]
    assert c.mark in ("exact", "reading", "placeholder", "not described", "no row")  # not `differs`
    assert (c.counts is None) == (name not in BUILDABLE) == (c.mark == "not described")
    assert (c.row is None) == (not c.system.team)
    if c.row is not None and c.system.basis == "code":
        assert c.mark == "exact"
    if c.mark == "reading":
        assert c.largest is not None
        assert abs(c.largest[1]) < 0.06
    assert set(c.deviations) <= set(COUNTS)
    if c.mark == "exact":
        assert c.largest is None
        assert c.deviations["params_m"] == 0


def test_an_exact_one_has_every_printed_digit(comparisons):
    for c in comparisons.values():
        if c.mark == "exact" and c.row and c.counts:
            for column in ("params_m", "flops_g", "activations_m"):
                assert has_digits(c.count(column), c.row.printed[column]), (c.name, column)


def test_the_convolutions_of_two_systems_are_modules(comparisons):
    """What docs/systems.md says: all others agree by calls, or do not agree at all."""
    in_brackets = {name for name, c in comparisons.items() if "(" in c.count_text("convs")}
    assert in_brackets == {"larvanet", "lfn"}
    larvanet = comparisons["larvanet"]
    assert larvanet.counts is not None
    assert (larvanet.counts.convolutions, larvanet.convs_training) == (60, 68)
    assert (larvanet.mark, larvanet.count_text("convs")) == ("exact", "60 (68)")


def test_a_code_system_that_differs_is_marked_as_such(comparisons):
    rfdn = comparisons["rfdn"]
    off = dataclasses.replace(rfdn, deviations={"params_m": 0.0, "flops_g": -0.0123, "convs": 0.01})
    assert off.mark == "differs"
    assert off.largest == ("flops_g", -0.0123)
    assert off.mark_text() == "differs, FLOPs -1.23 %"


def test_deviations_are_ours_over_the_tables(comparisons, monkeypatch):
    first, *others = table_1()
    assert first.team == "NJU MCG"
    changed = dataclasses.replace(first, printed={**first.printed, "params_m": "0.400", "convs": "128"})
    monkeypatch.setattr(challenge, "table_1", lambda: (changed, *others))
    deviations = compare("rfdn").deviations
    assert deviations["params_m"] == pytest.approx(433_448 / 400_000 - 1)
    assert deviations["convs"] == pytest.approx(-0.5)
    assert deviations["flops_g"] == deviations["activations_m"] == 0


# ---- the page on them


def test_the_page_on_systems_is_current():
    written = (REPOSITORY / "docs" / "systems.md").read_text(encoding="utf-8")
    # A new system may be missing there; nothing else may differ.
    due = [line for line in page().splitlines() if line in written or not is_new_system(line, written)]
    assert written.splitlines() == due, "run: python -m paretosr.runs.systems_docs docs/systems.md"


def is_new_system(line: str, written: str) -> bool:
    name = re.match(r"\| `(\w+)`", line)
    return bool(name) and name[1] in SYSTEMS and f"| `{name[1]}`" not in written
