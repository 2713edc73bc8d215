"""A real PostgreSQL server of its own for the tests, in a temporary folder; needs Debian's package `postgresql`."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

PASSWORD = "a password: 'quoted'"
USER = "postgres"


def programs() -> Path | None:
    """Where the newest server's programs are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class Server:
    """A server that can be stopped and started again, on a loopback port, with a password."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="paretosr-postgresql-"))
        # It refuses to run as root, and what runs as root may be a container: there the package has made it a user.
        self.as_user = ["runuser", "-u", USER, "--"] if os.getuid() == 0 else []
        if self.as_user:
            shutil.chown(self.folder, USER)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (self.folder / "password").write_text(PASSWORD)
        (self.folder / "password").chmod(0o644)
        data = ["-D", str(self.folder / "data")]
        self._run("initdb", *data, "-U", USER, "-A", "scram-sha-256", "--pwfile", str(self.folder / "password"), "-N")
        self.start()

    def start(self) -> None:
        """Starts it and waits until it answers."""
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-w", "-o", options, "start"
        )

    def stop(self) -> None:
        """Stops it at once; whoever is connected is thrown out."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", "fast", "stop")

    def database(self, name: str) -> str:
        """The URL of a new, empty database."""
        self.ask(f"create database {name}", "postgres")
        return self.url(name)

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{name}"

    def ask(self, query: str, database: str) -> list[str]:
        """The lines that a query gives."""
        words = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database, "-Atc", query]
        return self._run("psql", *words).splitlines()

    def close(self) -> None:
        """Stops it, and takes its folder away."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", "immediate", "stop", check=False)
        shutil.rmtree(self.folder)

    def _run(self, program: str, *words: str, check: bool = True) -> str:
        command = [*self.as_user, str(self.programs / program), *words]
        done = subprocess.run(
            command,
            cwd="/",
            env={**os.environ, "PGPASSWORD": PASSWORD},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, f"{program}: {done.stderr}{done.stdout}"
        return done.stdout
