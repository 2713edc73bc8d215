"""The report, the table and the picture of a run, as text: what they say, what they escape, what they survive."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from paretosr.analysis.pareto import TRACES, choices, default_pair, front_choices, front_figure
from paretosr.analysis.picture import front_svg, write_front_svg
from paretosr.analysis.report import report_html, script_json, write_report
from paretosr.analysis.summary import RunSummary
from paretosr.analysis.table import candidate_table, write_csv
from paretosr.analysis.wording import duration_text, headline, number_text
from paretosr.search.candidate import Candidate
from paretosr.search.objectives import OBJECTIVES
from paretosr.spaces import BLOCKS, Architecture, Block, Design

HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>&\u2028 \"quoted\""


def design(number: int) -> Design:
    types = sorted(BLOCKS)
    return Design(Architecture(16 + 4 * number, (Block(types[number % len(types)]),)))


def complete(number: int, psnr_db: float, latency_ratio: float, activations_m: float, **more: Any) -> Candidate:
    return Candidate(
        number,
        design(number),
        "complete",
        numbers={"psnr_db": psnr_db, "latency_ratio": latency_ratio, "activations_m": activations_m},
        intervals={"latency_ratio": (0.98 * latency_ratio, 1.02 * latency_ratio)},
        curve=((10, 0.2), (20, 0.1), (30, 0.05)),
        details={"steps": 30, "train_s": 1.5},
        **more,
    )


def run(**changed: Any) -> RunSummary:
    """A run with every kind of candidate; 0, 1, 2 and 6 are the front, 2 was chosen, 0 and 1 are tied."""
    candidates = (
        complete(0, 27.10, 0.21, 12.3, tied_with=(1,), confirmed=True, origin="start: imdn"),
        complete(1, 27.15, 0.22, 14.0, tied_with=(0,), confirmed=True),
        complete(2, 27.41, 0.46, 30.0),
        complete(3, 27.00, 0.45, 31.0),
        Candidate(4, design(4), "pruned", numbers={"latency_ratio": 0.7, "activations_m": 90.0}, reason="too slow"),
        Candidate(5, design(5), "failed", reason="non-finite loss at step 7"),
        complete(6, 27.30, 0.21, 12.3, kind="trained", parent=0),
        Candidate(7, design(7), "running"),
    )
    summary = RunSummary(
        name="demo",
        candidates=candidates,
        objectives=("psnr_db", "latency_ratio", "activations_m"),
        front=(0, 1, 2, 6),
        winner=2,
        winner_rule="the knee of the front",
        reference={"name": "imdn", "numbers": {"latency_ms": 10.0, "latency_ratio": 1.0, "activations_m": 154.14}},
        bicubic_psnr_db=26.58,
        hypervolume=((1, 0.1), (2, 0.2)),
        seconds=312.0,
        machine={"cpu": "a processor", "cores": "2"},
        versions={"torch": "2.13.0"},
        seed=7,
        data={"label": "photos", "hash": "abc123", "train_images": 6, "validation_images": 2, "embedded": True},
        training={"steps": 30, "batch": 8, "patch": 24},
        protocol="steady, fp32",
        command="paretosr search quick",
        notes=("The timing interval of candidate 4 is wider than asked.",),
    )
    return dataclasses.replace(summary, **changed)


def text_of(html: str) -> str:
    """What a reader without scripts sees, in order."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", html[html.index("<body>") :], flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)).strip()


def page_data(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def drawn(summary: RunSummary, *pair: str) -> dict[str, Any]:
    """The traces of the front by name, as the page gets them."""
    return dict(zip(TRACES, json.loads(str(front_figure(summary, *pair).to_json()))["data"], strict=True))


# The opening sentence ------------------------------------------------------------------------------------------------


def test_the_headline_is_made_of_the_numbers() -> None:
    assert headline(run()) == (
        "Candidate 2: 27.41 dB, 0.46x the latency of imdn, 0.83 dB above bicubic; 4 networks, 5 min 12 s, 2 cores"
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"bicubic_psnr_db": 27.5}, "0.09 dB below bicubic"),
        ({"bicubic_psnr_db": math.nan}, "0.46x the latency of imdn; 4 networks"),
        ({"machine": {"cores": "64", "gpu": "NVIDIA H200"}}, "4 networks, 5 min 12 s, NVIDIA H200"),
        ({"machine": {}, "seconds": 3725}, "4 networks, 1 h 2 min"),
        ({"winner": None}, "No network was chosen; 4 networks"),
        ({"winner": None, "candidates": run().candidates[4:6]}, "No network was chosen; none of 2 candidates trained"),
        ({"candidates": (complete(2, 27.41, 0.0462, 30.0),)}, "27.41 dB, 0.046x the latency of imdn"),
    ],
)
def test_the_headline_says_what_is_known(changed: dict[str, Any], said: str) -> None:
    assert said in headline(run(**changed))


