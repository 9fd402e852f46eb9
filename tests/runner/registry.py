"""A registry of one image, as engines speak to it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import docker

_TYPES = "application/vnd.docker"
MANIFEST = f"{_TYPES}.distribution.manifest.v2+json"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Registry:
    """Serves an image under any name, tag ``1``. ``pulls``: how often its layer was fetched."""

    def __init__(self, engine: docker.DockerClient, image: str) -> None:
        config, layer = _parts(engine, image)
        packed = gzip.compress(layer, 1)
        self.blobs = {digest_of(config): config, digest_of(packed): packed}
        described = [
            {"mediaType": f"{_TYPES}.{kind}", "size": len(data), "digest": digest_of(data)}
            for kind, data in (
                ("container.image.v1+json", config),
                ("image.rootfs.diff.tar.gzip", packed),
            )
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described[0],
            "layers": described[1:],
        }
        self.manifest = json.dumps(manifest).encode()
        self.layer = digest_of(packed)
        self.pulls = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def name(self) -> str:
        """What its images are called before the repository's name."""
        return f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def find(self, path: str) -> tuple[bytes, str] | None:
        """What is at a path, and its type."""
        last = path.rpartition("/")[2]
        if path == "/v2/":
            return b"{}", "application/json"
        if "/manifests/" in path and last in ("1", digest_of(self.manifest)):
            return self.manifest, MANIFEST
        if "/blobs/" in path and last in self.blobs:
            self.pulls += last == self.layer
            return self.blobs[last], "application/octet-stream"
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                found = registry.find(self.path)
                unknown = json.dumps(
                    {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
                )
                data, kind = found or (unknown.encode(), "application/json")
                self.send_response(404 if found is None else 200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Docker-Content-Digest", digest_of(data))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _parts(engine: docker.DockerClient, image: str) -> tuple[bytes, bytes]:
    """The configuration and the only layer of an image."""
    saved = b"".join(engine.images.get(image).save())
    with tarfile.open(fileobj=io.BytesIO(saved)) as tar:

        def read(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file is not None
            return file.read()

        (facts,) = json.loads(read("manifest.json"))
        (layer,) = facts["Layers"]
        return read(facts["Config"]), read(layer)
