"""The record in a real PostgreSQL server: the same as in SQLite, one driver, and what comes of a lost connection."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from commands import NETWORK, refused
from optuna import load_study
from postgres import USER, Server
from sqlalchemy.exc import OperationalError

from paretosr.runs.folder import RunFolder
from paretosr.runs.inspection import open_run, read_run
from paretosr.runs.recipe_file import parse_recipe
from paretosr.runs.storage import driven, usable
from paretosr.search.candidate import Candidate
from paretosr.search.engine import RunFailed
from paretosr.search.study import for_dashboard
from paretosr.spaces import InputError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CANDIDATES = 3
RECIPE = {
    "seed": 5,
    "device": "cpu",
    "data": {"source": "photos"},
    "space": {
        "blocks": [{"residual": {"attention": ["none", "cca"]}}, {"imdb": {"attention": ["none"]}}],
        "widths": [8, 12],
        "depths": [1, 2],
    },
    "objectives": ["psnr_db", "activations_m"],
    "search": {"candidates": CANDIDATES, "workers": 1, "start": 2},
    "train": {"steps": 250, "batch": 2, "patch": 8},
}
SMALL = parse_recipe({"objectives": ["psnr_db"], "space": RECIPE["space"]}, "small.yaml")


@pytest.fixture(scope="module")
def database(postgresql: Server) -> str:
    return postgresql.database("runs")


@pytest.fixture(scope="module")
def place(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos and the recipe `tiny.yaml`."""
    folder = tmp_path_factory.mktemp("postgresql")
    shutil.copytree(photos, folder / "photos")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


@pytest.fixture(scope="module")
def in_a_file(place: Path) -> Path:
    """The search with its record in a file of its own."""
    out = place / "file"
    with driving(place, out) as driver:
        assert driver.wait(300) == 0, said(out)
    return out


