"""Pruning as a part of a run: children and controls in the study, what is refused, and that nothing is done twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from commands import NETWORK, Command, refused

from paretosr.analysis.export import load_exported
from paretosr.proxies.complexity import complexity
from paretosr.proxies.weights import with_weights
from paretosr.runs.inspection import read_run
from paretosr.runs.recipe_pruning import CONTROLS
from paretosr.runs.summary import judged
from paretosr.search.candidate import Candidate
from paretosr.search.study import belongs
from paretosr.spaces import Architecture, Block, Design, published
from paretosr.spaces.plan import Plan, widths

ALL = ("--set", f"pruning.controls=[{', '.join(CONTROLS)}]")
CUT = (
    *("--set", "pruning.strategies=[inner, free]", "--set", "pruning.budgets=[{flops: 0.7}]"),
    *("--set", "pruning.floor_channels=1", "--set", "pruning.floor_share=0.1", "--set", "pruning.step=1"),
    *("--set", "pruning.batches=2", "--set", "pruning.recovery_steps=3", "--set", "pruning.members=1"),
)
SEARCH = ("--set", "search.candidates=2", "--set", "space.widths=[8]", "--set", "space.depths=[2]")


def found(out: Path) -> tuple[Candidate, ...]:
    return read_run(out)[2].candidates


def told(c: Candidate) -> dict:
    return c.details["pruning"]


@pytest.fixture
def network_recipe(tmp_path: Path, recipe: Path) -> Path:
    """A recipe that trains one network of a JSON file and prunes it."""
    (tmp_path / "net.json").write_text(json.dumps(NETWORK.to_json()))
    content = yaml.safe_load(recipe.read_text())
    content = {key: value for key, value in content.items() if key not in ("space", "search")}
    pruning = {
        "budgets": [{"kept": 0.9}],
        "floor_channels": 1,
        "step": 1,
        "batches": 1,
        "recovery_steps": 2,
    }
    file = tmp_path / "cut.yaml"
    file.write_text(yaml.safe_dump({**content, "network": "net.json", "pruning": pruning}))
    return file


def test_a_search_prunes_its_front_with_all_controls(paretosr: Command, recipe: Path, tmp_path: Path) -> None:
    assert paretosr("search", recipe, "--out", "run", *SEARCH, *CUT, *ALL).code == 0
    _, read, record = read_run(tmp_path / "run")
    candidates = record.candidates
    children = [c for c in candidates if c.kind == "pruned"]
    controls = [c for c in candidates if c.kind == "control"]
    assert [told(c)["strategy"] for c in children] == ["inner", "free"]
    assert {told(c)["control"] for c in controls} == set(CONTROLS)
    assert sum(told(c)["control"] == "scratch" for c in controls) == len(children)
    assert sum(told(c)["control"] == "uncut" for c in controls) == 1  # alike for both
    for c in (*children, *controls):
        assert c.state == "complete", c.reason
        parent = candidates[c.parent]  # type: ignore[index]
        assert parent.kind == "search"
        assert not belongs(c, record.space)  # no sampler sees it
        assert c.numbers["flops_g"] == complexity(c.design).flops_g
        assert "psnr_db" in c.numbers
        assert c.details["pruning"]["steps"]["recovery"] == 3
        if told(c)["control"] != "uncut":
            assert c.numbers["flops_g"] <= 0.7 * parent.numbers["flops_g"]
            assert "compact equals masked" in told(c)["verified"]
    # Total steps: a child's own recovery, and for new weights all that parent and child had.
    steps = {told(c)["control"]: c.details["steps"] for c in (*children, *controls)}
    assert steps == {"": 3, "random": 3, "uniform": 3, "uncut": 3, "scratch": 2 + 3}
    # A child starts from its parent's weights, one from scratch does not: it is the widths of its child.
    for c in controls:
        if told(c)["control"] == "scratch":
            assert c.design.plan in [child.design.plan for child in children]
    # Controls stand on no front, children may.
    result = judged(read, record)
    assert not {c.number for c in controls} & set(result.front)
    # The weights that are kept are those of the small network.
    child = children[0]
    network = with_weights(child.design, tmp_path / "run" / "candidates" / f"{child.number:05d}" / "model.safetensors")
    assert widths(network) != widths(with_weights(NETWORK, _some_weights(tmp_path, NETWORK)))
    table = pd.read_csv(tmp_path / "run" / "candidates.csv")
    assert list(table["kind"]) == [c.kind for c in candidates]

    # Again: nothing is done twice, and the front stays as it was confirmed.
    assert paretosr("search", recipe, "--out", "run", *SEARCH, *CUT, *ALL).code == 0
    assert [c.design.hash for c in found(tmp_path / "run")] == [c.design.hash for c in candidates]


def _some_weights(folder: Path, design: Design) -> Path:
    from paretosr.proxies.weights import save_weights
    from paretosr.spaces import build

    save_weights(build(design), design, folder / "some.safetensors")
    return folder / "some.safetensors"


@pytest.mark.slow
def test_a_finished_run_is_pruned_and_a_search_that_goes_on_proposes_as_if_it_were_not(
    paretosr: Command, recipe: Path, tmp_path: Path
) -> None:
    small = ("--set", "search.start=1")
    assert paretosr("search", recipe, "--out", "run", *small, "--set", "search.candidates=2").code == 0
    asked = (*CUT, "--set", "pruning.strategies=[free]")
    assert paretosr("prune", "run", "--candidate", "0", *asked).code == 0
    pruned = [c for c in found(tmp_path / "run") if c.kind == "pruned"]
    assert [c.parent for c in pruned] == [0]
    assert pruned[0].design.architecture == found(tmp_path / "run")[0].design.architecture

    assert paretosr("prune", "run", "--candidate", "0", *asked).code == 0  # asked for again: it is there
    assert len([c for c in found(tmp_path / "run") if c.kind == "pruned"]) == 1

    more = (*small, "--set", "search.candidates=3")  # the third one's training has another seed: it has another number
    assert paretosr("search", recipe, "--out", "run", *more).code == 0
    assert paretosr("search", recipe, "--out", "plain", *more).code == 0
    with_pruning = [c.design for c in found(tmp_path / "run") if c.kind == "search"]
    assert with_pruning == [c.design for c in found(tmp_path / "plain")]

    # A child is taken away like any other, and a child is no parent.
    number = pruned[0].number
    assert paretosr("export", "run", "--candidate", number, "--out", "small").code == 0
    network = load_exported(tmp_path / "small")
    assert sum(p.numel() for p in network.parameters()) == pruned[0].numbers["parameters_m"] * 1e6
    plan = json.loads((tmp_path / "small" / "plan.json").read_text())
    assert Plan.from_json(plan) == pruned[0].design.plan
    refused(paretosr("prune", "run", "--candidate", number), f"candidate {number}", "pruned already")

    # The plan of the export cuts the same network again.
    assert paretosr("prune", "run", "--candidate", "0", "--plan", "small/plan.json", *CUT).code == 0
    again = found(tmp_path / "run")[-1]
    assert again.design == pruned[0].design
    assert told(again)["strategy"] == "given"


def test_one_network_is_trained_and_pruned(paretosr: Command, network_recipe: Path, tmp_path: Path) -> None:
    assert paretosr("prune", network_recipe, "--out", "run").code == 0
    parent, child = found(tmp_path / "run")
    assert (parent.kind, child.kind, child.parent) == ("search", "pruned", 0)
    assert parent.design == NETWORK
    assert "report" not in paretosr("status", "run").err
    assert (tmp_path / "run" / "report.html").exists()
    assert paretosr("prune", network_recipe, "--out", "run").code == 0
    assert len(found(tmp_path / "run")) == 2


@pytest.mark.slow
def test_a_published_network_is_trained_by_the_run_and_pruned(paretosr: Command, recipe: Path, tmp_path: Path) -> None:
    assert paretosr("search", recipe, "--out", "run").code == 0
    cut = (*CUT, "--set", "pruning.strategies=[inner]", "--set", "pruning.budgets=[{parameters: 0.8}]")
    assert paretosr("prune", "run", "--system", "srrn", *cut).code == 0
    system, child = found(tmp_path / "run")[1:]
    assert (system.kind, system.design, child.parent) == ("published", published("srrn"), system.number)
    assert child.state == "complete", child.reason


@pytest.mark.slow
def test_a_latency_budget_is_held_by_the_clock(paretosr: Command, network_recipe: Path, tmp_path: Path) -> None:
    """What was measured counts: the child's own time beside its parent's, and the estimate's error is told."""
    content = yaml.safe_load(network_recipe.read_text())
    content["objectives"] = ["psnr_db", "latency_ratio"]
    wide = Design(Architecture(16, (Block.of("residual"),) * 2, image_skip="bilinear"))
    (network_recipe.parent / "net.json").write_text(json.dumps(wide.to_json()))
    content["latency"] = {"size": [16, 16], "rounds": 5, "max_rounds": 5, "warmup_s": 0.01}
    content["pruning"]["budgets"] = [{"latency_ratio": 0.8}]
    content["pruning"]["step"] = 4
    network_recipe.write_text(yaml.safe_dump(content))
    assert paretosr("prune", network_recipe, "--out", "run").code == 0
    child = found(tmp_path / "run")[1]
    assert child.state == "complete", child.reason
    assert told(child)["latency_ratio"] <= 0.8 or "missed" in told(child)
    assert 0.1 < told(child)["estimated_ratio"] < 1
    path = told(child)["path"]
    assert [row["stage"] for row in (path[0], path[-1])] == ["start", "recovered"]
    assert path[0]["latency_ratio"] == 1.0
    assert path[-1]["latency_ratio"] == told(child)["latency_ratio"]
    assert all("psnr_db" in row for row in path)
    assert "latency_ms" in child.numbers


