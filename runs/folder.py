"""The folder of a run: where its files lie, who may write there, and what happens to a folder that is there already.

run.json          the recipe as it was understood, its name, the command; written first, once
study.db          the record (Optuna, SQLite)
lock              who drives the run: host, pid, time; held by flock, which dies with the process
status.json       what the run is doing, renewed after each event
candidates/00012/ training.json, timing.json, model.safetensors; state.pt while it is being trained
pruning/00012-.../ cut.safetensors, the weights just cut; cutting.pt while it is being cut
candidates.csv, report.html, winner/
"""

import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ..proxies.writing import write_json
from ..spaces import InputError
from .recipe import Recipe
from .recipe_file import differences, parse_recipe

HARMLESS = re.compile(r"lock|\..*\.part")  # what may lie in a folder that is not yet a run: one that died very young


class RunFolder:
    """Paths of a run; creates nothing by itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def url(self) -> str:
        """The study's database, as SQLAlchemy wants it; InputError for a path that a URL cannot hold."""
        if "?" in str(self.path.resolve()):
            raise InputError(f"{self.path}: the path of a run must not hold a '?'")
        return f"sqlite:///{self.path.resolve() / 'study.db'}"

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
        return parse_recipe(self.facts()["recipe"], str(self.path / "run.json"))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps every other driver out; InputError names the one that is there, or what else is in the way."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_foreign()
            file = (self.path / "lock").open("a+")
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise InputError(f"{self.path}: cannot be the folder of a run: {error.strerror}") from None
        with file:
            if not _locked(file, fcntl.LOCK_EX, attempts=3):
                file.seek(0)
                raise InputError(f"{self.path}: is being driven by {_owner(file)}; wait for it, or stop it first")
            file.truncate(0)
            file.write(f"pid {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
            file.flush()
            yield

    def driver(self) -> str | None:
        """Who drives the run now ("pid 4711 on host since ..."), None where nobody does."""
        try:
            with (self.path / "lock").open() as file:
                return None if _locked(file, fcntl.LOCK_SH) else _owner(file)
        except OSError:
            return None

    def _refuse_foreign(self) -> None:
        """InputError where the folder is not of a run and holds something."""
        if not (self.path / "run.json").exists():
            foreign = sorted(entry.name for entry in self.path.iterdir() if not HARMLESS.fullmatch(entry.name))
            if foreign:
                raise InputError(f"{self.path}: holds other files ({foreign[0]}, ...); choose an empty --out")

    def begin(self, recipe: Recipe, name: str, command: str) -> None:
        """Makes the folder that of a run with this recipe; InputError where it is something else already.

        A run that only goes on further (more candidates, minutes, ...) keeps its name and command.
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
            write_json(self.path / "run.json", {**self.facts(), "recipe": recipe.model_dump(mode="json")})
            return
        self._refuse_foreign()
        write_json(
            self.path / "run.json",
            {
                "name": name,
                "command": command,
                "started": time.strftime("%Y-%m-%d %H:%M:%S"),
                "recipe": recipe.model_dump(mode="json"),
            },
        )

    def _sweep(self) -> None:
        """Takes away what writers left under temporary names when they were killed."""
        for file in [*self.path.rglob(".*.part"), *self.path.rglob(".*.old")]:
            pid = file.name.split(".")[-2]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)

    def move_aside(self) -> Path | None:
        """Renames the folder of an earlier run to a name of its own; never deletes. None where there was none."""
        if not (self.path / "run.json").exists():
            return None
        stamp, whole_path = time.strftime("%Y%m%d-%H%M%S"), self.path.resolve()
        with self.lock():  # a driven run must not be pulled from under its driver
            for attempt in range(1000):
                aside = whole_path.with_name(f"{whole_path.name}.{stamp}" + (f".{attempt}" if attempt else ""))
                if not aside.exists():
                    whole_path.rename(aside)
                    return aside
        raise InputError(f"{self.path}: found no free name to move it to")


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
