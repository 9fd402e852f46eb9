"""Lists: pages that neither repeat nor skip, filters, and how they refuse nonsense."""

from __future__ import annotations

import pytest

from hakuriver.errors import HakuRiverError, NotFound, UsageError
from hakuriver.paths import host_path
from tests.api.conftest import Running
from tests.api.peer import eventually, report


async def test_pages_neither_repeat_nor_skip(api: Running) -> None:
    made = await api.submit_all("true", targets=None or [], tags=["t"])
    for _ in range(3):
        await api.submit("true")
    await api.peer("n1")
    made = await api.submit_all("true", cores=0, targets=["n1"] * 20)
    seen: list[int] = []
    cursor = None
    while True:
        page = await api.tasks(limit=7, cursor=cursor)
        seen.extend(each["id"] for each in page["items"])
        await api.submit("true")  # a newer one must not move the pages
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == list(range(made["batch"] + 19, 0, -1))


async def test_filters(api: Running) -> None:
    peer = await api.peer("n1")
    ended = await api.submit("true", tags=["a", "b"], name="one")
    live = await api.submit("true", tags=["b"])
    waits = await api.submit("true", cores=2, tags=["c"])
    await eventually(lambda: (live["id"], 1) in peer.orders)
    await peer.send(report((ended["id"], 1), "failed", 1, exit_code=3), report((live["id"], 1), "running", 1))

    async def ids(**query: object) -> list[int]:
        return [each["id"] for each in (await api.tasks(**query))["items"]]

    one, two, three = ended["id"], live["id"], waits["id"]
    assert await ids() == [three, two, one]
    assert await ids(state="live") == [three, two]
    assert await ids(state="ended") == [one]
    assert await ids(state="failed,running") == [two, one]
    assert await ids(state="pending") == [three]
    assert await ids(node="n1") == [two, one]
    assert await ids(node="n2") == []
    assert await ids(tag="b") == [two, one]
    assert await ids(tag="b", state="live") == [two]
    assert await ids(batch=two) == [two]
    assert await ids(name="one") == [one]
    assert await ids(kind="vps") == []
    assert await ids(owner="@me") == [three, two, one]
    assert await ids(owner=ended["owner"], state="live", limit=1) == [three]
    assert await ids(owner="nobody-else") == []
    assert await ids(machine="@me", limit=1) == [three]
    assert await ids(machine="elsewhere") == []


@pytest.mark.parametrize(
    "query",
    [
        {"state": "runing"},
        {"state": "running,"},
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "-1"},
        {"limit": "1e3"},
        {"limit": "٣"},
        {"cursor": "x"},
        {"batch": "9" * 30},
        {"sort": "id"},
    ],
)
async def test_nonsense_is_refused_in_one_line(api: Running, query: dict[str, str]) -> None:
    with pytest.raises(UsageError) as raised:
        await api.tasks(**query)
    assert "\n" not in raised.value.message
    assert raised.value.message


async def test_many_are_shown_at_once_with_their_attempts(api: Running) -> None:
    made = [(await api.submit("true", str(each)))["id"] for each in range(3)]
    body = {"tasks": [made[2], 77, made[0]]}
    answer = await api.user.request("POST", host_path("show"), body=body)
    assert answer["items"] == [await api.task(made[2]), await api.task(made[0])]
    assert [each["attempt"] for each in answer["items"][0]["attempts"]] == [1]
    (refused,) = answer["refused"]
    assert (refused["id"], refused["status"], refused["error"]["message"]) == (77, 404, "there is no task 77")
    with pytest.raises(UsageError):
        await api.user.request("POST", host_path("show"), body={"tasks": []})


@pytest.mark.parametrize("number", ["0", "x", "-1", "9" * 40, str(2**63), "1.5"])
async def test_an_id_that_can_not_be_is_not_found(api: Running, number: str) -> None:
    for method, tail in (("GET", ""), ("POST", "/kill"), ("GET", "/logs/stdout"), ("DELETE", "/kill")):
        with pytest.raises(NotFound):
            await api.user.request(method, f"/api/tasks/{number}{tail}")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b"\xff", b'{"command":[]}', b'{"command":["a"],"x":1}']
)
async def test_a_body_that_makes_no_sense_is_refused(api: Running, body: bytes) -> None:
    with pytest.raises(HakuRiverError) as raised:
        await api.user.request("POST", "/api/tasks", body=body)
    assert raised.value.http_status == 400
    assert raised.value.instance_code == "invalid_body"