BAD: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "budget out of reach": (("--set", "pruning.budgets=[{flops: 0.001}]"), ("cannot reach flops <= 0.001", "least")),
    "no such candidate": (("--candidate", "7"), ("has no candidate 7", "0 to 0")),
    "no such system": (("--system", "rfdm"), ("no system 'rfdm'", "did you mean 'rfdn'")),
    "no such strategy": (("--set", "pruning.strategies=[inmer]"), ("no strategy 'inmer'", "did you mean 'inner'")),
    "another key": (("--set", "train.steps=3"), ("only 'pruning' can be set",)),
    "no plan there": (("--candidate", "0", "--plan", "nowhere.json"), ("nowhere.json", "cannot be read")),
    "corrupted plan": (("--candidate", "0", "--plan", "torn.json"), ("torn.json", "not JSON")),
    "plan of another network": (
        ("--candidate", "0", "--plan", "other.json"),
        ("other.json", "is for the architecture"),
    ),
    "plan for what is not there": (("--candidate", "0", "--plan", "unknown.json"), ("unknown.json", "'nobody'")),
    "plan that cuts all off": (("--candidate", "0", "--plan", "nothing.json"), ("nothing.json", "cuts the output off")),
    "mask of the wrong length": (("--candidate", "0", "--masks", "short.pth"), ("short.pth",)),
    "masks that are none": (("--candidate", "0", "--masks", "torn.json"), ("torn.json",)),
    "plan for several": (
        ("--candidate", "0", "--system", "srrn", "--plan", "other.json"),
        ("for one --candidate or --system",),
    ),
}


