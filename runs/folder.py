"""The folder of a run: where its files lie, who may write there, and what happens to a folder that is there already.

run.json          the recipe as it was understood, its name, the command, the database; written first, once
study.db          the record (Optuna, SQLite), unless that is kept in a database elsewhere
lock              who drives the run: host, pid, time; held by flock, which dies with the process
status.json       what the run is doing, renewed after each event
candidates/00012/ training.json, timing.json, model.safetensors; state.pt while it is being trained
pruning/00012-.../ cut.safetensors, the weights just cut; cutting.pt while it is being cut
tensorboard/00012/ curves, where the recipe asks for them
candidates.csv, report.html, winner/
"""

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ..proxies.writing import is_full_disk, is_left_behind, write_json
from ..search.study import STUDY_NAME
from ..spaces import InputError
from .recipe import Recipe
from .recipe_file import differences, parse_recipe

FORGOTTEN_S = 3600.0  # so old is what a writer on another host has left behind; nobody here can see whether it lives
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # what a disk without them says
HARMLESS = re.compile(r"lock|\..*\.part")  # what may lie in a folder that is not yet a run: one that died very young
SQLITE = "sqlite:///"  # what a URL of a SQLite file begins with


@dataclass(frozen=True)
class Storage:
    """Where a record is kept: a database, as SQLAlchemy wants its URL, and the study's name in it."""

    url: str
    study: str


