"""A server for an exported page on this machine, to try it before publication."""

import errno
import re
import sys
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from featherbone.errors import BadOption
from featherbone.progress import notify

TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""The first three let WASM use several threads."""
HOST = r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?"
REASONS = {errno.EADDRINUSE: "another program uses it", errno.EACCES: "it needs root privileges"}


class Handler(SimpleHTTPRequestHandler):
    """Files of one folder; no log and no listings."""

    timeout = 30
    """Seconds that a client may take to send its request, and to receive the answer."""
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, **TYPES}  # noqa: RUF012 - as in the base class

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def send_head(self) -> Any:
        """The requested file, if it is in the folder, is not hidden, and `Host` is a name of this server.

        Another name in `Host` belongs to a page elsewhere whose owner directs it here (DNS rebinding).
        """
        assert isinstance(self.server, Server), "only open_server uses this class"
        host = self.headers.get("Host")
        name = urlsplit(f"//{host}").hostname if host and re.fullmatch(HOST, host) else None
        if name not in self.server.names and self.server.names[0] not in ("0.0.0.0", "::"):
            self.send_error(403, "Host is not this server")
            return None
        try:
            found = Path(self.translate_path(self.path)).resolve()
            inside = found.relative_to(Path(self.directory).resolve())
            hidden = any(part.startswith(".") for part in (*inside.parts, *unquote(self.path).split("/")))
            readable = not hidden and (found.is_file() or found.is_dir())  # a pipe would never end
        except (ValueError, OSError):  # outside of the folder, or not a path
            readable = False
        if not readable:
            self.send_error(404)
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Threads end with the process; clients that disconnect are not reported."""

    daemon_threads = True
    names: tuple[str, ...] = ()
    """Names that a request may give as `Host`; the first is the address that it listens on."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def open_server(folder: Path, host: str = "127.0.0.1", port: int = 8000) -> Server:
    """A server of the folder, bound to its port; port 0 chooses a free one. Raises `BadOption`."""
    for name in ("index.html", "featherbone.json"):
        if not (folder / name).is_file():
            raise BadOption(f"{folder}: no {name} there; give a folder that featherbone export --to web wrote")
    if not 0 <= port <= 65535:
        raise BadOption(f"port {port} is outside 0 to 65535; 8000 is usual, 0 chooses a free one")
    try:
        server = Server((host, port), partial(Handler, directory=str(folder)))
    except OSError as error:
        why = REASONS.get(error.errno or 0, error.strerror or str(error))
        raise BadOption(f"{host}:{port} cannot be served ({why}); try --port 0, which chooses a free one") from None
    server.names = (host.lower(), "localhost", "127.0.0.1", "::1")
    return server


def serve_web(folder: Path, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve an exported page until Ctrl-C. By default only this machine reaches it.

    Raises `BadOption` for a folder without a page, and for a port that is not available.
    """
    with open_server(folder, host, port) as server:
        notify(f"{folder} at http://{'127.0.0.1' if host == '0.0.0.0' else host}:{server.server_port}/", "serving")
        notify("press Ctrl-C to stop")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
