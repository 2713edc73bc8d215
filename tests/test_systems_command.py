"""`paretosr systems` from the outside: its tables, its files, and what it refuses."""

import csv
import dataclasses
import re
from pathlib import Path

import pytest
import torch
from commands import contents, refused

from paretosr.analysis.challenge.page import systems_html
from paretosr.analysis.challenge.rows import system_row
from paretosr.analysis.challenge.tables import compare
from paretosr.analysis.challenge.timings import Measured, Session, measure_systems, runtime_correlations
from paretosr.proxies.latency import PROTOCOLS, summarise
from paretosr.spaces import SYSTEMS

FIRST = ["system", "params", "flops_g", "activations_m", "convs"]
TABLE = ["table_params_m", "table_flops_g", "table_activations_m", "table_convs", "table_runtime_s"]
HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>&\""
QUICK = ("amaf_net", "srrn", "fssr")  # the last cannot be built


def session(**ratios: float) -> Session:
    """As if these networks had been timed, the reference at 10 ms."""
    measured = {n: Measured(summarise([10 * r] * 5, [10.0] * 5, 0.05), 10.0, 100 * r) for n, r in ratios.items()}
    return Session({**measured, "msrresnet": Measured(None, failure="out of memory")}, PROTOCOLS["steady"], "a machine")


