"""Pruning in the report: arrows and counts, the path and widths of a child, the table, what is escaped."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from pruned import DESIGN, child, repeats, run, usual

from paretosr.analysis.hover import candidate_hover
from paretosr.analysis.pareto import TRACES, front_choices, front_figure
from paretosr.analysis.picture import front_svg
from paretosr.analysis.pruning_figures import path_figure, widths_figure
from paretosr.analysis.pruning_rows import COLUMNS, section
from paretosr.analysis.report import report_html
from paretosr.analysis.summary import RunSummary
from paretosr.analysis.table import candidate_table, write_csv
from paretosr.analysis.wording import headline
from paretosr.search.candidate import Candidate

HOSTILE = "</script><img src=x onerror=alert(1)>&%{x}"


def text_of(html: str) -> str:
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", html[html.index("<body>") :], flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)).strip()


def drawn(summary: RunSummary, *pair: str) -> dict[str, Any]:
    return dict(zip(TRACES, json.loads(str(front_figure(summary, *pair).to_json()))["data"], strict=True))


# Who is who ----------------------------------------------------------------------------------------------------------


def test_an_arrow_leads_from_a_network_to_each_child_that_is_complete() -> None:
    rows = front_choices(usual())["rows"]
    assert rows["arrows"] == [1, 3, None, 1, 4, None]
    assert rows["connectors"] == [1, 2, None]
    assert (rows["pruned"], rows["winner"]) == ([4], [3])
    assert all(5 not in rows[name] for name in TRACES)  # the control
    arrows = drawn(usual())["arrows"]
    assert (arrows["x"], arrows["y"]) == ([0.5, 0.32, None, 0.5, 0.35, None], [27.4, 27.3, None, 27.4, 27.2, None])
    assert (arrows["marker"]["symbol"], arrows["marker"]["angleref"]) == ("arrow", "previous")
    assert len(arrows["marker"]["standoff"]) == 6


def test_a_parent_from_another_run_has_no_arrow() -> None:
    assert (
        front_choices(run(child(3, "group", 27.3, parent=None), child(4, "free", 27.2, parent=77)))["rows"]["arrows"]
        == []
    )


def test_pruned_children_have_a_symbol_and_the_colour_of_their_standing() -> None:
    traces = drawn(usual(winner=1))
    assert traces["pruned"]["name"] == "pruned from 1"
    assert traces["pruned"]["marker"]["symbol"] == "triangle-down"
    assert len(set(traces["pruned"]["marker"]["color"])) == 2  # 3 is on the front, 4 is not
    assert drawn(usual())["winner"]["marker"]["symbol"] == ["triangle-down"]


def test_a_control_lies_nowhere_on_the_front() -> None:
    facts = front_choices(usual())
    assert 5 not in facts["finished"]
    assert [axis["values"][5] for axis in facts["axes"].values()] == [None] * len(facts["axes"])


@pytest.mark.parametrize(
    ("number", "parts"),
    [
        (3, ("chosen · on the front · pruned from 1", "group, taylor gate, gradual, budget latency 0.65", "0.640")),
        (4, ("dominated · pruned from 1",)),
        (5, ("control · from scratch, of 1",)),
        (6, ("failed",)),
    ],
)
def test_the_hover_says_how_a_child_was_made(number: int, parts: tuple[str, ...]) -> None:
    text = candidate_hover(usual(), usual().candidates[number])
    assert [part for part in parts if part not in text] == []


def test_children_are_counted_apart_from_networks_found() -> None:
    assert "; 2 networks and 2 pruned from them, 1 min 0 s" in headline(usual())
    said = text_of(report_html(usual()))
    assert "2 candidates: 2 trained (1 of them longer), 3 on the front; 2 pruned from them beside 1 control." in said
    assert "1 pruned network" in headline(run(candidates=(child(3, "group", 27.3),), winner=None))


def test_the_csv_says_how_children_were_made(tmp_path: Path) -> None:
    write_csv(candidate_table(usual().candidates), tmp_path / "candidates.csv")
    read = pd.read_csv(tmp_path / "candidates.csv", keep_default_na=False)
    assert read["strategy"].tolist() == ["", "", "", "group", "free", "group", ""]
    assert read["criterion"].tolist()[2:4] == ["", "taylor_gate"]
    assert read["control"].tolist() == ["", "", "", "", "", "scratch", ""]
    assert read["repeat"].tolist() == ["", "", "", "0", "0", "0", ""]


def test_the_picture_has_an_arrow_and_a_triangle_for_each_child() -> None:
    before, after = (
        list(ElementTree.fromstring(front_svg(s)).iter()) for s in (usual(candidates=run().candidates), usual())
    )
    paths, lines = ([sum(e.tag.endswith(tag) for e in found) for found in (before, after)] for tag in ("path", "line"))
    assert paths[1] - paths[0] == 5  # two heads, two triangles, one in the legend
    assert "pruned" in [element.text for element in after]
    assert lines[1] > lines[0]


# One child -----------------------------------------------------------------------------------------------------------


def test_the_path_tells_measured_latencies_from_estimates() -> None:
    figure: Any = path_figure(child(3, "group", 27.3))
    psnr, joined, known, guessed = figure.data
    assert psnr.y == (27.4, 27.0, 26.8, 27.3)
    assert known.y == (1.0, None, None, 0.64)  # the last is the child itself, as it was measured
    assert guessed.y == (None, 0.8, 0.66, None)
    assert joined.y == (1.0, 0.8, 0.66, 0.64)
    assert guessed.marker.symbol == "circle-open"
    layout = figure.layout
    assert layout.xaxis.ticktext == ("start", "cut 1", "cut 2", "recovered")
    assert layout.shapes[0].y0 == 0.65


def test_a_long_path_names_its_last_step() -> None:
    steps = [{"stage": "cut", "psnr_db": 27.0, "estimated_ratio": 0.9} for _ in range(40)]
    figure: Any = path_figure(child(3, "group", 27.3, path=[*steps, {"stage": "recovered", "psnr_db": 27.0}]))
    layout = figure.layout
    assert layout.xaxis.ticktext[-1] == "recovered"
    assert len(layout.xaxis.ticktext) <= 16


def test_widths_are_drawn_in_the_order_of_the_network() -> None:
    figure: Any = widths_figure(child(3, "group", 27.3))
    outputs, inputs = figure.data
    assert (outputs.x, outputs.y) == ((100, 50, 100), (0, 1, 2))
    assert (inputs.x, inputs.y, inputs.text) == ((100, 50), (0, 2), ("3 of 3", "16 of 32"))
    layout = figure.layout
    assert layout.yaxis.ticktext == ("head", "blocks.0.conv1", "blocks.0.conv2")
    assert layout.yaxis.range[0] > layout.yaxis.range[1]


def test_sixty_layers_have_room_each_and_a_layer_may_be_gone() -> None:
    layers = [{"name": f"{'long_' * 9}{i}", "outputs": [0, 8], "inputs": [0, 8]} for i in range(60)]
    figure: Any = widths_figure(child(3, "group", 27.3, kept=layers))
    layout = figure.layout
    assert layout.height / 60 > 17
    assert len(set(layout.yaxis.ticktext)) == 60
    assert max(map(len, layout.yaxis.ticktext)) <= 30
    assert set(figure.data[0].x) == {0}
    assert len(figure.data) == 1


def test_what_was_not_recorded_is_not_drawn() -> None:
    bare = child(3, "group", 27.3, path=[], kept=[])
    assert path_figure(bare) is None
    assert widths_figure(bare) is None


# The table and the page ----------------------------------------------------------------------------------------------


def rows_of(summary: RunSummary) -> dict[int, dict[tuple[str, str], tuple[str, str]]]:
    """Text and small print of each cell, by child and column."""
    found = section(summary)
    assert found is not None
    return {
        row["number"]: {(c.title, c.unit): (x.text, x.small) for c, x in zip(COLUMNS, row["cells"], strict=True)}
        for row in found["rows"]
    }


def test_a_row_says_all_of_a_child() -> None:
    cut = [*repeats(3, "group", (27.29, 27.31)), child(5, "free", 27.0, None, control="random")]
    rows = rows_of(run(*cut))
    reach = 12.706205 * 0.01  # Student's t of one degree of freedom, two-sided 95 %
    assert [cell for cell in rows[4].values() if cell != ("–", "")] == [
        *(("4", ""), ("1", ""), ("group", ""), ("taylor gate", ""), ("gradual", ""), ("latency 0.65", "")),
        ("27.31", f"{27.3 - reach:.2f} – {27.3 + reach:.2f} over 2 repeats"),
        ("−0.09", ""),  # noqa: RUF001 (a minus)
        *(("0.640", ""), ("0.660", "off by +3.1 %"), ("0.480", ""), ("0.790", ""), ("0.470", "")),
        *(("120 + 1,300", ""), ("0.50", ""), ("compact equals masked (float64 1.1e-15)", "")),
    ]
    assert rows[5]["Control", ""] == ("random masks", "")
    assert rows[5]["Latency", "share, measured"] == ("–", "")
    assert rows[5]["Latency", "share, estimated"] == ("0.660", "")
    assert rows[5]["PSNR", "dB"] == ("27.00", "")


def test_a_child_that_failed_has_a_row_and_no_place_elsewhere() -> None:
    assert rows_of(usual())[6]["PSNR", "dB"] == ("failed", "")
    found = section(usual())
    assert found is not None
    assert [number for number, _ in found["children"]] == [3, 4, 5]
    assert [text for _, text in found["children"]][2] == "5: from scratch, latency 0.65, from 1"


def test_a_run_without_pruning_has_nothing_of_the_section() -> None:
    html = report_html(run())
    own = html.replace(max(re.findall(r"<script>.*?</script>", html, re.DOTALL), key=len), "").lower()
    assert "plotly.react" in own
    for word in ("pruning", "ladder", "pruned-", "widths", "verdicts"):
        assert word not in own, word
    assert "pruning-title" in report_html(usual())
    assert report_html(usual()) == report_html(usual())


ODD = {
    "no details": Candidate(3, DESIGN, "complete", "pruned", 1, numbers={"psnr_db": 27.0}),
    "running": Candidate(3, DESIGN, "running", "control", 1),
    "no parent": child(3, "group", 27.0, parent=None),
    "nothing measured": child(3, "group", 27.0, None),
    "numbers that are none": child(3, "group", math.nan, math.inf, estimated_ratio=math.nan, teacher=math.nan),
    "unknown words": child(3, "spiral", 27.0, control="another", schedule="", budget={"milliwatts": 2.0}),
    "no budget": child(3, "group", 27.0, budget={}, steps={}, verified="", teacher=0),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_children_still_make_a_section(odd: str) -> None:
    summary = run(ODD[odd])
    assert "All children of pruning" in text_of(report_html(summary))
    ElementTree.fromstring(front_svg(summary))
    candidate_table(summary.candidates)


def test_names_from_outside_are_escaped() -> None:
    layers = [{"name": HOSTILE, "outputs": [1, 2], "inputs": [2, 2]}]
    path = [{"stage": HOSTILE, "psnr_db": 27.0, "latency_ratio": 1.0}]
    words = dict.fromkeys(("criterion", "schedule", "verified"), HOSTILE)
    hostile = child(3, HOSTILE, 27.2, kept=layers, path=path, budget={HOSTILE: 0.5}, **words)
    html = report_html(run(hostile, dataclasses.replace(hostile, number=4, kind="control")))
    assert html.count("</script") == report_html(usual()).count("</script")
    assert "<img" not in html
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', html, re.DOTALL)
    assert found
    data = json.loads(found[1])["pruning"]
    assert "<img" not in json.dumps(data)  # plotly reads some HTML itself
    assert "&lt;img" in json.dumps(data)
    assert "hovertemplate" not in json.dumps(data)  # where %{x} would be read too