class RunFolder:
    """Paths of a run; creates nothing by itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def url(self) -> str:
        """The study's database, as SQLAlchemy wants it; InputError for a path that a URL cannot hold."""
        if "?" in str(self.path.resolve()):
            raise InputError(f"{self.path}: the path of a run must not hold a '?'")
        return f"{SQLITE}{self.path.resolve() / 'study.db'}"

    def storage(self) -> Storage:
        """Where the record of the run is kept, as it was said when the run began."""
        facts = self.facts()
        return Storage(facts["storage"], facts["study"]) if "storage" in facts else Storage(self.url, STUDY_NAME)

    def refuse_other_storage(self, url: str | None) -> None:
        """InputError where `--storage` names another database than that of the run that is here."""
        kept = self.storage().url
        if url not in (None, kept):
            raise InputError(f"{self.path}: its record is kept in {kept}, and a run does not move; leave --storage out")

    def candidate(self, number: int) -> Path:
        """Where the files of a candidate lie."""
        return self.path / "candidates" / f"{number:05d}"

    def cutting(self, key: str) -> Path:
        """Where the files of a cut lie, from which a pruned candidate was trained on."""
        return self.path / "pruning" / key

    def facts(self) -> dict[str, Any]:
        """What run.json says; InputError where this is not the folder of a run."""
        try:
            facts = json.loads((self.path / "run.json").read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{self.path}: is not the folder of a run (it has no run.json)") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path / 'run.json'}: cannot be read: {error}") from None
        if not isinstance(facts, dict) or not {"name", "command", "recipe"} <= set(facts):
            raise InputError(f"{self.path / 'run.json'}: is not what a run writes there")
        return facts

    def recipe(self) -> Recipe:
        """The recipe the run was made with."""
        recipe = self.facts()["recipe"]
        match recipe:
            case {"search": {"halving": {"eta": _} as halving}}:
                halving.setdefault("promote", "distance")  # of a run that began when there was no other
        return parse_recipe(recipe, str(self.path / "run.json"))

    @contextmanager
    def lock(self, storage: str | None = None) -> Iterator[ExitStack]:
        """Keeps every other driver out; InputError names the one that is there, or what else is in the way.

        What is entered into the stack that it gives is left before the folder is free again. storage: of a run that
        begins. A record that is kept apart has a lock of its own, so the folder's disk may be one that has none.
        """
        with ExitStack() as held:
            try:
                begun = (self.path / "run.json").exists()
                kept = self.facts().get("storage") if begun else storage
                self.path.mkdir(parents=True, exist_ok=True)
                self._refuse_foreign()
                held.enter_context(only_driver(self.path / "lock", self.path, needed=kept in (None, self.url)))
            except OSError as error:
                if is_full_disk(error):
                    raise
                raise InputError(f"{self.path}: cannot be the folder of a run: {error.strerror}") from None
            yield held

    def driver(self) -> str | None:
        """Who drives the run now ("pid 4711 on host since ..."), None where nobody does."""
        try:
            with (self.path / "lock").open() as file:
                return None if _locked(file, fcntl.LOCK_SH) else _owner(file)
        except OSError:
            return None

    def can_lock(self) -> bool:
        """Whether the folder's disk can lock files, so that `driver` sees who drives it."""
        try:
            with (self.path / "lock").open() as file:
                _locked(file, fcntl.LOCK_SH)
        except OSError as error:
            return error.errno not in NO_LOCKS
        return True

    def _refuse_foreign(self) -> None:
        """InputError where the folder is not of a run and holds something."""
        if not (self.path / "run.json").exists():
            foreign = sorted(entry.name for entry in self.path.iterdir() if not HARMLESS.fullmatch(entry.name))
            if foreign:
                raise InputError(f"{self.path}: holds other files ({foreign[0]}, ...); choose an empty --out")

    def begin(self, recipe: Recipe, name: str, command: str, storage: str | None = None) -> None:
        """Makes the folder that of a run with this recipe; InputError where it is something else already.

        A run that only goes on further (more candidates, minutes, ...) keeps its name and command. storage: the URL of
        a database to keep the record in; among the studies there it gets a name that no other run has.
        """
        self._sweep()
        if (self.path / "run.json").exists():
            changed = differences(self.recipe(), recipe)
            if changed:
                more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
                raise InputError(
                    f"{self.path}: was made by another recipe: {changed[0]}{more}; "
                    "choose another --out, or (for a search) --fresh"
                )
            self.refuse_other_storage(storage)
            write_json(self.path / "run.json", {**self.facts(), "recipe": recipe.model_dump(mode="json")})
            return
        self._refuse_foreign()
        study = f"{self.path.resolve().name}-{secrets.token_hex(4)}"
        write_json(
            self.path / "run.json",
            {
                "name": name,
                "command": command,
                "started": time.strftime("%Y-%m-%d %H:%M:%S"),
                **({"storage": storage, "study": study} if storage else {}),
                "recipe": recipe.model_dump(mode="json"),
            },
        )

    def _sweep(self) -> None:
        """Takes away what writers left under temporary names when they were killed."""
        for file in [*self.path.rglob(".*.part"), *self.path.rglob(".*.old")]:
            with suppress(FileNotFoundError):  # its writer lives on another host, and has just renamed it
                gone = is_left_behind(file.name)
                if gone or (gone is None and time.time() - file.stat().st_mtime > FORGOTTEN_S):
                    shutil.rmtree(file) if file.is_dir() else file.unlink()

    def move_aside(self) -> Path | None:
        """Renames the folder of an earlier run to a name of its own; never deletes. None where there was none."""
        if not (self.path / "run.json").exists():
            return None
        stamp, whole_path = time.strftime("%Y%m%d-%H%M%S"), self.path.resolve()
        # A driven run must not be pulled from under its driver; by the folder's own lock, whatever the record has.
        with only_driver(self.path / "lock", self.path):
            for attempt in range(1000):
                aside = whole_path.with_name(f"{whole_path.name}.{stamp}" + (f".{attempt}" if attempt else ""))
                if not aside.exists():
                    whole_path.rename(aside)
                    return aside
        raise InputError(f"{self.path}: found no free name to move it to")


@contextmanager
def only_driver(lock: Path, what: object, *, needed: bool = True) -> Iterator[None]:
    """Holds a lock file, which names this process; InputError says who drives `what` where another holds it.

    Also, where it is needed, on a disk without locks, as some shared ones: two drivers would write over each other.
    """
    with lock.open("a+") as file:
        try:
            ours = _locked(file, fcntl.LOCK_EX, attempts=3)
        except OSError as error:
            if needed or error.errno not in NO_LOCKS:
                raise InputError(
                    f"{what}: lies on a disk that locks no files ({error.strerror}); choose another, or begin a run "
                    "whose record is kept apart by --storage"
                ) from None
            ours = True
        if not ours:
            file.seek(0)
            raise InputError(f"{what}: is being driven by {_owner(file)}; wait for it, or stop it first")
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        yield


def _locked(file: TextIO, kind: int, attempts: int = 1) -> bool:
    """Locks an open file; False where another process has it. Repeated, since `driver` holds the lock for a moment."""
    for attempt in range(attempts):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if attempt < attempts - 1:
                time.sleep(0.05)
    return False


def _owner(file: TextIO) -> str:
    return " ".join(file.read().split()) or "another process"
