"""What takes long with environments: ``env create pack import adopt prefetch``, and how far it is."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any, BinaryIO

from hakuriver import environments, units
from hakuriver.cli import env, output, several
from hakuriver.cli.commands import Verb
from hakuriver.cli.context import Context
from hakuriver.cli.parsing import typed
from hakuriver.cli.progress import SILENCE, Progress, broken_off, error_of, follow, lines
from hakuriver.errors import HakuRiverError, NotFound, UsageError
from hakuriver.paths import host_path


def _create_options(parser: argparse.ArgumentParser) -> None:
    env.name_option(parser)
    parser.add_argument(
        "image", nargs="?", metavar="IMAGE", help="default: the environment's current version"
    )


def create(context: Context, options: argparse.Namespace) -> int:
    """Make an environment's container from an image, which is pulled when it isn't there, and start it."""
    name = environments.check_name(options.name)
    found = follow(context, host_path("create"), {"name": name, "image": options.image})
    return _made(context, found, "its container runs", f"hakuriver env shell {name}")


def _pack_options(parser: argparse.ArgumentParser) -> None:
    env.name_option(parser)
    _note_option(parser)


def _note_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-m", "--note", default="", metavar="NOTE", help="what is new, for the list of versions"
    )


def pack(context: Context, options: argparse.Namespace) -> int:
    """Make a version of an environment's container: new tasks get it, on every node."""
    found = follow(context, env.path("pack", options.name), {"note": options.note})
    return _packed(context, found)


def _import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tar", metavar="TAR", help="what docker save, or an earlier HakuRiver, wrote")
    parser.add_argument("--name", metavar="ENV", help="default: as the file's name says, ENV-TIME.tar")
    _note_option(parser)


def import_tar(context: Context, options: argparse.Namespace) -> int:
    """Make a version of a tarball: checked, and without any name that it would give to images."""
    source = Path(options.tar)
    named = environments.parse_tarball(source.name)
    if options.name is None and named is None:
        raise UsageError(
            f"the name {source.name!r} doesn't tell the environment", hint="say which: --name ENV"
        )
    name = environments.check_name(options.name or (named.name if named else ""))
    with _opened(source) as file:
        upload = _Upload(file, Progress(context))
        headers = {"Content-Length": str(upload.size), "Content-Type": "application/octet-stream"}
        query = {"filename": source.name, "note": options.note or None}
        try:
            with context.client().open(
                "POST", env.path("import", name), query=query, body=upload, headers=headers, timeout=600
            ) as response:
                for line in lines(response):
                    if line["type"] == "error":
                        raise error_of(line)
                    if line["type"] == "done":
                        upload.progress.clear()
                        return _packed(context, line)
        finally:
            upload.progress.clear()
    raise broken_off()


def _opened(source: Path) -> BinaryIO:
    try:
        return source.open("rb")
    except FileNotFoundError:
        raise NotFound(f"there is no file {source}") from None
    except OSError as error:
        raise UsageError(f"{source} can't be read: {error.strerror}") from None


class _Upload:
    """A file as the body of a request, which says how far it is."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self.size = os.fstat(file.fileno()).st_size
        self.progress = progress
        self._file = file
        self._done = 0
        self._since = time.monotonic()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(max(size, 2**20) if size >= 0 else size)
        self._done += len(data)
        passed = time.monotonic() - self._since
        text = "sending it to the host" if self._done < self.size else "the host checks it"
        speed = self._done / passed if passed > 0 else None
        self.progress.show({"text": text, "done": self._done, "total": self.size, "speed": speed})
        return data


def _adopt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("container", metavar="CONTAINER", help="its name or id in the host's engine")
    parser.add_argument("--name", metavar="ENV", help="default: the container's name")


def adopt(context: Context, options: argparse.Namespace) -> int:
    """Make an environment like a container on the host; that one stays as it is."""
    name = environments.check_name(
        options.name or options.container.removeprefix(environments.container_name(""))
    )
    found = follow(context, env.path("adopt", name), {"container": options.container})
    return _made(context, found, "its container runs", f"hakuriver env pack {name}")


def _prefetch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("environment", type=typed(environments.parse_reference), metavar="ENV[@VERSION]")
    parser.add_argument(
        "--node", action="append", default=[], dest="nodes", metavar="N", help="may be repeated; default: all"
    )


def prefetch(context: Context, options: argparse.Namespace) -> int:
    """Load a version on nodes now, so that no task has to wait for it."""
    wanted = options.environment
    body = {"nodes": list(dict.fromkeys(options.nodes)), "version": wanted.version}
    shown = Progress(context)
    done: list[dict[str, Any]] = []
    errors: list[HakuRiverError] = []
    try:
        with context.client().open(
            "POST", env.path("prefetch", wanted.name), body=body, timeout=SILENCE
        ) as response:
            for line in lines(response):
                if line["type"] == "progress":
                    shown.show(line["work"], line.get("node"))
                    continue
                shown.clear()
                if line["type"] == "error":
                    error = error_of(line)
                    errors.append(type(error)(f"{line.get('node', '')}: {error.message}", hint=error.hint))
                    continue
                done.append({"node": line.get("node"), "environment": wanted.name} | _version_of(line))
                if not context.json:
                    node = output.shown(str(line.get("node")))
                    print(node if context.quiet else f"{node}: has {wanted.name}@{done[-1]['version']}")
    finally:
        shown.clear()
    if context.json and done:
        output.print_json(done)
    return several.outcome_code(context, len(done), errors)


def _version_of(line: dict[str, Any]) -> dict[str, Any]:
    return {"version": line["version"]["version"]} if line.get("version") else {"version": None}


def _made(context: Context, line: dict[str, Any], what: str, following: str) -> int:
    made = line["environment"]
    if context.json:
        output.print_json([made])
    elif context.quiet:
        print(output.shown(made["name"]))
    else:
        print(f"environment {output.shown(made['name'])}: {what}; next: {following}")
    _warn(line)
    return 0


def _packed(context: Context, line: dict[str, Any]) -> int:
    version = line["version"]
    if context.json:
        output.print_json([version])
    elif context.quiet:
        print(version["version"])
    else:
        size = units.format_size(version["size"])
        got = "new tasks get it" if version["current"] else "another one is newer, new tasks get that"
        print(
            f"environment {output.shown(version['environment'])}: version {version['version']}, {size}; {got}"
        )
    _warn(line)
    return 0


def _warn(line: dict[str, Any]) -> None:
    if line.get("warning"):
        output.say(str(line["warning"]))


VERBS = {
    "env create": Verb(create, _create_options, examples=("hakuriver env create torch python:3.12-slim",)),
    "env pack": Verb(pack, _pack_options, examples=("hakuriver env pack torch -m 'torch 2.4'",)),
    "env import": Verb(
        import_tar,
        _import_options,
        examples=("hakuriver env import torch-1700000000.tar", "hakuriver env import image.tar --name torch"),
    ),
    "env adopt": Verb(adopt, _adopt_options, examples=("hakuriver env adopt my-container --name torch",)),
    "env prefetch": Verb(
        prefetch,
        _prefetch_options,
        examples=(
            "hakuriver env prefetch torch",
            "hakuriver env prefetch torch@1767225600 --node n1 --node n2",
        ),
    ),
}
