"""An object store that speaks S3's protocol, on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from moto.server import DomainDispatcherApplication, create_backend_app
from pyarrow import fs
from werkzeug.serving import WSGIRequestHandler, make_server

FAULTS = 10
"""Of so many requests, one is answered with an error."""


class _Quiet(WSGIRequestHandler):
    def log_request(self, *arguments: object) -> None:
        pass


@contextmanager
def object_store(monkeypatch, bucket: str) -> Iterator[fs.S3FileSystem]:
    """A file system on a new bucket of a server that fails every tenth request; `s3://` URLs lead to it meanwhile."""
    store, count = DomainDispatcherApplication(create_backend_app), 0

    def faulty(environ, start_response):
        nonlocal count
        count += 1
        if count % FAULTS:
            return store(environ, start_response)
        start_response("503 Service Unavailable", [("Content-Length", "0")])
        return [b""]

    server = make_server("127.0.0.1", 0, faulty, threaded=True, request_handler=_Quiet)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.port}"
    access = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**access, "AWS_ENDPOINT_URL": address, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    try:
        system = fs.S3FileSystem(endpoint_override=address, allow_bucket_creation=True)
        system.create_dir(bucket)
        yield system
        assert count >= FAULTS, "no request has failed"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
