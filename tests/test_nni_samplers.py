"""nni's tuners as samplers: what they are told, and, in an environment that has nni, every sampler's tests."""

import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from random import Random

import numpy as np
import pytest
from commands import refused
from sampling import without_nni

from paretosr.search import nni_samplers
from paretosr.search.front import non_dominated
from paretosr.search.nni_samplers import EVEN, NEEDS, one_number, refuse_absent, told
from paretosr.search.samplers import SAMPLERS, Start
from paretosr.search.seen import Seen
from paretosr.spaces import Block, BlockChoices, InputError, Space

REPOSITORY = Path(__file__).resolve().parents[1]
SPACE = Space((BlockChoices("residual"), BlockChoices("scpa"), BlockChoices("imdb")), (8, 16, 24), (3,))
OF_TABLES = ("tests/test_samplers.py", "tests/test_budget.py", "tests/test_simulator.py")


def seen_of(count, state="complete", first=0):
    draws = [Random(f"seen {first + number}") for number in range(count)]
    return [
        Seen(first + n, SPACE.sample(draw), state, (draw.random(), draw.random()) if state == "complete" else None)
        for n, draw in enumerate(draws)
    ]


# ---- several objectives as one number


def test_one_objective_keeps_its_order():
    values = np.array([[3.0], [-1.0], [100.0], [3.0]])
    assert one_number(values, Random(0)).tolist() == pytest.approx([x * (1 + EVEN) for x in (1, 0, 25.25, 1)])
    assert one_number(np.full((3, 1), 7.0), Random(0)).tolist() == [0.0] * 3


def test_the_number_is_the_augmented_chebyshev_norm_from_the_best_to_the_median():
    random = Random(5)
    first, second = random.expovariate(1), random.expovariate(1)
    a, b = first / (first + second), second / (first + second)
    given = np.array([[0.0, 70.0], [1.0, 60.0], [50.0, 50.0]])  # 0, 1, 50 and 2, 1, 0 times the way to the median
    expected = [2 * b + EVEN * 2 * b, max(a, b) + EVEN, 50 * a + EVEN * 50 * a]
    assert one_number(given, Random(5)).tolist() == pytest.approx(expected)


def test_a_dominated_point_never_has_the_lower_number_and_each_part_of_the_front_is_aimed_at():
    angles = np.linspace(0, np.pi / 2, 9)
    front = 1 - np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = np.concatenate([front, front + 0.3, np.random.default_rng(0).random((20, 2)) + 1])
    best = non_dominated(points)
    firsts = {int(np.argmin(one_number(points, Random(key)))) for key in range(300)}
    assert firsts <= set(np.flatnonzero(best).tolist())
    assert len(firsts) > 5
    for key in range(20):
        numbers = one_number(points, Random(key))
        for worse, better in ((i + 9, i) for i in range(9)):
            assert numbers[better] < numbers[worse]


def test_units_and_a_collapsed_training_move_nothing():
    points = np.random.default_rng(1).random((12, 3))
    points[4, 0] = 1.5  # the worst
    other = points * [1e-3, 1.0, 1e6]
    other[4, 0] = 40.0
    kept = np.arange(12) != 4
    assert one_number(points, Random(2))[kept] == pytest.approx(one_number(other, Random(2))[kept])


# ---- what a tuner is told


def test_a_tuner_is_told_what_is_measured_and_what_broke_a_limit():
    seen = [
        *seen_of(5),
        *seen_of(2, "pruned", 5),
        *seen_of(2, "failed", 7),
        *seen_of(2, "running", 9),
        *seen_of(3, first=11),
    ]
    trials = told(SPACE, seen, Random(0))
    known = [s for s in seen if s.state in ("complete", "pruned")]
    assert [SPACE.decode(trial["parameter"]) for trial in trials] == [s.architecture for s in known]
    values = [trial["value"] for trial in trials]
    measured = np.array([s.points for s in known if s.points is not None])
    assert values[:5] + values[7:] == (1 + one_number(measured, Random(0))).tolist()
    assert values[5] == values[6] > max(values[:5] + values[7:])
    assert min(values) > 0
    assert [trial["parameter"] for trial in told(SPACE, seen[5:11], Random(0))] == [t["parameter"] for t in trials[5:7]]
    assert told(SPACE, [], Random(0)) == []


