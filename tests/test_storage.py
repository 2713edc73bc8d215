"""Where a record may be kept: what `--storage` takes and refuses, in one line and never with a password."""

import re
import sys
from pathlib import Path

import pytest
from commands import NETWORK, contents, refused

from paretosr.runs.folder import RunFolder, Storage
from paretosr.runs.inspection import read_run
from paretosr.runs.recipe import Recipe
from paretosr.runs.recipe_file import parse_recipe, read_recipe
from paretosr.runs.storage import driven, usable
from paretosr.search.candidate import Candidate
from paretosr.search.study import STUDY_NAME
from paretosr.spaces import InputError

SPACE = {"blocks": ["residual"], "widths": [4], "depths": [1]}
RECIPE = parse_recipe({"objectives": ["psnr_db"], "space": SPACE}, "test.yaml")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://me@host/db", "is not a database that a record can be kept in"),
        ("study.db", "is not a database that a record can be kept in"),
        ("", "is not a database that a record can be kept in"),
        ("postgresql+asyncpg://me@host/db", "is spoken to by psycopg, not asyncpg"),
        ("postgresql://me@host", "names no database"),
        ("postgresql://me@host/", "names no database"),
        ("postgresql://me:secret@host/db", "must not hold a password"),
        ("postgresql+psycopg://me:@host/db", "must not hold a password"),
        ("postgresql://me@host/db?password=secret", "must not hold a password"),
        ("postgresql://me@host/db?sslmode=require&sslpassword=secret", "must not hold a password"),
        ("postgresql://me:secret/more@host/db", "is not a URL that can be read"),
        ("postgresql://me@host:port/db", "is not a URL that can be read"),
        ("postgresql://[::1/db", "is not a URL that can be read"),
        ("sqlite://", "a SQLite record is a file"),
        ("sqlite:///", "a SQLite record is a file"),
        ("sqlite:///:memory:", "a SQLite record is a file"),
        ("sqlite:////tmp/x.db?mode=ro", "a SQLite record is a file"),
        ("sqlite+pysqlcipher:////tmp/x.db", "spoken to by Python's own sqlite3"),
        ("sqlite:////no/such/folder/x.db", "/no/such/folder is not a folder"),
    ],
)
def test_what_cannot_hold_a_record_is_refused(url, words):
    with pytest.raises(InputError) as raised:
        usable(url)
    said = str(raised.value)
    assert said.startswith("--storage: ")
    assert words in said
    assert "secret" not in said
    assert "\n" not in said


@pytest.mark.parametrize("content", [None, "a letter, not a database, which is long enough to be one" * 40])
def test_a_file_that_is_no_database_is_refused(tmp_path, content):
    file = tmp_path / "study.db"
    file.mkdir() if content is None else file.write_text(content)
    with pytest.raises(InputError, match=rf"^--storage: {file} is not a SQLite file \("):
        usable(f"sqlite:///{file}")