def read(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ---- on the terminal


def test_all_systems_stand_beside_table_1_and_table_2_below(paretosr):
    done = paretosr("systems")
    assert done.code == 0, done.err
    for name in SYSTEMS:
        assert re.search(rf"^ {name} ", done.out, re.MULTILINE), name
    for words in ("0.4334    0.433", "60 (68)", "not described", "0.1734", "0.2397", "0.8737", "0.6671", "21 rows"):
        assert words in done.out


@pytest.mark.parametrize("columns", [80, *(pytest.param(c, marks=pytest.mark.slow) for c in (40, 120, 200))])
def test_it_fits_the_terminal(paretosr, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    done = paretosr("systems")
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= columns
    if columns >= 80:
        assert "…" not in done.out


def test_names_choose(paretosr):
    done = paretosr("systems", "rfdn", "imdn_paper", "rfdn")
    assert done.code == 0
    assert len(re.findall(r"^ rfdn ", done.out, re.MULTILINE)) == 1
    assert "msrresnet" not in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rfdm"], ["rfdm", "did you mean 'rfdn'"]),
        (["rfdn", "--measure", "--protocol", "stedy"], ["stedy", "did you mean 'steady'"]),
        (["rfdn", "--measure", "--device", "cup"], ["cup", "did you mean 'cpu'"]),
        (["rfdn", "--measure", "--device", "cpu", "--size", "8"], ["'rfdn'", "15x15", "8"]),
        (["rfdn", "--size", "64"], ["--measure"]),
        (["rfdn", "--protocol", "steady"], ["--measure"]),
        (["rfdn", "--device", "cpu"], ["--measure"]),
        (["rfdn", "--csv", "folder"], ["folder", "is a folder"]),
        (["rfdn", "--html", "folder"], ["folder", "is a folder"]),
        (["rfdn", "--csv", "file/a.csv"], ["file/a.csv", "cannot be written"]),
        (["rfdn", "--csv", "a" * 300], ["cannot be written"]),
        (["rfdn", "--csv", "same", "--html", "./same"], ["same file"]),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(paretosr, tmp_path, words, said):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    before = contents(tmp_path)
    refused(paretosr("systems", *words), *said)
    assert contents(tmp_path) == before


# ---- files


def test_the_csv_has_a_line_for_every_system(paretosr):
    assert paretosr("systems", "--csv", "new/all.csv").code == 0
    rows = read("new/all.csv")
    assert [row["system"] for row in rows] == list(SYSTEMS)
    columns = list(rows[0])
    assert columns[: len(FIRST)] == FIRST
    assert columns[len(FIRST) :][: len(TABLE)] == TABLE
    assert columns[len(FIRST) + len(TABLE) :][:3] == ["mark", "deviation", "convs_training"]
    assert not [column for column in columns if column.startswith("latency")]
    by_name = {row["system"]: row for row in rows}
    rfdn, larvanet, fssr = by_name["rfdn"], by_name["larvanet"], by_name["fssr"]
    assert [rfdn[column] for column in FIRST[1:]] == ["433448", "27.10262256", "112.03424", "64"]
    assert [rfdn[column] for column in TABLE] == ["0.433", "27.10", "112.03", "64", "0.037"]
    assert (rfdn["mark"], rfdn["deviation"]) == ("exact", "0.0")
    assert (larvanet["convs"], larvanet["convs_training"], larvanet["table_convs"]) == ("60", "68", "68")
    assert [fssr[column] for column in FIRST[1:]] == [""] * 4
    assert (fssr["mark"], fssr["deviation"], fssr["table_params_m"]) == ("not described", "", "0.720")
    assert by_name["imdn_paper"]["deviation"] == ""


@pytest.mark.slow
def test_measuring_times_what_can_be_built(paretosr):
    words = ("--measure", "--device", "cpu", "--size", 16, "--csv", "timed.csv", "--html", "timed.html")
    done = paretosr("systems", *QUICK, *words)
    assert done.code == 0, done.err
    for said in ("Timing 2 networks", "3x16x16", "x imdn", "95 % interval", "here", "Table 1's runtime"):
        assert said in done.out
    assert "memory (MB)" not in done.out  # a CPU has none to tell
    rows = {row["system"]: row for row in read("timed.csv")}
    for name in QUICK[:2]:
        low, ratio, high = (float(rows[name][f"latency_{key}"]) for key in ("ratio_low", "ratio", "ratio_high"))
        assert 0 < low <= ratio <= high
        assert float(rows[name]["latency_ms"]) > 0
        assert "steady" in rows[name]["protocol"]
    assert rows["fssr"]["latency_ms"] == ""
    text = Path("timed.html").read_text(encoding="utf-8")
    assert 'id="activations_m"' in text
    assert "plotly.js v" in text


def test_on_a_cpu_the_size_is_small_and_said(paretosr, monkeypatch):
    monkeypatch.setattr("paretosr.runs.systems_command.measure_systems", lambda *_: iter(()))
    done = paretosr("systems", "rfdn", "--measure", "--device", "cpu")
    assert done.code == 0, done.err
    assert "3x64x64" in done.out
    assert "On a CPU the size is 64" in done.out


def test_on_a_gpu_memory_is_a_column_and_what_does_not_fit_is_said(paretosr, monkeypatch):
    names = ("rfdn", "imdn", "pan", "msrresnet")
    measured = session(rfdn=0.5, imdn=1.0, pan=1.5).measured
    monkeypatch.setattr("paretosr.runs.systems_command.measure_systems", lambda *_: iter(measured.items()))
    done = paretosr("systems", *names, "--measure", "--device", "cpu", "--csv", "a.csv")
    assert done.code == 0, done.err
    assert "memory (MB)" in done.out
    lines = [line.split() for line in done.out.splitlines()]
    assert ["rfdn", "5.00", "0.500", "0.500", "to", "0.500", "50", "0.037"] in lines
    assert ["msrresnet", "–", "–", "–", "–", "0.114", "out", "of", "memory"] in lines
    assert re.search(r"memory +0\.6671 .*1\.0000", done.out)
    assert [row["memory_mb"] for row in read("a.csv")] == ["50.0", "100.0", "150.0", ""]


def test_a_network_too_large_for_the_device_does_not_end_the_run(monkeypatch):
    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("too large")

    monkeypatch.setattr("paretosr.analysis.challenge.timings.time_together", full)
    found = dict(measure_systems(["srrn", "rfdn"], PROTOCOLS["steady"], "cpu"))
    assert found == dict.fromkeys(["srrn", "rfdn"], Measured(None, failure="out of memory"))


# ---- what is made of timings


def test_times_stand_to_each_other_as_ratios_do():
    timed = session(rfdn=0.5, imdn=1.0, pan=2.0)
    timed = dataclasses.replace(
        timed, measured={**timed.measured, "rfdn": dataclasses.replace(timed.measured["rfdn"], reference_ms=30.0)}
    )
    assert timed.reference_ms == 10
    assert timed.latency_ms("rfdn") == pytest.approx(5)
    assert timed.latency_ms("pan") == pytest.approx(20)
    assert timed.latency_ms("msrresnet") is None
    assert timed.ratio("nothing") is None
    assert system_row(compare("msrresnet"), timed)["failure"] == "out of memory"


def test_runtime_is_correlated_with_every_count():
    names = ("rfdn", "imdn", "imdn_paper", "pan", "lmsr", "latticenet")
    comparisons = [compare(name) for name in names]
    # Ordered by parameters: pan, rfdn, imdn_paper, latticenet, imdn, lmsr.
    timed = session(pan=0.1, rfdn=0.2, imdn_paper=0.3, latticenet=0.4, imdn=0.5, lmsr=0.6)
    found = runtime_correlations(comparisons, timed)
    assert (found["params_m"].rho, found["params_m"].rows) == (pytest.approx(1), 6)
    assert found["memory_m"].rho == pytest.approx(1)
    assert found["runtime_s"].rows == 5  # imdn_paper has no row
    fewer = runtime_correlations(comparisons, timed, only_table_2=True)
    assert fewer["params_m"].rows == 4  # nor does Table 2 rest on LMSR


# ---- the page


def test_the_page_escapes_and_asks_for_nothing():
    rfdn = compare("rfdn")
    hostile = dataclasses.replace(rfdn.system, title=HOSTILE, idea=HOSTILE, source=HOSTILE, note=HOSTILE)
    timed = dataclasses.replace(session(rfdn=0.5), machine=HOSTILE)
    text = systems_html([dataclasses.replace(rfdn, name="<b>", system=hostile), rfdn, compare("fssr")], timed)
    assert "<script>alert" not in text
    assert "<img" not in text.replace("'<img", "")  # plotly's own code holds one in a string
    assert "<b>" not in text.partition("<script>")[0].partition("</style>")[2]
    assert "default-src 'none'" in text
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", text.partition("plotly.js v")[0])


def test_without_timings_the_page_is_small_and_complete():
    text = systems_html([compare(name) for name in SYSTEMS], None)
    assert len(text) < 300_000
    assert "plotly" not in text.lower().replace("plotly.react", "")
    for name in SYSTEMS:
        assert f">{name}" in text
    for words in ("0.8737 [0.64, 0.97]", "27.1026", "1.126*", "not described"):
        assert words in text


def test_what_was_timed_before_a_signal_is_shown_and_written(paretosr, tmp_path, monkeypatch):
    real = measure_systems

    def stopped(names, protocol, device):
        yield next(real(names, protocol, device))
        raise SystemExit(130)  # what Ctrl-C becomes

    monkeypatch.setattr("paretosr.runs.systems_command.measure_systems", stopped)
    outcome = paretosr("systems", "imdn", "rfdn", "--measure", "--size", 16, "--csv", "found.csv")
    assert outcome.code == 130
    assert "stopped" in outcome.out
    rows = (tmp_path / "found.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["system", "imdn", "rfdn"]


def test_a_baseline_of_another_challenge_is_no_row(paretosr):
    refused(paretosr("systems", "span"), "is a baseline of NTIRE", "paretosr measure span")


def test_one_file_cannot_be_both(paretosr, tmp_path):
    (tmp_path / "deep").mkdir()
    refused(paretosr("systems", "imdn", "--csv", "a", "--html", "deep/../a"), "name the same file")
    refused(paretosr("systems", "imdn", "--csv", "/proc/x.csv"), "/proc/x.csv: cannot be written")
