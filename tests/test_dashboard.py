"""`paretosr dashboard`: a copy of the study, paused candidates with their rungs, and optuna-dashboard that shows it."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from random import Random

import optuna
import pytest
from commands import refused

from paretosr.runs.dashboard_command import dashboard
from paretosr.runs.folder import RunFolder
from paretosr.runs.inspection import open_run
from paretosr.runs.recipe_file import parse_recipe
from paretosr.runs.storage import driven
from paretosr.search.candidate import Candidate
from paretosr.search.study import STUDY_NAME, for_dashboard
from paretosr.spaces import Design, InputError

RECIPE = parse_recipe(
    {
        "space": {"blocks": ["residual", "imdb"], "widths": [8, 12], "depths": [1, 2, 3]},
        "objectives": ["psnr_db", "activations_m"],
        "search": {"halving": {"rungs": 3, "eta": 3}},
    },
    "rungs.yaml",
)
COUNTS = {"activations_m": 12.5}
ENDS = {
    "paused": [[2, 24.5], [6, 25.5]],
    "complete": [[2, 24.75], [6, 25.75], [18, 26.5]],
    "pruned": [],
    "failed": [[2, 24.0]],
    "running": [[2, 24.25]],
}
STATES = {"paused": "RUNNING", "complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "running": "RUNNING"}


def a_run(path: Path, *, finished: bool) -> RunFolder:
    """A run by rungs with one candidate in each state."""
    folder = RunFolder(path)
    space = RECIPE.make_space()
    assert space is not None
    with folder.lock() as held:
        folder.begin(RECIPE, "rungs", "paretosr search rungs.yaml")
        record = held.enter_context(driven(folder, RECIPE.objectives, space))
        for key, (state, rungs) in enumerate(ENDS.items()):
            design = Design(space.sample(Random(key)))
            given = Candidate(0, design, origin=f"start: {key}", numbers=COUNTS)
            number = record.add(given, {"memory": key}).number
            psnr = {"psnr_db": rungs[-1][1]} if state == "complete" else {}
            reason = "broke something" if state in ("pruned", "failed") else ""
            details = {"rungs": rungs, "target": 18}
            record.update(
                Candidate(
                    number,
                    design,
                    state,
                    origin=given.origin,
                    numbers={**COUNTS, **psnr},
                    reason=reason,
                    details=details,
                )
            )
        record.set_attribute("finished", finished)
    return folder


@pytest.mark.parametrize("finished", [False, True])
def test_the_copy_has_all_that_the_study_has_and_no_zombie_where_it_is_finished(tmp_path, finished):
    folder = a_run(tmp_path / "run", finished=finished)
    before = (folder.path / "study.db").read_bytes()
    with open_run(folder.path) as (_, _, record):
        study = optuna.load_study(study_name=STUDY_NAME, storage=for_dashboard(record))
        originals = record._study.trials
    assert study.metric_names == RECIPE.objectives
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.user_attrs == {"finished": finished}
    states = {**STATES, "paused": "PRUNED"} if finished else STATES
    for trial, original, candidate in zip(study.trials, originals, record.candidates, strict=True):
        assert trial.number == original.number == candidate.number
        assert trial.state.name == states[candidate.state]
        assert trial.params == original.params != {}
        assert trial.distributions == original.distributions
        assert trial.intermediate_values == dict(ENDS[candidate.state])
        assert trial.datetime_start == original.datetime_start
        assert trial.user_attrs["state"] == candidate.state
        assert trial.user_attrs["activations_m"] == 12.5
        assert trial.user_attrs["reason"] == candidate.reason
        assert trial.user_attrs["summary"] == candidate.summary
        assert json.dumps(trial.user_attrs)
        assert trial.values == ([26.5, 12.5] if candidate.state == "complete" else None)
    assert [trial.number for trial in study.best_trials] == [list(ENDS).index("complete")]
    assert (folder.path / "study.db").read_bytes() == before


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


@pytest.mark.slow
def test_a_browser_finds_it_and_a_signal_ends_it(tmp_path):
    folder = a_run(tmp_path / "run", finished=True)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    command = [sys.executable, "-W", "error", "-m", "paretosr.runs.cli", "dashboard", folder.path, "--port", "0"]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(rf"{folder.path}: 5 candidates, .* (http://127\.0\.0\.1:\d+)/dashboard\n", line)
            assert found, line + (process.stderr.read() if process.stderr else "")
            page = fetch(f"{found[1]}/dashboard")
            assert "<title>Optuna Dashboard</title>" in page
            script = re.search(r'src="([^"]+\.js)"', page)
            assert script
            assert len(fetch(found[1] + script[1])) > 1000
            (study,) = json.loads(fetch(f"{found[1]}/api/studies"))["study_summaries"]
            assert study["study_name"] == STUDY_NAME
            detail = json.loads(fetch(f"{found[1]}/api/studies/{study['study_id']}"))
            trials = {trial["number"]: trial for trial in detail["trials"]}
            assert [trials[number]["state"] for number in range(5)] == [
                "Pruned", "Complete", "Pruned", "Fail", "Running"
            ]  # fmt: skip
            shown = [(point["step"], point["value"]) for point in trials[0]["intermediate_values"]]
            assert shown == [(2, 24.5), (6, 25.5)]
            assert trials[1]["values"] == [26.5, 12.5]
            with pytest.raises(urllib.error.HTTPError):
                fetch(f"{found[1]}/api/studies/99")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert err == ""
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_a_port_that_is_taken_is_said(paretosr, tmp_path):
    folder = a_run(tmp_path / "run", finished=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(paretosr("dashboard", folder.path, "--port", port), f"--port {port}", "in use")
    refused(paretosr("dashboard", folder.path, "--host", "198.51.100.1"), "--host 198.51.100.1")
    refused(paretosr("dashboard", tmp_path), "is not the folder of a run")


def test_a_missing_package_says_how_to_get_it(monkeypatch, tmp_path):
    class Closed:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.partition(".")[0] == "optuna_dashboard":
                raise ModuleNotFoundError(f"No module named {name!r}", name="optuna_dashboard")

    for name in [name for name in sys.modules if name.partition(".")[0] == "optuna_dashboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Closed(), *sys.meta_path])
    with pytest.raises(InputError, match=r"pip install 'paretosr\[dashboard\]'"):
        dashboard(tmp_path, "127.0.0.1", 0, None)  # type: ignore[arg-type]  # refused before anything is said
