"""Where the record of a run is kept: `study.db` in its folder, or the database that `--storage` named at its start."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from urllib.parse import parse_qsl, urlsplit

from ..search.study import Record
from ..spaces import InputError, Space
from .folder import SQLITE, RunFolder, Storage, only_driver

POSTGRESQL = "postgresql+psycopg"
WANTED = "postgresql+psycopg://USER@HOST/DATABASE, or sqlite:////FILE"


def usable(url: str | None) -> str | None:
    """The URL of `--storage` as it is kept, once its database answers; InputError in one line, never with a password.

    A password in it would stand in run.json and in the list of processes: PGPASSWORD or ~/.pgpass have it.
    """
    if url is None:
        return None
    scheme, colon, rest = url.partition("://")
    family, _, driver = scheme.partition("+")
    if not colon or family not in ("sqlite", "postgresql", "postgres"):
        raise InputError(f"--storage: is not a database that a record can be kept in; give it {WANTED}")
    if family == "sqlite" and driver:
        raise InputError(f"--storage: SQLite is spoken to by Python's own sqlite3, not {driver}; give it {WANTED}")
    if family == "sqlite":
        return _sqlite(rest)
    if driver not in ("", "psycopg"):
        raise InputError(f"--storage: PostgreSQL is spoken to by psycopg, not {driver}; give it {WANTED}")
    try:
        parts = urlsplit(f"{POSTGRESQL}://{rest}")
        secret = parts.password is not None or any("password" in name for name, _ in parse_qsl(parts.query))
        _ = parts.port  # ValueError where it is none
    except ValueError:  # which may quote a part of a password
        raise InputError(f"--storage: is not a URL that can be read; give it {WANTED}") from None
    if secret:
        raise InputError("--storage: must not hold a password; set PGPASSWORD, or write it into ~/.pgpass")
    if not parts.path.strip("/"):
        raise InputError(f"--storage: names no database; give it {WANTED}")
    _postgresql().try_out(parts.geturl())
    return parts.geturl()


def _sqlite(rest: str) -> str:
    """The URL of a SQLite file, its path made absolute."""
    if not rest.startswith("/") or rest == "/" or rest.endswith(":memory:") or "?" in rest:
        raise InputError("--storage: a SQLite record is a file, sqlite:////FILE, without options")
    path = Path(rest[1:]).resolve()
    if not path.parent.is_dir():
        raise InputError(f"--storage: {path.parent} is not a folder")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"--storage: {path} cannot be written")
    try:
        # Of what is no database SQLite hears when it reads; an empty or absent file is one without tables.
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            database.execute("pragma schema_version").fetchone()
    except sqlite3.Error as error:
        if path.exists():
            raise InputError(f"--storage: {path} is not a SQLite file ({error})") from None
    return f"{SQLITE}{path}"


@contextmanager
def driven(folder: RunFolder, objectives: Sequence[str], space: Space | None = None) -> Iterator[Record]:
    """The record of a run, to write. The folder is locked already, which keeps other drivers out of its own file.

    A database elsewhere has a lock of its own, for a folder may be copied, and on a network disk the folder's lock
    need not reach other hosts. InputError where another driver has it; RunFailed where the database fails meanwhile.
    """
    kept = folder.storage()
    if is_postgresql(kept):
        postgresql = _postgresql()
        with postgresql.driving(kept.url, kept.study) as engine:
            with postgresql.refusing(kept.url):
                record = Record(kept.url, objectives, space, study=kept.study, engine=engine)
                postgresql.opened(engine)
            with closing(record):
                yield record
        return
    file = kept.url.removeprefix(SQLITE)
    with (
        nullcontext() if kept.url == folder.url else only_driver(Path(f"{file}.lock"), file),
        closing(Record(kept.url, objectives, space, study=kept.study)) as record,
    ):
        yield record


@contextmanager
def read(folder: RunFolder, objectives: Sequence[str], space: Space | None = None) -> Iterator[Record]:
    """The record of a run as it stands, to read, whoever drives it meanwhile; InputError where there is none yet."""
    kept = folder.storage()
    with _postgresql().reading(kept.url) if is_postgresql(kept) else _copy_of(folder, kept) as (url, engine):
        try:
            record = Record(url, objectives, space, study=kept.study, engine=engine, reading=True)
        except KeyError:
            raise InputError(f"{folder.path}: has no record yet ({kept.url})") from None
        with closing(record):
            yield record


def is_postgresql(kept: Storage) -> bool:
    """Whether a record is kept in PostgreSQL."""
    return kept.url.startswith(f"{POSTGRESQL}:")


@contextmanager
def _copy_of(folder: RunFolder, kept: Storage) -> Iterator[tuple[str, None]]:
    """A copy of a SQLite file, for the time of reading: an open reader would make its driver fail."""
    database = Path(kept.url.removeprefix(SQLITE))
    if not database.exists():
        raise InputError(f"{folder.path}: has no record yet ({database.name})")
    with tempfile.TemporaryDirectory(prefix="paretosr-") as place:
        copy = Path(place) / "study.db"
        try:
            with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
        except sqlite3.DatabaseError as error:
            raise InputError(f"{database}: is not the record of a run: {error}") from None
        yield f"{SQLITE}{copy}", None


def _postgresql() -> ModuleType:
    """The module that speaks to PostgreSQL, which not everybody has the driver for."""
    try:
        from . import postgresql
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise InputError(
            "PostgreSQL needs psycopg, which is not installed; pip install 'paretosr[postgresql]'"
        ) from None
    return postgresql
