"""An exported page on this machine, to try it before it goes to a real host."""

import errno
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from featherbone.errors import BadOption
from featherbone.progress import say

TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}
NEEDED = ("index.html", "featherbone.json")
REASONS = {errno.EADDRINUSE: "another program has it", errno.EACCES: "it needs the rights of root"}


class Handler(SimpleHTTPRequestHandler):
    """Files of one folder, with the headers that let WASM use several threads; quiet, and without listings."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, **TYPES}  # noqa: RUF012 - as its base has it

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def send_head(self) -> Any:
        """The file of the request, unless a link leads out of the folder."""
        inside = Path(self.translate_path(self.path)).resolve().is_relative_to(Path(self.directory).resolve())
        if inside:
            return super().send_head()
        self.send_error(404)
        return None

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def open_server(folder: Path, host: str = "127.0.0.1", port: int = 8000) -> ThreadingHTTPServer:
    """A server of the folder that holds its port already; port 0 takes a free one. Raises `BadOption`."""
    for name in NEEDED:
        if not (folder / name).is_file():
            raise BadOption(f"{folder}: no {name} there; give a folder that featherbone export --to web wrote")
    if not 0 <= port <= 65535:
        raise BadOption(f"port {port} is outside 0 to 65535; 8000 is usual, 0 takes a free one")
    try:
        return ThreadingHTTPServer((host, port), partial(Handler, directory=str(folder)))
    except OSError as error:
        why = REASONS.get(error.errno or 0, error.strerror or str(error))
        raise BadOption(f"{host}:{port} cannot be served ({why}); try --port 0, which takes a free one") from None


def serve_web(folder: Path, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve an exported page until Ctrl-C. By default only this machine reaches it.

    Raises `BadOption` for a folder without a page, and for a port that cannot be had.
    """
    with open_server(folder, host, port) as server:
        say(f"{folder} at http://{'127.0.0.1' if host == '0.0.0.0' else host}:{server.server_port}/", "serving")
        say("Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
