"""What the report shows of a search by rungs: who was paused where, and that a rung's PSNR is no result."""

import re
from dataclasses import replace
from typing import Any

import pytest

from paretosr.analysis.figures import rungs_figure
from paretosr.analysis.report import report_html
from paretosr.analysis.report_rows import table
from paretosr.analysis.summary import RunSummary
from paretosr.search.candidate import Candidate
from paretosr.spaces import Architecture, Block, Design


def network(number: int, rungs: list[list[float]], whole: bool) -> Candidate:
    design = Design(Architecture(8 + 4 * number, (Block("imdb"),)))
    numbers = {"latency_ratio": 0.1 + number / 10, "activations_m": 5.0 + number}
    if whole:
        numbers["psnr_db"] = rungs[-1][1]
    details = {"rungs": rungs, "target": rungs[-1][0]}
    return Candidate(number, design, state="complete" if whole else "paused", numbers=numbers, details=details)


def climbers() -> RunSummary:
    """Four networks on three rungs, of which two were trained to the end."""
    climbed = [[10, 24.0], [30, 25.0], [90, 26.5]]
    candidates = (
        network(0, climbed[:1], whole=False),
        network(1, climbed, whole=True),
        network(2, climbed[:2], whole=False),
        network(3, [[10, 23.0], [30, 25.5], [90, 27.25]], whole=True),
    )
    return RunSummary(
        name="rungs",
        candidates=candidates,
        objectives=("psnr_db", "latency_ratio", "activations_m"),
        front=(1, 3),
        winner=3,
        winner_rule="knee",
        reference={"name": "imdn", "numbers": {"latency_ratio": 1.0, "activations_m": 100.0}},
        bicubic_psnr_db=24.5,
    )


@pytest.fixture
def summary() -> RunSummary:
    return climbers()


def test_the_rungs_are_drawn_and_told_apart(summary):
    figure = rungs_figure(summary)
    data: Any = figure.data
    traces = {trace.name: trace for trace in data}
    assert list(traces) == ["networks", "paused", "trained to the end", "on the front"]
    assert list(traces["paused"].customdata) == [0, 2]
    assert list(traces["paused"].y) == [24.0, 25.0]
    assert list(traces["on the front"].customdata) == [1, 3]
    assert list(traces["networks"].x).count(None) == 4
    assert list(figure.layout.xaxis.tickvals) == [10, 30, 90]


def test_a_paused_network_stands_behind_those_trained_to_the_end_and_has_no_psnr(summary):
    rows = table(summary)["rows"]
    assert [row["number"] for row in rows] == [3, 1, 0, 2]
    paused = rows[2]
    assert paused["place"] == "paused"
    titles = [column.title for column in table(summary)["columns"]]
    assert paused["cells"][titles.index("PSNR")].key == ""
    assert paused["cells"][-1].text == "24.00 dB at 10 steps"


def test_the_page_says_how_many_were_trained_for_a_part(summary):
    text = report_html(summary)
    assert "4 candidates: 2 trained, 2 on the front, 2 trained for a part of the steps." in text
    assert 'id="rungs"' in text
    assert re.search(r'"rungs":\{"data"', text)


def test_a_search_without_rungs_has_no_such_figure(summary):
    plain = tuple(replace(c, details={}) for c in summary.candidates if c.state == "complete")
    assert 'id="rungs"' not in report_html(replace(summary, candidates=plain))