def test_a_new_file_and_an_earlier_one_will_do(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    assert usable(url) == url
    assert not list(tmp_path.iterdir()), "nothing is written by looking"
    (tmp_path / "study.db").touch()
    assert usable(url) == url


def test_no_storage_is_no_storage():
    assert usable(None) is None


def test_a_missing_driver_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "paretosr.runs.postgresql", None)
    monkeypatch.delattr("paretosr.runs.postgresql", raising=False)

    class Closed:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.partition(".")[0] == "psycopg":
                raise ModuleNotFoundError(f"No module named {name!r}", name="psycopg")

    for name in [name for name in sys.modules if name.partition(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "paretosr.runs.postgresql")
    monkeypatch.setattr(sys, "meta_path", [Closed(), *sys.meta_path])
    with pytest.raises(InputError, match=r"needs psycopg.*pip install 'paretosr\[postgresql\]'"):
        usable("postgresql://me@host/db")


def begun(path: Path, url: str | None, recipe: Recipe = RECIPE) -> RunFolder:
    """The folder of a run whose record is kept there, with one candidate."""
    folder = RunFolder(path)
    with folder.lock() as held:
        folder.begin(recipe, "test", "", url)
        record = held.enter_context(driven(folder, recipe.objectives))
        record.add(Candidate(0, NETWORK, origin=path.name))
    return folder


def origins(path: Path) -> list[str]:
    return [c.origin for c in read_run(path)[2].candidates]


def test_a_sqlite_file_elsewhere_holds_several_runs_and_has_one_driver(tmp_path):
    database = tmp_path / "elsewhere.db"
    url = usable(f"sqlite:///{database}")
    folders = [begun(tmp_path / name, url) for name in ("a", "b")]
    for folder in folders:
        facts = folder.facts()
        assert facts["storage"] == url
        assert facts["study"].startswith(f"{folder.path.name}-")
        assert folder.storage() == Storage(facts["storage"], facts["study"])
        assert not (folder.path / "study.db").exists()
        assert origins(folder.path) == [folder.path.name]
    with folders[0].lock() as held:
        held.enter_context(driven(folders[0], ["psnr_db"]))
        with pytest.raises(InputError, match=f"{database}: is being driven by pid"), folders[1].lock() as other:
            other.enter_context(driven(folders[1], ["psnr_db"]))
        assert origins(folders[0].path) == ["a"]
    with folders[1].lock() as held:
        held.enter_context(driven(folders[1], ["psnr_db"]))


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_run_does_not_move(tmp_path, elsewhere):
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}" if elsewhere else None
    folder = begun(tmp_path / "run", url)
    kept = folder.storage()
    if not elsewhere:
        assert kept == Storage(f"sqlite:///{tmp_path / 'run' / 'study.db'}", STUDY_NAME)
        assert "study" not in folder.facts()
    for same in (None, url):
        folder.refuse_other_storage(same)
        folder.begin(folder.recipe(), "test", "", same)
    assert folder.storage() == kept
    for act in (folder.refuse_other_storage, lambda url: folder.begin(folder.recipe(), "test", "", url)):
        with pytest.raises(InputError, match=re.escape(f"{folder.path}: its record is kept in {kept.url}")):
            act(f"sqlite:///{tmp_path / 'other.db'}")
    assert folder.storage() == kept


@pytest.mark.parametrize("command", ["search", "train", "prune"])
def test_a_command_refuses_another_storage_for_a_run(paretosr, recipe, tmp_path, command):
    out = begun(tmp_path / "run", None, read_recipe(str(recipe))).path
    words = ("search", recipe, "--out", out) if command == "search" else (command, out)
    before = contents(out)
    refused(paretosr(*words, "--storage", f"sqlite:///{tmp_path / 'b.db'}"), "leave --storage out")
    before[out / "lock"] = (out / "lock").read_bytes()
    assert contents(out) == before
    assert not (tmp_path / "b.db").exists()


def test_a_run_without_a_study_has_no_record_yet(tmp_path):
    url = begun(tmp_path / "one", f"sqlite:///{tmp_path / 'x.db'}").storage().url
    folder = RunFolder(tmp_path / "two")
    with folder.lock():
        folder.begin(RunFolder(tmp_path / "one").recipe(), "two", "", url)
    with pytest.raises(InputError, match=f"has no record yet .{url}"):
        read_run(folder.path)


@pytest.mark.slow
def test_a_search_finds_its_record_again(paretosr, recipe, tmp_path):
    database, out = tmp_path / "elsewhere.db", tmp_path / "run"
    assert paretosr("search", recipe, "--out", out, "--storage", f"sqlite:///{database}").code == 0
    again = paretosr("search", recipe, "--out", out)
    assert again.code == 0
    assert "nothing in it is done twice" in again.out
    assert [c.state for c in read_run(out)[2].candidates] == ["complete"]
    assert not (out / "study.db").exists()
    for command in ("report", "export", "status"):
        assert paretosr(command, out).code == 0
