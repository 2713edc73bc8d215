"""The ladder of pruning: Student's intervals, what counts as a repeat, which strategy is called best, what is drawn."""

import dataclasses
import math
from typing import Any

import pytest
from pruned import child, repeats, run

from paretosr.analysis.ladder import best_sentence, rungs, sentences, student_interval, way_names
from paretosr.analysis.pruning_figures import ladder_figures

T_975 = {1: 12.706205, 2: 4.302653}  # Student's t, two-sided 95 %, by degrees of freedom (any printed table)


@pytest.mark.parametrize("values", [(27.0, 27.2), (27.0, 27.1, 27.3)])
def test_the_interval_is_students(values: tuple[float, ...]) -> None:
    n, mean = len(values), sum(values) / len(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    reach = T_975[n - 1] * deviation / math.sqrt(n)
    assert student_interval(values) == pytest.approx((mean - reach, mean + reach), abs=1e-6)


def test_one_repeat_has_no_interval() -> None:
    assert student_interval([27.0]) is None
    assert student_interval([]) is None


def test_repeats_are_averaged_and_nothing_else_is() -> None:
    cut = [
        *repeats(3, "group", (27.0, 27.2)),
        child(5, "group", 27.9, budget={"latency_ratio": 0.5}),
        child(6, "group", 27.9, criterion="magnitude"),
        child(7, "group", 27.9, teacher=0),
        child(8, "group", 27.9, parent=0),
        child(9, "group", 27.9, control="scratch"),
        dataclasses.replace(child(10, "group", 20.0), state="failed"),
    ]
    first, *others = rungs(run(*cut).candidates)
    assert (first.numbers, first.psnr_db) == ((3, 4), pytest.approx(27.1))
    assert first.interval_db == pytest.approx((27.1 - T_975[1] * 0.1, 27.1 + T_975[1] * 0.1), abs=1e-6)
    assert (first.latency_ratio, first.ratio_interval) == (pytest.approx(0.64), pytest.approx((0.64, 0.64)))
    assert [rung.numbers for rung in others] == [(5,), (6,), (7,), (8,), (9,)]
    named = way_names([r for r in rungs(run(*cut).candidates) if not r.control])
    assert set(named.values()) == {
        *("group (taylor gate, teacher 0.5)", "group (magnitude, teacher 0.5)", "group (taylor gate, teacher 0)"),
    }


def test_networks_trained_on_without_a_cut_are_repeats_whatever_stands_beside_them() -> None:
    cut = [child(3, "group", 27.4, 1.0, control="uncut"), child(4, "free", 27.6, 1.0, control="uncut")]
    (rung,) = rungs(cut)
    assert rung.psnr_db == pytest.approx(27.5)


GOOD, FAIR, WIDE = (27.30, 27.31, 27.32), (27.20, 27.21, 27.22), (26.90, 27.25, 27.60)
OUTCOMES = {
    "against": (("group", GOOD, 0.64), ("free", FAIR, 0.64), "group (27.31 dB at 0.64x) comes out best, 0.10 dB above"),
    "for": (
        ("free", GOOD, 0.64),
        ("group", FAIR, 0.64),
        "free (27.31 dB at 0.64x) comes out best, 0.10 dB above group",
    ),
    "within the intervals": (("free", WIDE, 0.64), ("group", FAIR, 0.64), "cannot be told apart in PSNR within"),
    "bought with latency": (("free", GOOD, 0.70), ("group", FAIR, 0.64), "lie at different latencies"),
    "near enough": (("free", GOOD, 0.65), ("group", FAIR, 0.64), "free (27.31 dB at 0.65x) comes out best"),
    "slower and no better": (("free", WIDE, 0.70), ("group", FAIR, 0.64), "though their latencies differ"),
    "one repeat": (("free", (27.9,), 0.64), ("group", FAIR, 0.64), "without repeats there is no interval"),
}
MEANS = {"against": "against", "for": "for", "near enough": "for"}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_the_sentence_says_what_the_numbers_say(outcome: str) -> None:
    a, b, said = OUTCOMES[outcome]
    cut = [*repeats(3, a[0], a[1], a[2]), *repeats(8, b[0], b[1], b[2])]
    (sentence,) = sentences(cut)
    assert sentence.startswith("Budget latency 0.65, candidate 1: ")
    assert said in sentence
    assert f"; this speaks {MEANS.get(outcome, 'neither for nor against')} fine-grained pruning." in sentence
    assert sentences(cut[::-1]) == [sentence]


def test_who_falls_behind_is_named_and_alike_strategies_are_no_verdict() -> None:
    cut = [*repeats(3, "group", GOOD), *repeats(6, "inner", GOOD), *repeats(9, "uniform", FAIR)]
    (sentence,) = sentences(cut)
    assert sentence.endswith("cannot be told apart in PSNR within their intervals; behind: uniform.")


def test_there_is_a_sentence_for_each_network_and_budget_and_none_for_controls() -> None:
    cut = [
        *repeats(3, "group", GOOD),
        *repeats(6, "group", FAIR, budget={"latency_ratio": 0.5, "flops": 0.4}),
        *repeats(9, "group", FAIR, parent=0),
        *repeats(12, "group", FAIR, control="scratch"),
        child(15, "free", 27.0, None),  # without a latency it has no place on the ladder
    ]
    starts = [sentence.partition(": ")[0] for sentence in sentences(cut)]
    assert starts == [
        "Budget latency 0.65, candidate 0",
        "Budget FLOPs 0.4, latency 0.5, candidate 1",
        "Budget latency 0.65, candidate 1",
    ]
    assert best_sentence(rungs(cut)[:1]).endswith("group (27.31 dB at 0.64x) was the only strategy tried.")


def test_the_ladder_holds_lines_controls_and_the_unpruned_network() -> None:
    lower = {"budget": {"latency_ratio": 0.5}}
    cut = [
        *repeats(3, "group", GOOD),
        *repeats(6, "group", FAIR, 0.5, **lower),
        child(9, "free", 27.0, 0.6),
        child(10, "group", 27.1, control="scratch"),
        child(11, "group", 27.5, 1.0, control="uncut"),
        child(12, "block", 27.0, parent=0),
    ]
    figures = ladder_figures(run(*cut))
    assert list(figures) == ["0", "1"]
    data: Any = figures["1"].data
    traces = {t.name: t for t in data if t.showlegend is not False and t.x[0] is not None}
    assert list(traces) == ["1, unpruned", "group", "free"]
    assert (traces["1, unpruned"].x, traces["1, unpruned"].y) == ((1.0,), (27.4,))
    assert list(traces["group"].x) == pytest.approx([0.5, 0.64])
    reach = T_975[2] * 0.01 / math.sqrt(3)
    assert list(traces["group"].error_y.array) == pytest.approx([reach, reach], abs=1e-6)
    assert traces["free"].error_y.array is None
    hollow = {t.name: (list(t.x), t.marker.symbol) for t in data if t.showlegend is False}
    assert hollow == {"from scratch": ([0.64], "circle-open"), "unpruned, trained as long": ([1.0], "star-open")}