@contextmanager
def driving(place: Path, out: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A driver in a process of its own, which does not outlive the test."""
    command = [sys.executable, "-m", "paretosr.runs.cli", "search", place / "tiny.yaml", "--out", out, *words]
    with out.with_suffix(".log").open("w") as log:
        driver = subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield driver
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()


def said(out: Path) -> str:
    return out.with_suffix(".log").read_text()


def wait_until(condition: Callable[[], object], driver: subprocess.Popen[bytes], out: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert driver.poll() is None, said(out)
        assert time.monotonic() < deadline, said(out)
        time.sleep(0.05)


def ended(out: Path) -> int:
    """How many candidates have ended, as other shells see it."""
    with suppress(FileNotFoundError):
        return json.loads((out / "status.json").read_text())["candidates"]["complete"]
    return 0


def comparable(out: Path) -> list[Candidate]:
    """All of a run's candidates that must not depend on where and how often it was driven."""
    return [
        replace(c, details={name: value for name, value in c.details.items() if name != "train_s"})
        for c in read_run(out)[2].candidates
    ]


def begun(path: Path, url: str) -> RunFolder:
    folder = RunFolder(path)
    with folder.lock():
        folder.begin(SMALL, path.name, "", usable(url))
    return folder


# ---- the same as in a file


def test_a_search_is_the_same_and_every_command_finds_its_record(paretosr, database, place, in_a_file, postgresql):
    out = place / "server"
    done = paretosr("search", place / "tiny.yaml", "--out", out, "--storage", database)
    assert done.code == 0, done.err
    assert comparable(out) == comparable(in_a_file)
    assert not (out / "study.db").exists()
    facts = (out / "run.json").read_text()
    assert os.environ["PGPASSWORD"] not in facts
    study = json.loads(facts)["study"]
    assert study.startswith("server-")
    assert postgresql.ask("select study_name from studies", "runs") == [study]

    assert "nothing in it is done twice" in paretosr("search", place / "tiny.yaml", "--out", out).out
    assert paretosr("report", out).code == 0
    assert paretosr("export", out, "--candidate", 1).code == 0
    assert "finished" in paretosr("status", out).out
    with open_run(out) as (_, _, record):
        shown = load_study(study_name=study, storage=for_dashboard(record)).trials
    assert [trial.state.name for trial in shown] == ["COMPLETE"] * CANDIDATES
    trained = paretosr("train", out, "--candidate", 1)
    assert trained.code == 0, trained.err
    assert [c.kind for c in read_run(out)[2].candidates] == ["search"] * CANDIDATES + ["trained"]
    sets = (
        "pruning.budgets=[{flops: 0.8}]",
        "pruning.tick_steps=1",
        "pruning.tock_steps=1",
        "pruning.recovery_steps=2",
    )
    pruned = paretosr("prune", out, "--candidate", 1, *(word for part in sets for word in ("--set", part)))
    assert pruned.code == 0, pruned.err
    assert "pruned" in [c.kind for c in read_run(out)[2].candidates]
    assert postgresql.ask("select count(*) from studies", "runs") == ["1"]


def test_killed_and_gone_on_with(paretosr, database, place, in_a_file):
    out = place / "killed"
    with driving(place, out, "--storage", database) as driver:
        wait_until(lambda: ended(out) >= 1, driver, out)
        assert len(read_run(out)[2].candidates) >= 1  # while it is driven
        driver.kill()
        driver.wait()
    assert len(comparable(out)) < CANDIDATES or comparable(out)[-1].state == "running"
    assert paretosr("search", place / "tiny.yaml", "--out", out).code == 0
    assert comparable(out) == comparable(in_a_file)


# ---- one driver


def test_a_second_driver_is_refused_wherever_its_folder_lies(paretosr, database, place):
    out, copy = place / "driven", place / "copy" / "driven"
    with driving(place, out, "--storage", database, "--set", "search.candidates=50") as driver:
        wait_until(lambda: ended(out) >= 1, driver, out)
        shutil.copytree(out, copy)  # as another host with a disk of its own would have it
        search = ("search", place / "tiny.yaml", "--set", "search.candidates=50", "--out")
        for command in ((*search, copy), ("train", copy), ("prune", copy)):
            refused(paretosr(*command), database, f"is being driven by pid {driver.pid} on ", "wait for it")
        refused(paretosr(*search, out), f"is being driven by pid {driver.pid}")
        assert driver.poll() is None, "it was not disturbed"


def test_two_runs_are_driven_at_the_same_time_in_an_empty_database(postgresql, tmp_path):
    url = postgresql.database("empty")
    folders = [begun(tmp_path / name, url) for name in ("a", "b", "c")]
    together, numbers = threading.Barrier(len(folders)), []

    def drive(folder: RunFolder) -> None:
        together.wait()
        with folder.lock(), driven(folder, ["psnr_db"]) as record:
            record.add(Candidate(0, NETWORK, origin=folder.path.name))
            together.wait()  # all of them drive now
            numbers.append(record.add(Candidate(0, NETWORK)).number)

    threads = [threading.Thread(target=drive, args=[folder], daemon=True) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert numbers == [1] * len(folders)
    for folder in folders:
        assert [c.origin for c in read_run(folder.path)[2].candidates] == [folder.path.name, ""]


def test_whoever_has_lost_the_connection_writes_no_more(postgresql, database, tmp_path):
    folder = begun(tmp_path / "run", database)

    def drive() -> None:
        with driven(folder, ["psnr_db"]) as record:
            record.add(Candidate(0, NETWORK, origin="before"))
            postgresql.ask(thrown_out("paretosr pid"), "postgres")
            with driven(folder, ["psnr_db"]) as next_driver:  # the lock is free at once
                next_driver.add(Candidate(0, NETWORK, origin="the next driver's"))
                with pytest.raises(OperationalError):
                    record.set_attribute("seconds", 1.0)
                for _ in range(3):  # and it stays so: nothing connects anew
                    with pytest.raises(OperationalError, match="is lost"):
                        record.add(Candidate(0, NETWORK, origin="too late"))
            record.set_attribute("seconds", 2.0)

    with pytest.raises(RunFailed, match="what is recorded is safe, the same command goes on"):
        drive()
    read = read_run(folder.path)[2]
    assert [c.origin for c in read.candidates] == ["before", "the next driver's"]
    assert read.attribute("seconds") is None


def thrown_out(name: str) -> str:
    """The query that ends all connections of this name."""
    return f"select pg_terminate_backend(pid) from pg_stat_activity where application_name like '{name}%'"


# ---- what goes wrong


def test_a_server_that_stops_in_mid_run_stops_the_run_which_then_goes_on(
    paretosr, database, place, in_a_file, postgresql
):
    out = place / "stopped"
    with driving(place, out, "--storage", database) as driver:
        wait_until(lambda: ended(out) >= 1, driver, out)
        postgresql.stop()
        try:
            assert driver.wait(60) == 1
            last = said(out).splitlines()[-1]
            assert last.startswith(f"paretosr: {database}: ")
            assert last.endswith("; what is recorded is safe, the same command goes on")
            assert "Traceback" not in said(out)
            refused(paretosr("search", place / "tiny.yaml", "--out", out), database, "refused")
            refused(paretosr("report", out), database, "refused")
            refused(paretosr("search", place / "tiny.yaml", "--out", place / "no", "--storage", database), "refused")
            assert not (place / "no").exists()
        finally:
            postgresql.start()
    assert paretosr("search", place / "tiny.yaml", "--out", out).code == 0
    assert comparable(out) == comparable(in_a_file)


def test_a_database_that_is_not_there_and_a_wrong_password_are_said(postgresql, database, monkeypatch, tmp_path):
    with pytest.raises(InputError, match='database "nowhere" does not exist') as raised:
        usable(postgresql.url("nowhere"))
    assert "\n" not in str(raised.value)
    begun(tmp_path / "run", database)
    monkeypatch.setenv("PGPASSWORD", "a wrong one")
    for act in (lambda: usable(database), lambda: read_run(tmp_path / "run")):
        with pytest.raises(InputError, match=f'password authentication failed for user "{USER}"') as raised:
            act()
        assert "\n" not in str(raised.value)
        assert "wrong" not in str(raised.value)


def test_a_database_without_tables_or_study_has_no_record_yet(postgresql, tmp_path):
    folder = begun(tmp_path / "run", postgresql.database("bare"))
    with pytest.raises(InputError, match="has no record yet"):
        read_run(folder.path)
    with driven(begun(tmp_path / "other", postgresql.url("bare")), ["psnr_db"]):
        pass
    with pytest.raises(InputError, match="has no record yet"):
        read_run(folder.path)
    assert postgresql.ask("select count(*) from studies", "bare") == ["1"], "reading makes nothing"
