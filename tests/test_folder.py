"""The folder of a run: one driver at a time, one recipe for good, and nothing that was there is ever lost."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from paretosr.proxies.writing import this_host, whole, writer
from paretosr.runs.folder import RunFolder
from paretosr.runs.recipe import Recipe
from paretosr.runs.recipe_file import parse_recipe
from paretosr.spaces import InputError

SPACE = {"blocks": ["imdb"], "widths": [16], "depths": [2]}
HOLDER = """
import sys
from pathlib import Path
from paretosr.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


def recipe(**changes: object) -> Recipe:
    """A recipe with these parts: `search={"candidates": 5}`."""
    return parse_recipe({"space": SPACE, **changes}, "test.yaml")


def begun(path: Path) -> RunFolder:
    folder = RunFolder(path)
    with folder.lock():
        folder.begin(recipe(), "test", "paretosr search test")
    return folder


@contextmanager
def another_driver(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of the folder."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "locked\n"
            yield holder
        finally:
            holder.kill()


# ---- one driver


def test_a_second_driver_is_refused_with_the_pid_of_the_first_and_death_frees_the_folder(tmp_path):
    folder = begun(tmp_path / "run")
    assert folder.driver() is None
    before = (folder.path / "run.json").read_bytes()
    with another_driver(folder.path) as holder:
        for attempt in (folder.lock().__enter__, folder.move_aside):
            with pytest.raises(InputError) as raised:
                attempt()
            assert re.fullmatch(
                rf"{folder.path}: is being driven by pid {holder.pid} on \S+ since [-\d]+ [:\d]+; wait for it.*",
                str(raised.value),
            )
        assert str(holder.pid) in (folder.driver() or "")
        assert (folder.path / "run.json").read_bytes() == before
        holder.kill()
        holder.wait()
        assert folder.driver() is None
        with folder.lock():
            assert f"pid {os.getpid()} " in (folder.path / "lock").read_text()
            assert f"pid {os.getpid()} " in (folder.driver() or "")


def test_the_lock_survives_an_error_of_its_driver(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), folder.lock():
        raise ZeroDivisionError
    with folder.lock():
        pass


# ---- one recipe


def test_a_run_remembers_what_it_was_made_with(tmp_path):
    folder = begun(tmp_path / "run")
    assert folder.recipe() == recipe()
    assert folder.facts()["command"] == "paretosr search test"
    folder.begin(recipe(), "other", "paretosr search other")
    assert folder.facts()["name"] == "test"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 1}, "seed is 0 there, 1 here"),
        ({"train": {"steps": 7}}, "train.steps is 20000 there, 7 here"),
        ({"space": {**SPACE, "widths": [16, 20]}}, "space.widths is [16] there, [16, 20] here"),
        ({"limits": {"activations_m": "<= 9"}}, "limits.activations_m is"),
        ({"search": {"sampler": "random"}}, "search.sampler is"),
        ({"objectives": ["psnr_db"]}, "objectives is"),
        ({"seed": 1, "train": {"steps": 7}}, "(and 1 more)"),
    ],
)
def test_another_recipe_is_refused_by_the_key_that_differs(tmp_path, changes, key):
    folder = begun(tmp_path / "run")
    before = (folder.path / "run.json").read_bytes()
    with pytest.raises(InputError, match=re.escape(key)) as raised:
        folder.begin(recipe(**changes), "test", "")
    assert str(raised.value).startswith(f"{folder.path}: ")
    assert "--out" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert (folder.path / "run.json").read_bytes() == before


