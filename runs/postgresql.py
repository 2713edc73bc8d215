"""PostgreSQL in place of a run's `study.db`: the one connection of a driver, which has the study for itself.

The driver writes through the very session that holds an advisory lock on its study. So there is no moment at which a
driver has lost the lock and still writes: with the connection both are gone, and it is never made anew.
"""

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.pool import StaticPool

from ..search.engine import RunFailed
from ..spaces import InputError

CONNECT_S = 10
ATTEMPTS, PAUSE_S = 20, 0.1  # at the lock: the server needs a moment to notice that a killed driver is gone
# A host or a network that is gone without a word is noticed, on both sides, within about a minute.
IDLE_S, INTERVAL_S, PROBES = 30, 10, 3
TABLES = "paretosr: the tables"  # the lock on making them, which two runs may want at the same time
LONGEST_NAME = 63  # bytes that PostgreSQL keeps of an application's name
OWNER = """
    select application_name, to_char(backend_start, 'YYYY-MM-DD HH24:MI:SS')
    from pg_locks join pg_stat_activity using (pid)
    where locktype = 'advisory' and granted and objsubid = 1 and pg_locks.classid = %s and pg_locks.objid = %s
    and pg_locks.database = (select oid from pg_database where datname = current_database())
"""

Engine = dict[str, Any]  # what SQLAlchemy is to be told of a connection that is there already


def try_out(url: str) -> None:
    """InputError where the database cannot be reached now."""
    _connect(url).close()


@contextmanager
def driving(url: str, study: str) -> Iterator[Engine]:
    """The connection of a study's one driver; InputError where there is another, wherever it runs.

    What goes wrong with the database inside is a RunFailed: all that was recorded is safe.
    """
    connection, key = _connect(url), _key(study)
    try:
        with refusing(url):
            for setting, value in (("idle", IDLE_S), ("interval", INTERVAL_S), ("count", PROBES)):  # the server's side
                connection.execute("select set_config(%s, %s, false)", [f"tcp_keepalives_{setting}", str(value)])
            if not _locked(connection, key):
                owner = _owner(connection, key)
                raise InputError(f"{url}: study {study} is being driven by {owner}; wait for it, or stop it first")
            connection.execute("select pg_advisory_lock(%s)", [_key(TABLES)])
            connection.commit()  # or the settings would be undone by the next rollback; the locks stay in any case
        try:
            yield _engine(connection)
        except Exception as error:
            cause = _cause(error)
            if cause is None:
                raise
            raise RunFailed(f"{url}: {_line(cause)}; what is recorded is safe, the same command goes on") from error
    finally:
        connection.close()


def opened(engine: Engine) -> None:
    """Lets others make their tables, now that those of this driver are there."""
    connection = engine["creator"]()
    connection.execute("select pg_advisory_unlock(%s)", [_key(TABLES)])
    connection.commit()


@contextmanager
def reading(url: str) -> Iterator[tuple[str, Engine]]:
    """The URL and a connection that can only read, and locks nothing; InputError for what goes wrong inside."""
    connection = _connect(url)
    connection.read_only = True
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    try:
        with refusing(url):
            yield url, _engine(connection)
    finally:
        connection.close()


@contextmanager
def refusing(url: str) -> Iterator[None]:
    """Makes an InputError of what goes wrong with the database inside."""
    try:
        yield
    except Exception as error:
        cause = _cause(error)
        if cause is None:
            raise
        empty = isinstance(cause, psycopg.errors.UndefinedTable)
        raise InputError(f"{url}: {'has no record yet' if empty else _line(cause)}") from error


def _connect(url: str) -> psycopg.Connection[Any]:
    """A connection as SQLAlchemy would make it; InputError in one line where there can be none."""
    dialect = create_engine(url).dialect
    dialect.dbapi = dialect.import_dbapi()
    words, given = dialect.create_connect_args(make_url(url))
    settings = {
        "connect_timeout": CONNECT_S,
        "keepalives_idle": IDLE_S,
        "keepalives_interval": INTERVAL_S,
        "keepalives_count": PROBES,
        "tcp_user_timeout": 1000 * (IDLE_S + INTERVAL_S * PROBES),
        "application_name": _me(),
    }
    with refusing(url):
        return dialect.connect(*words, **{**settings, **given})  # type: ignore[return-value]


def _engine(connection: psycopg.Connection[Any]) -> Engine:
    def creator() -> psycopg.Connection[Any]:
        if connection.closed:
            raise psycopg.OperationalError("the connection to the database is lost")
        return connection

    return {"creator": creator, "poolclass": StaticPool}


def _cause(error: BaseException | None) -> psycopg.Error | None:
    """The database's own error that an error came of, None where it came of something else."""
    while error is not None and not isinstance(error, psycopg.Error):
        error = error.__cause__ or error.__context__
    return error


def _line(error: psycopg.Error) -> str:
    """What the database said, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


# ---- the lock


def _key(name: str) -> int:
    """The number of a lock, of 64 bits with a sign."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


def _locked(connection: psycopg.Connection[Any], key: int) -> bool:
    for attempt in range(ATTEMPTS):
        (locked,) = connection.execute("select pg_try_advisory_lock(%s)", [key]).fetchone() or (False,)
        if locked:
            return True
        if attempt < ATTEMPTS - 1:
            time.sleep(PAUSE_S)
    return False


def _owner(connection: psycopg.Connection[Any], key: int) -> str:
    """Who has the lock: "pid 4711 on host since ..."."""
    found = connection.execute(OWNER, [key >> 32 & 0xFFFFFFFF, key & 0xFFFFFFFF]).fetchone()
    name, since = found or (None, None)
    return f"{(name or '').removeprefix('paretosr ') or 'another process'} since {since or 'a while'}"


def _me() -> str:
    """The name by which the server knows this process."""
    return f"paretosr pid {os.getpid()} on {socket.gethostname()}".encode()[:LONGEST_NAME].decode(errors="ignore")
