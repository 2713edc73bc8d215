"""`paretosr dashboard`: a run in optuna-dashboard, from a copy in memory that no driver ever notices."""

from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from rich.console import Console

from ..search.study import for_dashboard
from ..spaces import InputError
from .inspection import open_run


class Server(ThreadingMixIn, WSGIServer):
    """A server that lets nobody wait for another: browsers hold connections open. It ends with the process."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Without a look for the host's name, which can take half a minute where no name server answers."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class Quiet(WSGIRequestHandler):
    """Says nothing of requests that went well."""

    def log_message(self, format: str, *args: Any) -> None: ...


def dashboard(path: Path, host: str, port: int, console: Console) -> None:
    """Serves optuna-dashboard on a copy of the run's study until a signal; port 0: any that is free.

    What it shows is the run as it stood at the start.
    """
    try:
        import optuna_dashboard  # not before it is asked for: it need not be installed
    except ModuleNotFoundError as error:
        if error.name != "optuna_dashboard":
            raise
        words = "optuna-dashboard is not installed; pip install 'paretosr[dashboard]'"
        raise InputError(words) from None
    with open_run(path) as (_, _, record):
        storage = for_dashboard(record)
        shown = len(record.candidates)
    try:
        server = make_server(host, port, optuna_dashboard.wsgi(storage), Server, Quiet)  # type: ignore[arg-type]
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error.strerror}; choose another") from None
    with server:
        where = f"http://{host}:{server.server_port}/dashboard"
        console.print(f"{path}: {shown} candidates, as they are now, at {where}", soft_wrap=True)
        console.print("Ctrl-C ends it.")
        server.serve_forever()
