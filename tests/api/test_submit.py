"""Submissions: how they are understood, refused, limited, and never doubled."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from daemons.host.environments.catalog import ensure
from daemons.host.setup import Policy, choose_setup
from daemons.host.store import Tx
from hakuriver.errors import CannotFit, Conflict, HakuRiverError, NotFound, TooMany, UsageError
from hakuriver.paths import HEADER_IDEMPOTENCY
from hakuriver.wire import SubmitRequest
from tests.api.conftest import Running, running_host
from tests.api.peer import eventually

KEY = {HEADER_IDEMPOTENCY: "k1"}


async def test_the_same_key_gets_the_same_answer(api: Running) -> None:
    first = await api.submit_all("true", headers=KEY)
    again = await asyncio.gather(*[api.submit_all("true", headers=KEY) for _ in range(10)])
    assert all(each == first for each in again)
    assert len((await api.tasks())["items"]) == 1
    with pytest.raises(Conflict) as raised:
        await api.submit_all("false", headers=KEY)
    assert raised.value.instance_code == "idempotency_mismatch"
    other = await api.submit_all("true", headers={HEADER_IDEMPOTENCY: "k2"})
    assert other["batch"] != first["batch"]


async def test_a_key_is_remembered_over_a_restart_and_a_lost_node(tmp_path: Path) -> None:
    async with running_host(tmp_path) as api:
        await api.peer("n1")
        first = await api.submit_all("true", targets=["n1"], headers=KEY)
    async with running_host(tmp_path) as api:
        assert await api.submit_all("true", targets=["n1"], headers=KEY) == first


async def test_a_refused_submission_leaves_its_key_free(api: Running) -> None:
    with pytest.raises(NotFound):
        await api.submit_all("true", targets=["n1"], headers=KEY)
    await api.peer("n1")
    assert (await api.submit_all("true", targets=["n1"], headers=KEY))["tasks"]


async def test_each_wrong_target_is_named_and_the_good_ones_go(api: Running) -> None:
    gpus = [{"index": 0, "uuid": "GPU-0", "model": "A", "memory": 10}]
    await api.peer("n1", gpus=gpus, numa=[{"id": 0, "cpus": [0], "memory": 1}])
    wrong = {"n9": 3, "n1::0,0": 2, "n1::7": 7, "n1:5": 7, "::": 2, "n1:x": 2}
    answer = await api.submit_all("true", targets=["n1", *wrong, "n1:0::0"], cores=0)
    assert [each["target"] for each in answer["tasks"]] == ["n1", "n1:0::0"]
    assert {each["target"]: each["error"]["exit_code"] for each in answer["refused"]} == wrong
    assert all(each["error"]["message"] for each in answer["refused"])


@pytest.mark.parametrize(
    ("asked", "kind", "text"),
    [
        ({"targets": ["n9"]}, NotFound, "there is no node n9"),
        ({"targets": ["n9", "n1::3"]}, NotFound, "there is no node n9; n1 has no GPU 3"),
        ({"targets": ["n1"], "cores": 3}, CannotFit, "n1 has 2 cores, not 3"),
        ({"cores": 3}, CannotFit, "n1 has 2 cores, not 3"),
        ({"memory": 2**40}, CannotFit, "memory"),
        ({"image": "busybox"}, CannotFit, "no node has executor docker: no engine"),
        ({"targets": ["n1"], "image": "torch"}, CannotFit, "n1 has no executor docker: no engine"),
        ({"executor": "systemd"}, CannotFit, "no node has executor systemd"),
        ({"image": "busybox", "stdin": True}, UsageError, "standard input"),
        ({"image": "busybox", "container": "x"}, UsageError, "two environments"),
        ({"executor": "process", "image": "busybox"}, UsageError, "without a container"),
        ({"privileged": True}, UsageError, "containers"),
        ({"targets": ["n1", "n1"], "name": "two"}, UsageError, "name two"),
        ({"name": "Bad Name"}, UsageError, "name"),
    ],
)
async def test_what_can_never_run_is_refused(
    api: Running, asked: dict[str, Any], kind: type[HakuRiverError], text: str
) -> None:
    await api.peer("n1", unavailable={"docker": "no engine"})
    with pytest.raises(kind) as raised:
        await api.submit("true", **asked)
    assert text in raised.value.message
    assert "\n" not in raised.value.message
    assert (await api.tasks())["items"] == []


async def test_without_any_node_a_task_waits_for_the_first(api: Running) -> None:
    made = await api.submit("true", cores=1)
    assert made["reason"] == "no node has joined yet"
    peer = await api.peer("n1")
    await eventually(lambda: (made["id"], 1) in peer.orders)


async def test_an_owner_has_a_limit_even_when_all_come_at_once(tmp_path: Path) -> None:
    async with running_host(tmp_path, flags={"limits.max_queued": 5}) as api:
        results = await asyncio.gather(
            *[api.submit("true", cores=1000) for _ in range(12)], return_exceptions=True
        )
        assert sum(isinstance(each, TooMany) for each in results) == 7
        made = [each["id"] for each in results if isinstance(each, dict)]
        assert len(made) == 5
        await api.tell(made[0], "kill")
        await api.submit("true")
        with pytest.raises(TooMany):
            await api.submit("true")


async def test_ids_are_never_used_twice(tmp_path: Path) -> None:
    async with running_host(tmp_path) as api:
        first = (await api.submit("true"))["id"]
        await api.host.store.write(
            lambda tx: tx.connection.exec_driver_sql("DELETE FROM task WHERE id = ?", (first,))
        )
        assert (await api.submit("true"))["id"] == first + 1


HERE = Policy(embedded=True, default_container="hakuriver-base", shared_dir="/srv/shared")
LAB = Policy(embedded=False, default_container="hakuriver-base", shared_dir="/srv/shared")
CALLER = {"workdir": "/srv/shared/a/b", "env": {"PATH": "/x", "VIRTUAL_ENV": "/v", "SECRET": "s"}}


def setup(policy: Policy, **asked: Any) -> tuple[str, str | None, str | None, str | None, dict[str, str]]:
    found = choose_setup(SubmitRequest.model_validate({"command": ["a"], "caller": CALLER, **asked}), policy)
    return found.executor, found.container, found.image, found.workdir, dict(found.env)


def test_where_a_task_runs_by_default() -> None:
    here = {"PATH": "/x", "VIRTUAL_ENV": "/v"}
    base = ("docker", "hakuriver-base", "hakuriver/hakuriver-base:base")
    assert setup(HERE) == ("process", None, None, "/srv/shared/a/b", here)
    assert setup(HERE, env={"PATH": "/mine"})[4] == here | {"PATH": "/mine"}
    assert setup(HERE, workdir="/tmp/x")[3] == "/tmp/x"
    assert setup(LAB) == (*base, "/shared/a/b", {})
    assert setup(LAB, caller={"workdir": "/home/me"})[3] is None
    assert setup(LAB, container="NULL") == ("native", "NULL", None, "/srv/shared/a/b", {})
    assert setup(LAB, container="torch")[:3] == ("docker", "torch", "hakuriver/torch:base")
    assert setup(HERE, image="busybox:1") == ("docker", None, "busybox:1", "/shared/a/b", {})
    assert setup(HERE, executor="docker")[:3] == base
    assert setup(LAB, container="torch@3")[:3] == ("docker", "torch@3", "hakuriver/torch:3")


def test_a_folder_that_was_typed_must_be_one_that_the_task_sees() -> None:
    typed = {"workdir": "/srv/shared/a", "workdir_typed": True}
    assert setup(LAB, caller=typed)[3] == "/shared/a"
    assert setup(LAB, caller=typed, container="NULL")[3] == "/srv/shared/a"
    elsewhere = {"workdir": "/home/me", "workdir_typed": True}
    assert setup(HERE, caller=elsewhere)[3] == "/home/me", "a process runs right there"
    with pytest.raises(UsageError, match="/home/me is not under the shared folder /srv/shared"):
        setup(LAB, caller=elsewhere)
    assert setup(LAB, caller=elsewhere, workdir="/data")[3] == "/data"


def test_whom_a_container_runs_as() -> None:
    def user(policy: Policy, **asked: Any) -> str | None:
        request = {"command": ["a"], "caller": {"user": "1000:100"}, **asked}
        return choose_setup(SubmitRequest.model_validate(request), policy).user

    submitter = replace(LAB, task_user="submitter")
    assert user(LAB) is None
    assert user(LAB, user="nobody") == "nobody"
    assert user(submitter) == "1000:100"
    assert user(submitter, user="0:0") == "0:0"
    assert user(submitter, container="NULL") is None
    with pytest.raises(UsageError, match="--user"):
        user(LAB, container="NULL", user="nobody")
    for wrong in ("a b", "-u", "a:b:c", "$(id)", ""):
        with pytest.raises(ValidationError):
            user(LAB, user=wrong)


async def test_an_environment_must_be_there_and_packed(api: Running) -> None:
    await api.peer("n1", executors=["docker"])

    def known(tx: Tx) -> None:
        ensure(tx, "torch", "python", "ann")

    with pytest.raises(NotFound, match="no environment torhc"):
        await api.submit("true", container="torhc")
    await api.host.store.write(known)
    with pytest.raises(NotFound) as refused:
        await api.submit("true", container="torhc")
    assert refused.value.hint == "did you mean torch?"
    with pytest.raises(Conflict, match="torch was never packed"):
        await api.submit("true", container="torch")
    with pytest.raises(NotFound, match="environment torch has no version 7"):
        await api.submit("true", container="torch@7")
    with pytest.raises(NotFound, match="the default environment, but there is no environment hakuriver-base"):
        await api.submit("true", executor="docker")