def test_without_a_latency_the_headline_names_the_next_cost() -> None:
    winner = Candidate(2, design(2), "complete", numbers={"psnr_db": 27.41, "activations_m": 30.0})
    summary = run(candidates=(winner,), objectives=("psnr_db", "activations_m"))
    assert "Candidate 2: 27.41 dB, 30.0 M activations, 0.83 dB above bicubic; 1 network," in headline(summary)


def test_the_report_opens_with_the_headline_and_the_warning_about_demo_photos() -> None:
    text = text_of(report_html(run()))
    assert text.startswith(
        headline(run()) + " These are demo photos: they show that everything runs, and prove nothing"
    )
    own = report_html(run(data={"label": "my photos", "embedded": False}))
    assert "demo photos" not in text_of(own)
    assert text_of(own).startswith(headline(run()))


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("psnr_db", 27.4149, "27.41 dB"),
        ("latency_ratio", 0.4619, "0.462x"),
        ("latency_ratio", 0.04619, "0.0462x"),
        ("activations_m", 12.34, "12.3 M"),
        ("activations_m", 1520.4, "1,520 M"),
        ("parameters_m", 0.01893, "0.0189 M"),
        ("convolutions", 43.0, "43"),
        ("latency_ms", 0.0, "0 ms"),
        ("latency_ms", None, "–"),
        ("a_new_number", 0.5, "0.500"),
    ],
)
def test_numbers_are_rounded_as_their_unit_deserves(name: str, value: float | None, text: str) -> None:
    assert number_text(name, value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (48.4, "48 s"), (60, "1 min 0 s"), (312, "5 min 12 s"), (7200, "2 h"), (273_600, "3 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


# What the page holds -------------------------------------------------------------------------------------------------


def test_the_report_holds_all_that_made_the_numbers() -> None:
    text = text_of(report_html(run()))
    for part in ("paretosr search quick", "a processor", "2.13.0", "abc123", "steady, fp32", "the knee of the front"):
        assert part in text
    for part in ("too slow", "non-finite loss at step 7", "cannot be told apart from 1", run().notes[0], "Seed 7"):
        assert part in text
    for candidate in run().candidates:
        assert candidate.design.summary() in text
        assert candidate.design.hash in text


def test_the_report_is_one_offline_file() -> None:
    html = report_html(run())
    assert html.count("plotly.js v") == 1
    assert "default-src 'none'" in html
    own = html.replace(re.findall(r"<script>.*?</script>", html, re.DOTALL)[0], "")
    assert not re.search(r"https?://", own)
    assert not re.search(r"<(link|iframe|img)\b|\bsrc\s*=|@import|url\(", own)


def test_the_same_run_gives_the_same_bytes() -> None:
    assert report_html(run()) == report_html(run())


def test_text_from_outside_is_escaped() -> None:
    hostile = run(
        name=HOSTILE,
        candidates=(
            *run().candidates,
            dataclasses.replace(run().candidates[5], number=9, reason=HOSTILE, origin=HOSTILE),
        ),
        winner_rule=HOSTILE,
        reference={"name": HOSTILE, "numbers": {"latency_ratio": 1.0}},
        machine={"cpu": HOSTILE, HOSTILE: "2", "cores": HOSTILE},
        data={"label": HOSTILE, "hash": HOSTILE, "embedded": True},
        training={"steps": HOSTILE},
        protocol=HOSTILE,
        command=HOSTILE,
        notes=(HOSTILE,),
    )
    html = report_html(hostile)
    assert html.count("<script") == report_html(run()).count("<script")
    assert html.count("</script") == report_html(run()).count("</script")
    assert "<img" not in html
    assert page_data(html)["name"] == HOSTILE
    figures = {key: value for key, value in page_data(html).items() if key != "name"}
    assert "<img" not in json.dumps(figures)  # plotly reads some HTML itself
    assert "&lt;img" in json.dumps(figures)


def test_json_in_a_script_is_text_to_html_and_refuses_nan() -> None:
    text = script_json({"text": HOSTILE})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"text": HOSTILE}
    with pytest.raises(ValueError, match="JSON"):
        script_json([math.nan])


ODD_RUNS = {
    "nothing": {"candidates": (), "front": (), "winner": None, "hypervolume": ()},
    "nothing trained": {"candidates": run().candidates[4:6], "front": (), "winner": None, "hypervolume": ()},
    "one network": {"candidates": run().candidates[2:3], "front": (2,)},
    "no intervals": {"candidates": tuple(dataclasses.replace(c, intervals={}) for c in run().candidates)},
    "no reference": {"reference": {}},
    "no latency": {
        "candidates": (
            Candidate(0, design(0), "complete", numbers={"psnr_db": 27.0, "activations_m": 10.0}),
            Candidate(2, design(2), "complete", numbers={"psnr_db": 27.5, "activations_m": 20.0}),
        ),
        "objectives": ("psnr_db", "activations_m"),
        "front": (0, 2),
        "protocol": "",
    },
    "one number": {"candidates": (Candidate(2, design(2), "complete", numbers={"psnr_db": 27.0}),), "front": (2,)},
    "costs alone": {
        "candidates": (Candidate(2, design(2), "complete", numbers={"activations_m": 10.0, "macs_g": 2.0}),),
        "objectives": ("activations_m", "macs_g"),
        "front": (2,),
    },
    "numbers that are none": {
        "candidates": (
            complete(2, math.nan, 0.2, 10.0),
            complete(3, math.inf, 0.3, 10.0),
            dataclasses.replace(complete(0, 27.0, 0.2, 10.0), intervals={"psnr_db": (math.nan, 27.1)}),
            dataclasses.replace(complete(1, 27.2, 0.3, 0.0), curve=((1, math.nan), (2, 0.0), (3, math.inf))),
        ),
        "bicubic_psnr_db": math.nan,
        "hypervolume": ((1, math.nan),),
    },
    "a number no objective knows": {
        "candidates": (dataclasses.replace(complete(2, 27, 0.2, 1), numbers={"psnr_db": 27.0, "joules": 3.0}),)
    },
    "unfinished": {"finished": False, "winner": None, "front": ()},
    "a winner that is gone": {"winner": 99, "front": (98, 99)},
}


@pytest.mark.parametrize("odd", ODD_RUNS)
def test_odd_runs_still_make_a_report(odd: str, tmp_path: Path) -> None:
    summary = run(**ODD_RUNS[odd])
    write_report(summary, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text_of(html).startswith(headline(summary))
    assert ("front" in page_data(html)["figures"]) == (len(choices(summary)) > 1)
    candidate_table(summary.candidates, summary.front)
    if len(choices(summary)) > 1:
        ElementTree.fromstring(front_svg(summary))
    else:
        assert "no front to draw" in text_of(html)


def test_a_write_that_fails_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("the old one")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(run(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "the old one"


# The front -----------------------------------------------------------------------------------------------------------


def test_the_front_shows_who_is_who() -> None:
    traces = drawn(run())
    assert default_pair(run()) == ("latency_ratio", "psnr_db")
    assert (traces["winner"]["x"], traces["winner"]["y"]) == ([0.46], [27.41])
    assert traces["front"]["x"] == [0.21, 0.22]
    assert traces["dominated"]["y"] == [27.00]
    assert (traces["trained"]["y"], traces["trained"]["marker"]["symbol"]) == ([27.30], "diamond")
    assert traces["connectors"]["y"] == [27.10, 27.30, None]
    assert traces["tied"]["x"] == [0.21, 0.22]
    assert traces["reference"]["y"] == [None]  # it has a latency and no PSNR: a line, not a marker
    assert traces["staircase"]["x"] == [0.21, 0.46]
    assert traces["staircase"]["line"]["shape"] == "hv"
    assert traces["winner"]["error_x"]["array"] == pytest.approx([0.02 * 0.46])
    shapes = json.loads(str(front_figure(run()).to_json()))["layout"]["shapes"]
    assert [(s["x0"], s["y0"]) for s in shapes] == [(1.0, 0), (0, 26.58)]


def test_the_hover_text_holds_the_network_all_numbers_and_ties() -> None:
    text = drawn(run())["front"]["hovertext"][0]
    for part in ("Candidate 0", "on the front", design(0).summary(), "27.10", "0.210", "0.206", "12.3", "start: imdn"):
        assert part in text
    assert "cannot be told apart from 1" in text


def test_the_area_of_a_marker_is_proportional_to_activations() -> None:
    traces = drawn(run())
    areas = [traces["winner"]["marker"]["size"][0] ** 2, traces["front"]["marker"]["size"][0] ** 2]
    assert areas[0] / areas[1] == pytest.approx(30.0 / 12.3, rel=0.02)


@pytest.mark.parametrize("pair", front_choices(run())["pairs"])
def test_staircases_go_from_best_to_best(pair: str) -> None:
    x, y = pair.split("|")
    facts, traces = front_choices(run())["pairs"][pair], drawn(run(), x, y)
    points = np.array([traces["staircase"]["x"], traces["staircase"]["y"]], dtype=float).T
    signs = [OBJECTIVES[name].sign for name in (x, y)]
    steps = np.diff(points * signs, axis=0) * signs[0]
    assert (steps[:, 0] >= 0).all()
    assert (steps[:, 1] <= 0).all()
    assert facts["rows"]["labels"][0] == 2  # the winner's number is never the one left out


def test_broken_limits_appear_where_their_numbers_are_known() -> None:
    assert drawn(run())["limit"]["y"] == [None]
    limit = drawn(run(), "activations_m", "latency_ratio")["limit"]
    assert (limit["x"], limit["y"]) == ([90.0], [0.7])


def test_a_front_of_one_number_is_refused() -> None:
    with pytest.raises(ValueError, match="two measured numbers"):
        front_figure(run(**ODD_RUNS["one number"]))


# The table and the picture -------------------------------------------------------------------------------------------


def test_the_table_has_the_columns_promised(tmp_path: Path) -> None:
    table = candidate_table(run().candidates, run().front)
    numbers = ["psnr_db", "latency_ratio", "latency_ratio_low", "latency_ratio_high", "activations_m"]
    assert list(table.columns) == [
        *("number", "state", "kind", "parent", "summary", "hash"),
        *numbers,
        *("on_front", "tied_with", "confirmed", "steps", "train_s", "reason", "origin"),
        *("strategy", "criterion", "control", "repeat"),
    ]
    write_csv(table, tmp_path / "candidates.csv")
    read = pd.read_csv(tmp_path / "candidates.csv")
    assert list(read["number"]) == list(range(8))
    assert read["latency_ratio_low"].tolist()[2] == pytest.approx(0.98 * 0.46)
    assert read["psnr_db"].isna().tolist() == [False, False, False, False, True, True, False, True]
    assert read["on_front"].tolist() == [True, True, True, False, False, False, True, False]
    assert read["parent"].tolist()[6] == 0
    assert read["reason"].tolist()[5] == "non-finite loss at step 7"


def test_an_empty_table_has_its_columns() -> None:
    assert list(candidate_table([]).columns)[:2] == ["number", "state"]


def test_the_picture_is_well_formed_and_escaped(tmp_path: Path) -> None:
    write_front_svg(run(reference={"name": HOSTILE, "numbers": {"latency_ratio": 1.0}}), tmp_path / "front.svg")
    root = ElementTree.parse(tmp_path / "front.svg").getroot()
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names == {"svg", "title", "rect", "line", "text", "g", "path", "circle"}
    said = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"0", "2", "6"} & set(said)
    assert "bicubic at 26.58 dB ↓" in said  # so far below the candidates that a line would crowd them


def test_a_published_network_has_its_name_beside_it_on_every_pair_of_axes() -> None:
    known = {"kind": "published", "details": {"system": "rfdn"}}
    changed = (dataclasses.replace(c, **known) if c.number in (2, 3) else c for c in run().candidates)
    summary = run(candidates=tuple(changed))  # 2 is chosen, and drawn as that
    traces: Any = front_figure(summary).data
    drawn, found = {trace.name: trace for trace in traces}, front_choices(summary)
    assert list(drawn["published"].text) == ["rfdn"]
    assert found["labels"] == ["0", "1", "rfdn", "3", "4", "5", "6", "7"]
    rows = found["pairs"]["latency_ratio|psnr_db"]["rows"]["labels"]
    assert list(drawn["numbers"].text) == [found["labels"][row] for row in rows]
