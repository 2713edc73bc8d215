"""What `paretosr status` says of a run by its status.json, wherever its driver lives."""

import errno
import io
import json
import os
import socket
import time
from pathlib import Path

import pytest
from rich.console import Console

from paretosr.runs import inspection

STATUS = {
    "stage": "searching",
    "time": "2026-11-27 07:15:02",
    "pid": 4711,
    "host": "node3",
    "seconds": 982.0,
    "candidates": {"running": 3, "complete": 5, "pruned": 0, "failed": 0, "paused": 22},
    "asked": 100,
    "rungs": [{"steps": 200, "reached": 27}, {"steps": 600, "reached": 9}],
    "pace": {"networks_per_h": 106, "steps_per_s": 14.2},
    "left_s": 2479.0,
    "workers": 3,
    "running": {"30/TrainWork/200": {"step": 120, "steps": 200}},
    "objectives": ["psnr_db", "activations_m"],
    "front": [{"number": 7, "psnr_db": 27.5, "activations_m": 3.25, "summary": "imdb x 2"}],
}


def said(run: Path, age_s: float = 0.0, **changed: object) -> str:
    (run / "run.json").write_text(json.dumps({"name": "rungs", "command": "paretosr search", "recipe": {}}))
    (run / "status.json").write_text(json.dumps({**STATUS, **changed}))
    then = time.time() - age_s
    os.utime(run / "status.json", (then, then))
    console = Console(file=io.StringIO(), width=200)
    inspection.status(run, False, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_status_is_told_in_a_few_lines(tmp_path):
    lines = said(tmp_path).splitlines()
    assert lines[1:5] == [
        "3 running, 5 complete, 22 paused; 100 asked; 982 s",
        "rungs (networks at steps): 27 at 200, 9 at 600",
        "3 workers, 1 busy; 106 networks/h, 14.2 steps/s; about 41 min 19 s left",
        "  30: training to 200: step 120 of 200",
    ]
    assert any("27.5" in line and "3.25" in line and "imdb x 2" in line for line in lines)


@pytest.mark.parametrize(
    ("age_s", "changed", "words"),
    [
        (1, {}, "driven by pid 4711 on node3"),
        (3600, {}, "its driver is gone; the same command goes on"),
        (1, {"host": socket.gethostname()}, "its driver is gone; the same command goes on"),
        (1, {"stage": "finished"}, "finished (2026-11-27 07:15:02)"),
    ],
)
def test_a_driver_on_another_host_is_as_alive_as_its_word_is_young(tmp_path, age_s, changed, words):
    """The locks of its disk may not reach from there to here; on one host they do."""
    (tmp_path / "lock").touch()
    assert words in said(tmp_path, age_s, **changed)


def test_without_locks_its_word_counts_on_its_own_host_too(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    (tmp_path / "lock").touch()
    monkeypatch.setattr("paretosr.runs.folder.fcntl.flock", refuse)
    host = socket.gethostname()
    assert f"driven by pid 4711 on {host}" in said(tmp_path, 1, host=host)
    assert "its driver is gone" in said(tmp_path, 3600, host=host)
