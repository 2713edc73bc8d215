"""Files that are whole or absent: written under a temporary name beside the target, then renamed."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes UTF-8 text so that a reader of `path` sees the old file or the new one, never a part.

    Raises OSError (disk full, no permission); the old file is then untouched and the temporary one gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
