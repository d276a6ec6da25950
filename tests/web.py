"""A small HTTP server of files, with the faults of the web."""

import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """Contents by path, and what is wrong with the server."""

    def __init__(self):
        self.files = {}
        self.requests = []
        """Path and Range of each request."""
        self.cut = None
        """Bytes after which the next answer ends."""
        self.ranges = True
        self.address = ""


@contextmanager
def serving():
    """A server on this machine while inside the block; its `Site`."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name, asked = self.path.lstrip("/"), self.headers.get("Range")
            site.requests.append((name, asked))
            if name not in site.files:
                self.send_error(404)
                return
            content = site.files[name]
            first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and site.ranges else 0
            if first >= len(content) > 0:
                self.send_error(416)
                return
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            cut, site.cut = site.cut, None
            with suppress(ConnectionError):  # the client had enough
                self.wfile.write(content[first : first + cut if cut is not None else None])

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
