"""An image for other machines is taken, and it is said."""

from __future__ import annotations

import json
from pathlib import Path

import docker

from tests.api.test_environments import working
from tests.unit.test_tarballs import sha, tar


def image(machine: str) -> bytes:
    layer = b"no files"
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{sha(layer)}"]}
    config = json.dumps({"architecture": machine, "os": "linux", "rootfs": rootfs}).encode()
    name = f"{sha(config)}.json"
    manifest = json.dumps([{"Config": name, "Layers": ["1/layer.tar"]}]).encode()
    return tar({"1/layer.tar": layer, name: config, "manifest.json": manifest})


async def test_the_last_line_of_an_import_warns_of_another_architecture(
    tmp_path: Path, engine: docker.DockerClient
) -> None:
    async with working(tmp_path, engine) as work:
        *_, last = await work.lines("import", image("s390x"))
        assert "version" in last
        assert last["warning"].startswith("the image is for linux/s390x, but this machine is linux/")