@pytest.fixture
def pruneable(paretosr: Command, recipe: Path, tmp_path: Path) -> Path:
    """A finished run, and beside it files that are no plans for it."""
    assert paretosr("search", recipe, "--out", "run", "--set", "space.widths=[8]").code == 0
    design = found(tmp_path / "run")[0].design
    own = design.architecture.hash
    (tmp_path / "torn.json").write_text('{"architecture": "')
    (tmp_path / "other.json").write_text(json.dumps({"architecture": "0" * 12, "kept": {}}))
    (tmp_path / "unknown.json").write_text(json.dumps({"architecture": own, "kept": {"nobody": [[0], [0]]}}))
    names = [name for name in widths(with_weights(design, _some_weights(tmp_path, design))) if name != "head.0"]
    closed = {name: [[], []] for name in names}
    (tmp_path / "nothing.json").write_text(json.dumps({"architecture": own, "kept": closed}))
    torch.save({names[0]: {"weight": torch.ones(3), "bias": None}}, tmp_path / "short.pth")
    return tmp_path / "run"


def test_what_cannot_be_pruned_is_refused_in_one_line_and_nothing_is_written(
    paretosr: Command, pruneable: Path
) -> None:
    def everything() -> dict[str, bytes]:
        """All files; the record by what it says, since reading it may touch its file."""
        files = {str(f): f.read_bytes() for f in pruneable.rglob("*") if f.is_file() and f.suffix == ".json"}
        record = read_run(pruneable)[2]
        said = [[c.number, c.state] for c in record.candidates], record.attribute("pruning")
        return {**files, "record": repr(said).encode()}

    before = everything()
    for what, (words, message) in BAD.items():
        outcome = paretosr("prune", pruneable, *CUT, *words)
        assert outcome.code == 2, (what, outcome)
        refused(outcome, *message)
        assert everything() == before, what
    refused(paretosr("prune", pruneable, "--recipe", "div2k"), "div2k", "has no 'pruning'")
    refused(paretosr("prune", "nowhere"), "nowhere", "no such file")
    refused(paretosr("prune", "div2k"), "div2k", "has no 'pruning'")
    refused(paretosr("prune", "prune", "--candidate", "3"), "not the folder of a run")