def test_of_many_a_tuner_is_told_the_latest_and_the_best(monkeypatch):
    seen = [*seen_of(20), *seen_of(3, "failed", 20)]
    whole = told(SPACE, seen, Random(3))
    monkeypatch.setattr(nni_samplers, "SEES", 8)
    trials = told(SPACE, seen, Random(3))
    assert trials[4:] == whole[16:]
    earlier = sorted(whole[:16], key=lambda trial: trial["value"])[:4]
    assert trials[:4] == [trial for trial in whole[:16] if trial in earlier]


# ---- without nni


@pytest.mark.parametrize("name", NEEDS)
def test_without_nni_a_search_ends_in_one_line_before_it_begins(paretosr, recipe, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "nni", None)  # as where it is not installed
    for module in [module for module in sys.modules if module.startswith("nni.")]:
        monkeypatch.delitem(sys.modules, module)
    outcome = paretosr("search", recipe, "--out", "run", "--set", f"search.sampler={name}")
    said = f"the sampler '{name}' needs nni, which is not installed: pip install 'paretosr[nni]'"
    refused(outcome, said)
    assert not Path("run").exists()
    with pytest.raises(InputError, match=re.escape(said)):
        SAMPLERS[name](SPACE, [], Random(0), Start(), ("psnr_db",))


def test_other_samplers_need_no_nni(monkeypatch):
    monkeypatch.setitem(sys.modules, "nni", None)
    for name in SAMPLERS:
        if name not in NEEDS:
            refuse_absent(name)


# ---- with nni


@without_nni
def test_without_hyperopt_it_is_named(monkeypatch):
    for module in [m for m in sys.modules if m.startswith("hyperopt.") or m == NEEDS["nni_anneal"]]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "hyperopt", None)
    refuse_absent("nni_tpe")
    with pytest.raises(InputError, match="'nni_anneal' needs nni's 'hyperopt', which is not installed"):
        refuse_absent("nni_anneal")


@without_nni
def test_tpe_keeps_away_from_what_broke_limits():
    def share(seen):
        proposals = [SAMPLERS["nni_tpe"](SPACE, seen, Random(key), Start(), ("a",)) for key in range(40)]
        return np.mean([block.type == "imdb" for p in proposals for block in p.architecture.blocks])

    random = Random(0)
    only = {kind: [SPACE.sample(random, only_type=kind) for _ in range(20)] for kind in ("residual", "imdb")}
    alive = [Seen(n, a, "complete", (random.random(),)) for n, a in enumerate(only["residual"])]
    broken = [Seen(20 + n, a, "pruned", None) for n, a in enumerate(only["imdb"])]
    assert share([*alive, *broken]) < 0.15 < 0.25 < share(alive)


@without_nni
@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in NEEDS])
def test_a_tuner_learns_from_networks_it_did_not_propose(name):
    """Of one objective, where the first block alone matters."""
    seen = [
        replace(s, points=(0.0 if s.architecture.blocks[0].type == "scpa" else 1.0,), number=n)
        for n, s in enumerate(seen_of(40))
    ]
    proposals = [SAMPLERS[name](SPACE, seen, Random(key), Start(), ("a",)) for key in range(12)]
    firsts: list[Block] = [p.architecture.blocks[0] for p in proposals]
    assert np.mean([block.type == "scpa" for block in firsts]) > 0.6


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("nni") is not None, reason="this is the environment that has nni")
def test_the_tests_of_every_sampler_where_nni_is():
    """In .venv-nni (see .ci/setup-nni): the tables of the other files, and what is above; warnings are errors there."""
    files = [*OF_TABLES, "tests/test_nni_samplers.py"]
    pytest_of_nni = [".venv-nni/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "slow or not slow"]
    for command in (["sh", ".ci/setup-nni"], [*pytest_of_nni, "-k", "nni", *files]):
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    passed = re.search(r"(\d+) passed, 1 skipped", done.stdout)  # this test
    assert passed, done.stdout
    assert int(passed[1]) > 40