def test_a_run_from_before_there_was_a_choice_of_promotion_goes_on_by_the_rule_it_began_with(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        folder.begin(recipe(search={"halving": {}}), "test", "")
    facts = folder.facts()
    del facts["recipe"]["search"]["halving"]["promote"]
    (folder.path / "run.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"search\.halving\.promote is 'distance' there, 'hypervolume' here"):
        folder.begin(recipe(search={"halving": {}}), "test", "")
    folder.begin(recipe(search={"halving": {"promote": "distance"}}), "test", "")


@pytest.mark.parametrize(
    "changes",
    [
        {"search": {"candidates": 500, "minutes": 9, "workers": 3, "steps": 10**6, "task_minutes": 5}},
        {"report": {"title": "Mine"}},
        {"winner": {"fastest": {"psnr_db": ">= 20"}}},
        {"description": "said better"},
    ],
)
def test_keys_that_only_extend_a_run_may_change(tmp_path, changes):
    folder = begun(tmp_path / "run")
    extended = recipe(**changes)
    folder.begin(extended, "test", "")
    assert folder.recipe() == extended


# ---- what is not a run


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "holiday.png").write_bytes(b"x")
    folder = RunFolder(tmp_path)
    with pytest.raises(InputError, match=r"holds other files \(holiday\.png"), folder.lock():
        pytest.fail("must not be entered")
    assert [file.name for file in tmp_path.iterdir()] == ["holiday.png"]
    assert folder.move_aside() is None


def test_a_run_that_died_at_its_very_first_file_can_begin(tmp_path):
    (tmp_path / "lock").touch()
    (tmp_path / ".run.json.4711.part").write_text("{")
    assert begun(tmp_path).facts()["name"] == "test"


def test_what_killed_writers_left_is_taken_away_and_living_ones_keep_theirs(tmp_path):
    folder = begun(tmp_path / "run")
    folder.candidate(3).mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    here = this_host()
    left = [
        folder.candidate(3) / f".state.pt.{gone.pid}@{here}@5f3a9c01.part",
        folder.path / f".winner.{gone.pid}.old",
        folder.path / f".state.pt.{os.getpid()}@elsewhere@5f3a9c01.part",  # and an hour old
    ]
    kept = [
        folder.path / f".report.html.{writer()}.part",
        folder.candidate(3) / "state.pt",
        folder.path / f".state.pt.{gone.pid}@elsewhere@5f3a9c02.part",
    ]
    for file in (*left, *kept):
        file.mkdir() if file.suffix == ".old" else file.touch()
    os.utime(left[-1], (1, 1))
    folder.begin(recipe(), "test", "")
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in kept)


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """As when a task is begun again while its orphan, perhaps of the same pid on another host, still writes."""
    with whole(tmp_path / "state.pt") as one, whole(tmp_path / "state.pt") as two:
        one.write_text("one")
        two.write_text("two")
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
    assert (tmp_path / "state.pt").read_text() == "one"


def test_a_file_in_the_way_is_said_so(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(InputError, match="cannot be the folder of a run"), RunFolder(path).lock():
            pytest.fail("must not be entered")


def test_a_place_where_no_folder_can_be_is_said_so():
    with pytest.raises(InputError, match="cannot be the folder of a run"), RunFolder(Path("/proc/nobody/run")).lock():
        pytest.fail("must not be entered")


def test_a_disk_without_locks_is_said_so(tmp_path, monkeypatch):
    """As Lustre is that was mounted without them; two drivers would write over each other."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("paretosr.runs.folder.fcntl.flock", refuse)
    with pytest.raises(InputError, match="lies on a disk that locks no files"), RunFolder(tmp_path / "run").lock():
        pytest.fail("must not be entered")
    with RunFolder(tmp_path / "run").lock("postgresql+psycopg://me@host/searches"):
        pass  # the record is kept apart, and has a lock of its own
    begun = RunFolder(tmp_path / "begun")
    begun.path.mkdir()
    facts = {"name": "a", "command": "b", "recipe": {}}
    (begun.path / "run.json").write_text(json.dumps({**facts, "storage": "sqlite:////elsewhere.db", "study": "c"}))
    with begun.lock():
        pass
    with pytest.raises(InputError, match="lies on a disk that locks no files"):
        begun.move_aside()  # it may be driven, and nobody could say so
    with (
        pytest.raises(InputError, match="lies on a disk that locks no files"),
        RunFolder(tmp_path / "own").lock(RunFolder(tmp_path / "own").url),
    ):
        pytest.fail("must not be entered")
    (begun.path / "run.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="lies on a disk that locks no files"), begun.lock():
        pytest.fail("must not be entered")


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"name": 1, "command": "", "recipe": {"sede": 1}}'])
def test_a_folder_without_a_sound_run_json_is_an_input_error(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=re.escape(str(tmp_path))) as raised:
        RunFolder(tmp_path).recipe()
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError):
        RunFolder(tmp_path / "nowhere").recipe()


# ---- moved aside


def test_moving_aside_deletes_nothing(tmp_path, monkeypatch):
    folder = begun(tmp_path / "run")
    kept = []
    for content in ("first", "second", "third"):  # within one second: three names are needed
        (folder.path / "study.db").write_text(content)
        aside = folder.move_aside()
        assert aside is not None
        assert not folder.path.exists()
        kept.append((aside, content))
        begun(folder.path)
    assert len({aside for aside, _ in kept}) == 3
    for aside, content in kept:
        assert aside.parent == tmp_path
        assert (aside / "study.db").read_text() == content
        assert json.loads((aside / "run.json").read_text())["name"] == "test"
    monkeypatch.chdir(folder.path)
    moved = RunFolder(Path()).move_aside()
    assert moved is not None
    assert (moved / "run.json").exists()


def test_there_is_nothing_to_move_aside_where_there_was_no_run(tmp_path):
    assert RunFolder(tmp_path / "none").move_aside() is None
    assert not (tmp_path / "none").exists()
