"""What the server of an exported page answers, and what it does not."""

import http.client
import os
import socket
import threading
from contextlib import closing, contextmanager
from http.server import ThreadingHTTPServer

import pytest

from featherbone.errors import BadOption
from featherbone.exporters.serve import Handler, open_server, serve_web


@contextmanager
def served(folder, host="127.0.0.1"):
    with open_server(folder, host, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def folder(tmp_path):
    page = tmp_path / "page"
    (page / ".git").mkdir(parents=True)
    (page / "folder").mkdir()
    for name in ("index.html", "featherbone.json", "ort.mjs", "ort.wasm", ".env", ".git/config"):
        (page / name).write_text(name)
    (tmp_path / "secret").write_text("secret")
    (page / "link").symlink_to(tmp_path / "secret")
    (page / "inside").symlink_to(page / "index.html")
    (page / "hidden").symlink_to(page / ".env")
    os.mkfifo(page / "pipe")
    return page


def ask(port, path, method="GET", host="localhost"):
    """Status, body and headers; `path` and `host` go out as they are."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as stream:
        line = "" if host is None else f"Host: {host}\r\n"
        stream.sendall(f"{method} {path} HTTP/1.0\r\n{line}\r\n".encode("latin-1"))
        with closing(http.client.HTTPResponse(stream, method=method)) as response:
            response.begin()
            return response.status, response.read().decode(), response.headers


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/", 200), ("/featherbone.json", 200), ("/featherbone.json?a#b", 200), ("/inside", 200), ("/none", 404)),
        *(("/%00", 404), ("/a%00b", 404), ("/\0", 404), ("/%ff%fe", 404), ("/" + "a" * 5000, 404), ("/pipe", 404)),
        *(("/.env", 404), ("/%2eenv", 404), ("/.git/config", 404), ("/.git/", 404), ("/hidden", 404), ("/.none", 404)),
        ("/folder/", 404),
        *(("/../secret", 404), ("/%2e%2e/secret", 404), ("/..%2fsecret", 404), ("//secret", 404), ("/link", 404)),
    ],
)
def test_files_of_the_folder_are_served_and_nothing_else(folder, path, status, capsys):
    with served(folder) as port:
        for method in ("GET", "HEAD"):
            found, body, _ = ask(port, path, method)
            assert found == status and "secret" not in body
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", None, "localhost@evil", "[", "a:b:c"])
def test_another_host_is_refused(folder, host, capsys):
    with served(folder) as port:
        assert ask(port, "/featherbone.json", host=host)[0] == 403
        for own in ("localhost", f"localhost:{port}", "127.0.0.1:80", "[::1]", "LOCALHOST"):
            assert ask(port, "/featherbone.json", host=own)[0] == 200
    assert capsys.readouterr().err == ""


def test_a_server_that_is_open_to_all_answers_by_any_name(folder):
    with served(folder, "0.0.0.0") as port:
        assert ask(port, "/", host="board.local")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT"])
def test_only_reading_is_served(folder, method):
    with served(folder) as port:
        assert ask(port, "/", method)[0] == 501


def test_a_request_that_does_not_arrive_is_given_up(folder, monkeypatch):
    monkeypatch.setattr(Handler, "timeout", 0.2)
    with served(folder) as port, socket.create_connection(("127.0.0.1", port), timeout=20) as stream:
        stream.sendall(b"GET / HT")
        assert stream.recv(1) == b""


def test_files_have_their_types_and_may_run_in_threads(folder):
    with served(folder) as port:
        _, _, headers = ask(port, "/ort.mjs")
        assert headers["Content-Type"] == "text/javascript"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert ask(port, "/ort.wasm")[2]["Content-Type"] == "application/wasm"


def test_what_cannot_be_served_is_refused(folder, tmp_path):
    for port in (-1, 70_000):
        with pytest.raises(BadOption, match="outside 0 to 65535"):
            serve_web(folder, port=port)
    with served(folder) as port, pytest.raises(BadOption, match=r"another program uses it.*--port 0"):
        serve_web(folder, port=port)
    with pytest.raises(BadOption, match=r"no index\.html there.*--to web"):
        serve_web(tmp_path)


def test_serving_ends_quietly(folder, monkeypatch, capfd):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", interrupt)
    serve_web(folder, port=0)
    assert "http://127.0.0.1:" in capfd.readouterr().err
