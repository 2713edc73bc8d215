"""Files that are whole or absent (written under a temporary name beside the target, then renamed), and the cache."""

import errno
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to; on leaving it takes the place of `path`, on an error it is gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{writer()}.part")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write says which disk only through the file
        raise


def writer() -> str:
    """A name for one act of writing, `4711@host@5f3a9c01`: on a shared disk writers of two hosts may have one pid.

    The last part is chance, for containers may share even the name of their host.
    """
    return f"{os.getpid()}@{this_host()}@{secrets.token_hex(4)}"


def is_left_behind(name: str) -> bool | None:
    """Whether the writer in a temporary file's name (`.target.WRITER.part`) is gone; None where only its host knows."""
    pid, _, host = name.split(".")[-2].partition("@")
    if host and host.rpartition("@")[0] != this_host():
        return None
    return pid.isdigit() and not Path(f"/proc/{pid}").exists()


def this_host() -> str:
    """The name of this host, fit for file names, without dots."""
    return socket.gethostname().replace(".", "_").replace("/", "_").replace("@", "_")


def cache_folder() -> Path:
    """Where to keep what can be made again: the folder that PARETOSR_CACHE names, or one in the home folder."""
    return Path(os.environ.get("PARETOSR_CACHE") or "~/.cache/paretosr").expanduser()


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes bytes, whole or not at all; a full disk is an OSError, which the writers of torch and safetensors hide."""
    with whole(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1))


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that of a disk (or a quota) without room; SQLite's included."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "disk is full" in str(error) or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
