"""Nothing is reached without a credential of the right kind; every row of the table is tried."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from daemons.common.web import Principal
from daemons.host import openapi
from daemons.host.auth import Credentials, token_digest
from daemons.host.routes.nodes import check_subject
from hakuriver.errors import Conflict, NotAllowed
from hakuriver.paths import HEADER_WIRE, HOST_ROUTES, WEBSOCKET, Kind, Route
from tests.api.conftest import Running

PARTS = {"id": "1", "name": "n1", "stream": "stdout", "version": "1"}
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def address(route: Route) -> str:
    return route.path.format(**PARTS)


def ask(http: httpx.AsyncClient, route: Route, headers: httpx.Headers, body: bytes = b"") -> httpx.Request:
    """A request to a route; to a WebSocket the one that opens it."""
    if route.method != WEBSOCKET:
        return http.build_request(route.method, address(route), headers=headers, content=body)
    return http.build_request("GET", address(route), headers=[*headers.raw, *httpx.Headers(UPGRADE).raw])


async def test_no_route_answers_without_a_valid_credential(api: Running) -> None:
    tokens = api.tokens
    wrong: tuple[dict[bytes, bytes], ...] = (
        {},
        {b"Authorization": b"Bearer"},
        {b"Authorization": f"Basic {tokens.user}".encode()},
        {b"Authorization": f"Bearer {tokens.user}x".encode()},
        {b"Authorization": f"Bearer {tokens.user[:-1]}".encode()},
        {b"Authorization": b"Bearer \xff\xfe"},
    )
    async with httpx.AsyncClient(base_url=api.url) as http:
        for route in HOST_ROUTES:
            for headers in wrong:
                sent = httpx.Headers(list(headers.items()))
                answer = await http.send(ask(http, route, sent, b"{}"))
                assert answer.status_code == 401, (route.name, headers)
                assert answer.json()["error"]["code"] == "unauthenticated"


async def test_each_kind_of_credential_reaches_its_own_routes_only(api: Running) -> None:
    tokens = {Kind.USER: api.tokens.user, Kind.NODE: api.tokens.node, Kind.HOST: api.tokens.host}
    async with httpx.AsyncClient(base_url=api.url) as http:
        for route in HOST_ROUTES:
            for kind, token in tokens.items():
                headers = httpx.Headers({"Authorization": f"Bearer {token}"})
                answer = await http.send(ask(http, route, headers, b"[]"), stream=True)
                async with aclosing(answer):
                    if kind in route.kinds:
                        assert answer.status_code not in (401, 403), (route.name, kind)
                    else:
                        assert answer.status_code == 403, (route.name, kind)
                        assert b"not_allowed" in await answer.aread()
                    assert answer.status_code < 500, (route.name, kind)


async def test_another_version_of_the_wire_is_refused(api: Running) -> None:
    headers = httpx.Headers({"Authorization": f"Bearer {api.tokens.user}", HEADER_WIRE: "999"})
    async with httpx.AsyncClient(base_url=api.url) as http:
        for route in HOST_ROUTES:
            answer = await http.send(ask(http, route, headers))
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wire_version"), route.name


def test_a_token_of_one_node_speaks_for_no_other() -> None:
    check = Credentials({token_digest("secret"): (Principal("n1", Kind.NODE, "node"), None)})
    assert check("secret") == Principal("n1", Kind.NODE, "node")
    assert check("secre") is None
    check_subject(Principal("n1", Kind.NODE, "node"), "n1")
    check_subject(Principal("*", Kind.NODE, "node"), "n2")
    with pytest.raises(NotAllowed):
        check_subject(Principal("n1", Kind.NODE, "node"), "n2")


def test_an_expired_credential_is_none() -> None:
    who = Principal("u", Kind.USER, "admin")
    now = datetime.now(UTC)
    rows = {
        token_digest("old"): (who, now - timedelta(seconds=1)),
        token_digest("new"): (who, now + timedelta(hours=1)),
    }
    check = Credentials(rows)
    assert check("old") is None
    assert check("new") == who


async def test_a_stranger_can_not_speak_for_a_node(api: Running) -> None:
    peer = await api.peer("n1")
    made = await api.running_on(peer, "sleep", "9")
    stranger = await api.peer("n1", register=False)
    with pytest.raises(Conflict, match="another runner"):
        await stranger.register()
    with pytest.raises(Conflict):
        await stranger.heartbeat()
    with pytest.raises(Conflict):
        await stranger.report((made["id"], 1), "completed")
    with pytest.raises(Conflict):
        await stranger.goodbye()
    other = await api.peer("n2")
    assert await other.report((made["id"], 1), "completed") == "refused"
    assert (await api.task(made["id"]))["state"] == "running"


def test_the_description_covers_every_route() -> None:
    described = {
        (method.upper(), path) for path, methods in openapi.document()["paths"].items() for method in methods
    }
    assert described == {(route.method.replace(WEBSOCKET, "GET"), route.path) for route in HOST_ROUTES}
