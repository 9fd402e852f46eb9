"""The part of the TUI's peer that has environments."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from hakuriver.errors import Conflict
from hakuriver.views import EnvironmentView, VersionView, WorkView

if TYPE_CHECKING:
    from tests.tui.peer import Peer


def environment(name: str, **facts: Any) -> EnvironmentView:
    view: dict[str, Any] = {
        "name": name,
        "base": "python:3.12-slim",
        "container": "running",
        "current": 1_700_000_000,
        "versions": 2,
        "size": 5_200_000_000,
        "problem": "",
        "work": None,
        "created_at": "2026-01-31T12:00:00.000Z",
        "created_by": "ann",
    }
    return view | facts  # type: ignore[return-value]


def new_environment(name: str, **facts: Any) -> EnvironmentView:
    """One that was never packed."""
    return environment(name, **({"current": None, "versions": 0, "size": 0} | facts))


def work(text: str, done: int = 0, total: int | None = None, **facts: Any) -> WorkView:
    view: dict[str, Any] = {"kind": "pack", "by": "ann", "since": "2026-01-31T12:00:00.000Z", "text": text}
    view |= {"done": done, "total": total, "speed": None}
    return view | facts  # type: ignore[return-value]


def version(environment: str, number: int, **facts: Any) -> VersionView:
    view: dict[str, Any] = {
        "environment": environment,
        "version": number,
        "size": 2_600_000_000,
        "sha256": "0" * 64,
        "image": f"sha256:{number:064x}",
        "note": "",
        "by": "ann",
        "created_at": "2026-01-31T12:00:00.000Z",
        "current": False,
        "tasks": [],
    }
    return view | facts  # type: ignore[return-value]


def environment_routes(host: Peer) -> list[BaseRoute]:
    """What is asked of environments. Long answers are the lines that the test puts into ``answering``."""

    async def body_of(request: Request) -> Any:
        return json.loads(await request.body() or b"null")

    async def change(request: Request) -> Response:
        name = request.path_params["name"]
        verb = request.path_params.get("verb", "delete")
        body = await body_of(request)
        host.seen.append((request.method, f"env {verb} {name}", body))
        if verb in ("pack", "adopt", "prefetch"):
            return lines()
        found = host.environments[name]
        if verb == "rollback":
            numbers = sorted(each["version"] for each in host.versions[name])
            to = body["version"] or max(number for number in numbers if number < (found["current"] or 0))
            for each in host.versions[name]:
                each["current"] = each["version"] == to
            host.put({**found, "current": to})
        else:
            state = {"start": "running", "stop": "stopped", "delete": "missing"}[verb]
            host.put({**found, "container": state})
        return JSONResponse(host.environments[name])

    async def create(request: Request) -> Response:
        host.seen.append(("POST", "env create", await body_of(request)))
        return lines()

    def lines() -> Response:
        async def sent() -> AsyncIterator[bytes]:
            while (line := await host.answering.get()) is not None:
                yield json.dumps(line, ensure_ascii=False).encode() + b"\n"

        return StreamingResponse(sent(), media_type="application/x-ndjson")

    async def versions(request: Request) -> Response:
        host.seen.append(("GET", f"env versions {request.path_params['name']}", None))
        return JSONResponse(host.versions.get(request.path_params["name"], []))

    async def remove(request: Request) -> Response:
        name, number = request.path_params["name"], request.path_params["version"]
        host.seen.append(("DELETE", f"env version {name} {number}", None))
        found = next(each for each in host.versions[name] if each["version"] == number)
        if found["tasks"]:
            error = Conflict(f"version {number} is needed by task {found['tasks'][0]}")
            return JSONResponse(error.to_json(), error.http_status)
        host.versions[name].remove(found)
        host.put({**host.environments[name], "versions": len(host.versions[name])})
        return JSONResponse(found)

    base = "/api/environments"
    return [
        Route(base, create, methods=["POST"]),
        Route(f"{base}/{{name}}", change, methods=["DELETE"]),
        Route(f"{base}/{{name}}/versions", versions),
        Route(f"{base}/{{name}}/versions/{{version:int}}", remove, methods=["DELETE"]),
        Route(f"{base}/{{name}}/{{verb}}", change, methods=["POST"]),
    ]
