"""A server on this machine that speaks the part of the hub's protocol that reading and writing repositories needs."""

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKENS = {"Bearer hf_writer": "write", "Bearer hf_reader": "read"}
LARGE = (".safetensors", ".bin")
"""Endings of files that are stored by their SHA-256."""


@dataclass
class Hub:
    """Repositories, what was asked for, and the faults of the next answers."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    cut: int = 0
    """Number of downloads of a large file that end in the middle."""
    damage: bool = False
    """A large file arrives with another byte."""
    endpoint: str = ""

    def commit(self, name):
        """The revision of a repository: it changes with the files."""
        content = "".join(f"{file}{hashlib.sha1(x).hexdigest()}" for file, x in sorted(self.repositories[name].items()))
        return hashlib.sha1(content.encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    def answer(self, value=None, status=200, headers=None, content=None):
        body = json.dumps(value).encode() if content is None else content
        self.send_response(status)
        for key, text in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code="", text=""):
        self.answer({"error": text}, status, {"X-Error-Code": code, "X-Error-Message": text})

    @property
    def right(self):
        return TOKENS.get(self.headers.get("Authorization", ""))

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.hub.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        if found := re.match(r"/api/models/(.+?)/(revision|tree)/([^/?]+)", self.path):
            name, what, revision = found.groups()
            if self.may_read(name, revision):
                self.answer(self.describe(name, what))
        elif found := re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
            name, revision, file = found.groups()
            if self.may_read(name, revision):
                self.send_file(name, file)
        else:
            self.refuse(404)

    def may_read(self, name, revision):
        if name in self.hub.gated:
            self.refuse(403, "GatedRepo", "Access to this model is restricted")
        elif name not in self.hub.repositories or (name in self.hub.private and not self.right):
            self.refuse(404 if self.right else 401, "RepoNotFound", "Repository not found")
        elif revision not in ("main", self.hub.commit(name)):
            self.refuse(404, "RevisionNotFound", "Invalid rev id")
        else:
            return True
        return False

    def describe(self, name, what):
        files, commit = self.hub.repositories[name], self.hub.commit(name)
        if what == "revision":
            return {
                "_id": "0",
                "id": name,
                "modelId": name,
                "sha": commit,
                "siblings": [{"rfilename": f} for f in files],
            }
        return [
            {"type": "file", "path": file, "size": len(x), "oid": hashlib.sha1(x).hexdigest()}
            | (
                {"lfs": {"oid": hashlib.sha256(x).hexdigest(), "size": len(x), "pointerSize": 134}}
                if file.endswith(LARGE)
                else {}
            )
            for file, x in files.items()
        ]

    def send_file(self, name, file):
        content = self.hub.repositories[name].get(file)
        if content is None:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        large = file.endswith(LARGE)
        etag = hashlib.sha256(content).hexdigest() if large else hashlib.sha1(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.commit(name), "Accept-Ranges": "bytes"}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        if large and self.hub.damage:
            content = content[:-1] + bytes([content[-1] ^ 1])
        status, total = 200, len(content)
        if found := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(found[1])
            status, content = 206, content[start:]
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        if large and self.hub.cut and self.command == "GET":
            self.hub.cut -= 1
            headers["Content-Length"] = str(len(content))
            self.close_connection = True
            content = content[: len(content) // 2]
        self.answer(status=status, headers=headers, content=content)

    def do_PUT(self):
        content = self.read()
        self.hub.blobs[hashlib.sha256(content).hexdigest()] = content
        self.answer({})

    def do_POST(self):
        self.hub.requests.append(f"POST {self.path}")
        body = self.read()
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.right != "write":
            return self.refuse(
                403 if self.right else 401, "", "You don't have the rights" if self.right else "Invalid token"
            )
        if self.path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}"
            exists = name in self.hub.repositories
            self.hub.repositories.setdefault(name, {})
            if given.get("visibility") == "private" or given.get("private"):
                self.hub.private.add(name)
            return self.answer({"url": f"{self.hub.endpoint}/{name}", "name": name}, 409 if exists else 200)
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular"} for f in files
            ]
            return self.answer({"files": [mode | {"shouldIgnore": False} for mode in modes]})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            action = {"upload": {"href": f"{self.hub.endpoint}/blobs", "header": {}}}
            return self.answer({"transfer": "basic", "objects": [{**one, "actions": action} for one in objects]})
        if found := re.match(r"/api/models/(.+)/commit/main", self.path):
            files = self.hub.repositories[found[1]]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    files[line["value"]["path"]] = self.hub.blobs[line["value"]["oid"]]
            commit = self.hub.commit(found[1])
            return self.answer(
                {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.endpoint}/{found[1]}/commit/{commit}"}
            )
        return self.refuse(404)

    def read(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))


@contextmanager
def serving():
    """A hub without repositories, at its `endpoint`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
