"""Published networks that are measured and trained beside those of a search, from the recipe to the report."""

import json
from pathlib import Path

import pandas as pd
import pytest
from commands import Command, refused

from paretosr.analysis.export import load_exported
from paretosr.analysis.table import IDENTITY
from paretosr.proxies.complexity import complexity
from paretosr.runs.inspection import read_run
from paretosr.search.candidate import Candidate
from paretosr.spaces import NETWORKS, inference_form, published

BESIDE = ("srrn", "fimdn", "amaf_net")  # shared weights; an architecture with branches; weight norm
SMALL = ("--set", "search.candidates=3", "--set", "search.start=2")
WITH = (*SMALL, "--set", f"search.beside=[{', '.join(BESIDE)}]")


def found(out: Path) -> tuple[Candidate, ...]:
    return read_run(out)[2].candidates


@pytest.mark.slow
def test_published_networks_are_trained_like_those_found(paretosr: Command, recipe: Path, tmp_path: Path) -> None:
    assert paretosr("search", recipe, "--out", "with", *WITH).code == 0
    assert paretosr("search", recipe, "--out", "without", *SMALL).code == 0
    candidates, alone = found(tmp_path / "with"), found(tmp_path / "without")

    known = [c for c in candidates if c.kind == "published"]
    assert [c.details["system"] for c in known] == list(BESIDE)
    for c, name in zip(known, BESIDE, strict=True):
        assert c.state == "complete", c.reason
        assert c.design == published(name)
        assert c.numbers["parameters_m"] == complexity(published(name)).parameters / 1e6
        assert c.details["steps"] == 2
        assert NETWORKS[name].title in c.summary

    # The sampler does not see them: the search finds what it finds without them.
    searched = [c for c in candidates if c.kind == "search"]
    assert [c.design for c in searched] == [c.design for c in alone]

    # Again: nothing is done twice.
    before = len(candidates)
    assert paretosr("search", recipe, "--out", "with", *WITH).code == 0
    assert len(found(tmp_path / "with")) == before

    report = (tmp_path / "with" / "report.html").read_text()
    table = pd.read_csv(tmp_path / "with" / "candidates.csv")
    assert set(IDENTITY) <= set(table.columns)
    assert list(table[table["kind"] == "published"]["number"]) == [c.number for c in known]
    assert "3 of them published networks" in report
    for name in BESIDE:
        assert f'"{name}"' in report  # what its marker is called
        assert NETWORKS[name].title in report

    # A status counts them, and asks for them.
    said = json.loads((tmp_path / "with" / "status.json").read_text())
    assert said["candidates"]["complete"] == said["asked"] == 3 + len(BESIDE)

    # One of them is a candidate like any other: it can be exported, and comes back in its inference form.
    number = known[2].number
    assert paretosr("export", "with", "--candidate", number, "--out", "amaf").code == 0
    network = load_exported(tmp_path / "amaf")
    assert [n for n, _ in network.named_parameters()] == [n for n, _ in inference_form(network).named_parameters()]


def test_a_published_network_that_needs_larger_images_is_named(paretosr: Command, recipe: Path) -> None:
    refused(paretosr("search", recipe, "--set", "search.beside=[rfdn]"), "train.patch", "rfdn", "at least 15 pixels")


def test_what_cannot_be_built_cannot_be_trained_beside(paretosr: Command, recipe: Path) -> None:
    refused(paretosr("search", recipe, "--set", "search.beside=[fssr]"), "search.beside[0]", "fssr")


def test_one_published_network_is_trained_by_its_name(paretosr: Command, recipe: Path, tmp_path: Path) -> None:
    words = ("--set", "space=null", "--set", "network=gcsr", "--set", "objectives=[psnr_db]")
    outcome = paretosr("train", recipe, "--out", "gcsr", *words)
    assert outcome.code == 0, outcome.err
    (candidate,) = found(tmp_path / "gcsr")
    assert candidate.design == published("gcsr")
    assert load_exported(tmp_path / "gcsr" / "winner").minimum_size == 1
