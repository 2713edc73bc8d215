"""`paretosr export --ntire`: from a run, an export, or a published network to files that need torch alone."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from commands import Command, contents, refused

from paretosr.analysis.export import load_exported
from paretosr.runs.inspection import read_run
from paretosr.search.ntire import NTIRE_SCORES
from paretosr.spaces import build, inference_form, published


def loaded(folder: Path, stem: str, name: str) -> torch.nn.Module:
    """The network of the file, with the weights beside it."""
    spec = importlib.util.spec_from_file_location(stem, folder / "models" / f"{stem}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = getattr(module, name)()
    network.load_state_dict(torch.load(folder / "model_zoo" / f"{stem}.pth", weights_only=True), strict=True)
    return network.eval()


@pytest.mark.slow
def test_candidates_of_a_run(paretosr: Command, recipe: Path, tmp_path: Path) -> None:
    assert paretosr("search", recipe, "--out", "run", "--set", "search.candidates=2").code == 0
    outcome = paretosr("export", "run", "--candidate", 0, "--candidate", 1, "--ntire", 7, "--out", "files")
    assert outcome.code == 0, outcome.err
    files = ["model_zoo/team07_ParetoSR0.pth", "model_zoo/team07_ParetoSR1.pth"]
    files += ["models/team07_ParetoSR0.py", "models/team07_ParetoSR1.py"]
    assert [str(f.relative_to(tmp_path / "files")) for f in contents(tmp_path / "files") if f.is_file()] == files
    assert paretosr("export", "run", "--candidate", 1, "--out", "exported").code == 0
    x = torch.rand(1, 3, 19, 23)
    with torch.inference_mode():
        wanted = load_exported(tmp_path / "exported")(x)
        given = loaded(tmp_path / "files", "team07_ParetoSR1", "ParetoSR1")(x)
    assert torch.allclose(given, wanted, atol=1e-6)


def test_an_exported_network_under_a_name(paretosr: Command, model: Path, tmp_path: Path) -> None:
    assert paretosr("export", model, "--ntire", 12, "--name", "tiny_net").code == 0
    x = torch.rand(2, 3, 9, 11)
    with torch.inference_mode():
        given, wanted = loaded(tmp_path / "out" / "ntire", "team12_tiny_net", "TinyNet")(x), load_exported(model)(x)
    assert torch.allclose(given, wanted, atol=1e-6)


@pytest.mark.slow
def test_a_published_network_with_weights(paretosr: Command, tmp_path: Path) -> None:
    network = build(published("amaf_net"), seed=3)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    assert paretosr("export", "--system", "amaf_net", "--weights", "w.pth", "--ntire", 0, "--out", "a").code == 0
    x = torch.rand(1, 3, 10, 12)
    with torch.inference_mode():
        wanted = inference_form(network)(x)
        given = loaded(tmp_path / "a", "team00_amaf_net", "AmafNet")(x)
    assert torch.allclose(given, wanted, atol=1e-5)
    outcome = paretosr("export", "--system", "srrn", "--ntire", 1, "--out", "b")
    assert outcome.code == 0
    assert "random weights" in outcome.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("export",), "name the folder of a run"),
        (("export", "model", "--name", "x"), "go with --ntire"),
        (("export", "--ntire", "1"), "name either a run"),
        (("export", "model", "--system", "pan", "--ntire", "1"), "name either a run"),
        (("export", "model", "--ntire", "1", "--front"), "are for runs"),
        (("export", "model", "--ntire", "100"), "the team must be a number from 0 to 99"),
        (("export", "model", "--ntire", "1", "--name", "../x"), "letters, digits and underscores"),
        (("export", "--system", "fssr", "--ntire", "1"), "cannot be built"),
        (("export", "--system", "pam", "--ntire", "1"), "did you mean 'pan'"),
        (("export", "absent", "--ntire", "1"), "absent"),
        (("export", "--system", "srrn", "--ntire", "1", "--out", "model/architecture.json"), "is a file"),
        (("export", "--system", "srrn", "--ntire", "1", "--out", "/proc/x"), "cannot be written to"),
    ],
)
def test_what_does_not_go_is_refused(
    words: tuple[str, ...], said: str, paretosr: Command, model: Path, tmp_path: Path
) -> None:
    before = contents(tmp_path)
    refused(paretosr(*words), said)
    assert contents(tmp_path) == before


# The score of a year


SCORED = ("--set", "objectives=[psnr_db, ntire_2026]", "--set", "latency.size=[16, 16]", "--set", "latency.rounds=5")


@pytest.mark.slow
def test_a_search_can_aim_for_a_score(paretosr: Command, recipe: Path, tmp_path: Path) -> None:
    words = (*SCORED, "--set", "reference=span", "--set", "latency.max_rounds=5", "--set", "search.candidates=2")
    outcome = paretosr("search", recipe, "--out", "run", *words)
    assert outcome.code == 0, outcome.err
    _, _, record = read_run(tmp_path / "run")
    for c in record.candidates:
        n = c.numbers
        wanted = NTIRE_SCORES["2026"].of_ratio(n["latency_ratio"], n["macs_g"], n["parameters_m"])
        assert n["ntire_2026"] == wanted
        low, high = c.intervals["ntire_2026"]
        assert low <= wanted <= high
    assert "NTIRE 2026 score" in (tmp_path / "run" / "report.html").read_text()
    own = record.attribute("first")["reference"]["numbers"]["ntire_2026"]
    assert own == pytest.approx(math.exp(2), rel=2e-3)  # by the published figures, which are rounded


def test_a_score_needs_its_baseline(paretosr: Command, recipe: Path) -> None:
    refused(paretosr("search", recipe, *SCORED), "objectives[1]", "reference: span")


def test_measure_shows_the_score(paretosr: Command) -> None:
    outcome = paretosr("measure", "rfdn", "--reference", "efdn", "--size", 16)
    assert outcome.code == 0
    assert "NTIRE 2025" in outcome.out