def test_a_budget_that_the_network_of_a_recipe_cannot_meet_is_refused_before_it_is_trained(
    paretosr: Command, network_recipe: Path, tmp_path: Path
) -> None:
    outcome = paretosr("prune", network_recipe, "--out", "run", "--set", "pruning.budgets=[{activations: 0.01}]")
    refused(outcome, "cannot reach activations <= 0.01", "the least")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_budget_that_turns_out_to_be_out_of_reach_fails_the_child_and_not_the_run(
    paretosr: Command, recipe: Path, tmp_path: Path
) -> None:
    words = ("--set", "pruning.budgets=[{flops: 0.001}]", "--set", "pruning.floor_channels=8")
    assert paretosr("search", recipe, "--out", "run", *SEARCH, *words).code == 0
    failed = [c for c in found(tmp_path / "run") if c.kind == "pruned"]
    assert failed
    assert all(c.state == "failed" and "the least" in c.reason for c in failed)
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_pruning_that_is_killed_goes_on_and_ends_as_if_it_had_not_been(
    recipe: Path, photos: Path, tmp_path: Path
) -> None:
    """The driver is killed with -9 again and again while children are cut and trained on."""
    content = yaml.safe_load(recipe.read_text())
    content["space"] |= {"widths": [8], "depths": [2]}
    content["pruning"] = {
        "strategies": ["inner", "free"],
        "budgets": [{"flops": 0.6}],
        "floor_channels": 1,
        "step": 1,
        "schedule": "gradual",
        "cuts": 3,
        "between": 40,
        "batches": 2,
        "recovery_steps": 400,
        "controls": ["scratch"],
    }
    recipe.write_text(yaml.safe_dump(content))

    def start(out: str) -> subprocess.Popen[bytes]:
        words = ["-m", "paretosr.runs.cli", "search", str(recipe), "--out", out]
        return subprocess.Popen([sys.executable, *words], cwd=tmp_path, start_new_session=True)

    assert start("whole").wait() == 0
    kills = 0
    while True:
        driver, began = start("killed"), time.monotonic()
        while driver.poll() is None and time.monotonic() - began < 9 + kills:
            time.sleep(0.1)
        if driver.poll() is not None:
            break
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        kills += 1
    assert driver.returncode == 0
    assert kills > 1

    def seen(out: str) -> list[tuple]:
        """What does not depend on when things happened: children by what was asked, their plans and their numbers."""
        rows = []
        for c in found(tmp_path / out):
            if c.kind in ("pruned", "control"):
                assert c.state == "complete", c.reason
                key = (told(c)["strategy"], told(c)["repeat"], told(c)["control"])
                rows.append((*key, c.design.hash, c.details["steps"]))
        return sorted(rows)

    assert seen("killed") == seen("whole")
    assert len(seen("whole")) == 4


@pytest.mark.slow
def test_a_stop_while_a_child_trains_is_no_death_of_the_driver(network_recipe, tmp_path):
    """Two stops at one place would else be taken for two deaths there, and the child be failed."""
    words = ["prune", network_recipe.name, "--out", "run", "--set", "pruning.recovery_steps=1000000"]
    for _ in range(2):
        marker = tmp_path / "run" / "candidates" / "00001" / "running"
        with subprocess.Popen([sys.executable, "-m", "paretosr.runs.cli", *words], cwd=tmp_path) as driver:
            try:
                deadline = time.monotonic() + 120
                while not marker.exists():
                    assert time.monotonic() < deadline
                    assert driver.poll() is None
                    time.sleep(0.02)
                driver.terminate()
                assert driver.wait(60) == 128 + signal.SIGTERM
            finally:
                driver.kill()
        assert not marker.exists()
    assert not list(tmp_path.rglob("deaths.json"))
    (child,) = [c for c in found(tmp_path / "run") if c.kind == "pruned"]
    assert child.state == "running"
