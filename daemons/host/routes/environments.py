"""Environments and their versions."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from daemons.common.web import Handler, Principal, read_body, validate
from daemons.host.context import Host
from daemons.host.environments.importing import Upload
from daemons.host.routes import query
from hakuriver.environments import MAX_VERSION, check_name
from hakuriver.errors import HakuRiverError, NotFound, UsageError
from hakuriver.wire import AdoptContainer, CreateEnvironment, PackRequest, RollbackRequest

_LINES = "application/x-ndjson"
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})?")
_MAX_NAME = 255
LINGER_SECONDS = 10.0
"""For so long an upload that was refused is still read, so that its sender gets to read why."""


def handlers(host: Host) -> dict[str, Handler]:
    """Handlers by route name."""
    environments = host.environments

    async def listed(request: Request, _: Principal) -> Response:
        query.check_names(request, ())
        return JSONResponse(environments.views())

    async def one(request: Request, _: Principal) -> Response:
        query.check_names(request, ())
        return JSONResponse(environments.view(_name(request)))

    async def create(request: Request, principal: Principal) -> Response:
        asked = await read_body(request, CreateEnvironment)
        return _lines(await environments.create(asked.name, asked.image, principal.subject))

    async def adopt(request: Request, principal: Principal) -> Response:
        asked = await read_body(request, AdoptContainer)
        return _lines(await environments.adopt(_name(request), asked.container, principal.subject))

    async def pack(request: Request, principal: Principal) -> Response:
        asked = await read_body(request, PackRequest)
        return _lines(await environments.pack(_name(request), asked.note, principal.subject))

    async def take(request: Request, principal: Principal) -> Response:
        return await _import(host, request, principal)

    async def start(request: Request, _: Principal) -> Response:
        return JSONResponse(await environments.start(_name(request)))

    async def stop(request: Request, _: Principal) -> Response:
        return JSONResponse(await environments.stop(_name(request)))

    async def delete(request: Request, _: Principal) -> Response:
        return JSONResponse(await environments.delete(_name(request)))

    return {
        **_version_handlers(host),
        "environments": listed,
        "environment": one,
        "create": create,
        "adopt": adopt,
        "pack": pack,
        "import": take,
        "start": start,
        "stop": stop,
        "delete": delete,
    }


def _version_handlers(host: Host) -> dict[str, Handler]:
    environments = host.environments

    async def versions(request: Request, _: Principal) -> Response:
        query.check_names(request, ())
        return JSONResponse(await environments.versions_of(_name(request)))

    async def remove(request: Request, principal: Principal) -> Response:
        name, version = _name(request), _version(request)
        return JSONResponse(await environments.remove_version(name, version, principal.subject))

    async def rollback(request: Request, principal: Principal) -> Response:
        asked = await read_body(request, RollbackRequest)
        return JSONResponse(await environments.rollback(_name(request), asked.version, principal.subject))

    async def tarball(request: Request, _: Principal) -> Response:
        query.check_names(request, ())
        return await _tarball(host, request)

    return {"versions": versions, "remove-version": remove, "rollback": rollback, "tarball": tarball}


def _lines(lines: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(lines, media_type=_LINES, headers={"Cache-Control": "no-store"})


def _name(request: Request) -> str:
    return check_name(request.path_params["name"])


def _version(request: Request) -> int:
    text: str = request.path_params["version"]
    if not (text.isascii() and text.isdigit()) or int(text[:13]) >= MAX_VERSION:
        raise NotFound(f"there is no version {text[:20]!r}", hint="a version is a whole number")
    return int(text)


async def _import(host: Host, request: Request, principal: Principal) -> Response:
    """Feed an upload to whoever checks it; the answer begins when all of it has come."""
    query.check_names(request, ("filename", "note"))
    name, filename = _name(request), request.query_params.get("filename", "")
    note = validate(PackRequest, json.dumps({"note": request.query_params.get("note", "")}).encode()).note
    if len(filename) > _MAX_NAME or not filename.isprintable():
        raise UsageError("filename is not the name of a file")
    upload = Upload()
    feeding = asyncio.create_task(upload.feed(request.stream()))
    taking = host.environments.take(name, upload, filename=filename, note=note, by=principal.subject)
    try:
        lines = await taking
        await feeding
    except HakuRiverError:
        upload.abandon()
        await asyncio.wait([feeding], timeout=LINGER_SECONDS)
        raise
    finally:
        if not feeding.done() or feeding.cancelled() or feeding.exception() is not None:
            upload.abandon()
            feeding.cancel()
    return _lines(lines)


async def _tarball(host: Host, request: Request) -> Response:
    name, version = _name(request), _version(request)
    row = await host.environments.versions.row(name, version)
    tarballs = host.environments.tarballs
    await tarballs.require(name, version, row.size)
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{row.sha256}"'}
    asked = _RANGE.fullmatch(request.headers.get("range", "").strip())
    start, end = 0, row.size
    if asked is not None:
        start, end = int(asked[1]), min(int(asked[2]) + 1 if asked[2] else row.size, row.size)
        if start >= end:
            error = UsageError(f"the tarball has {row.size} bytes", code="out_of_range")
            headers["Content-Range"] = f"bytes */{row.size}"
            return JSONResponse(error.to_json(), 416, headers)
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{row.size}"
    headers["Content-Length"] = str(end - start)
    pieces = tarballs.read(name, version, row.size, start, end)
    status = 206 if asked is not None else 200
    return StreamingResponse(pieces, status, headers, "application/octet-stream")
