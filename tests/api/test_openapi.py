"""The description of the API is valid, and what the host answers is what it describes."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

from daemons.host import openapi
from hakuriver.views import NodeView, TaskView
from tests.api.conftest import Running

Schema = dict[str, Any]


def check(value: Any, schema: Schema, where: str = "answer") -> None:
    """A value against the JSON Schema keywords that the description uses; unknown ones fail the test."""
    known = {"type", "properties", "required", "items", "anyOf", "enum", "$ref", "title", "description"}
    known |= {"additionalProperties", "default", "const"}
    assert set(schema) <= known, f"{where}: {set(schema) - known}"
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        check(value, openapi.document()["components"]["schemas"][name], where)
        return
    if "anyOf" in schema:
        failures = []
        for each in schema["anyOf"]:
            try:
                check(value, each, where)
                return
            except AssertionError as error:
                failures.append(str(error))
        raise AssertionError(failures)
    if "enum" in schema:
        assert value in schema["enum"], f"{where}: {value!r}"
    types: dict[str, Any] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    types |= {"array": list, "object": dict}
    if "type" in schema:
        assert isinstance(value, types[schema["type"]]), f"{where}: {value!r} is no {schema['type']}"
        assert schema["type"] == "boolean" or not isinstance(value, bool), where
    if isinstance(value, list) and "items" in schema:
        for index, each in enumerate(value):
            check(each, schema["items"], f"{where}[{index}]")
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema.get("required", ())) <= set(value), f"{where}: misses fields"
        assert set(value) <= set(schema["properties"]), (
            f"{where}: unknown {set(value) - set(schema['properties'])}"
        )
        for key, each in value.items():
            check(each, schema["properties"][key], f"{where}.{key}")


def answer_schema(name: str) -> Schema:
    for methods in openapi.document()["paths"].values():
        for operation in methods.values():
            if operation["operationId"] == name:
                (content,) = next(iter(operation["responses"].values()))["content"].values()
                found: Schema = content["schema"]
                return found
    raise AssertionError(name)


def test_every_reference_leads_somewhere() -> None:
    document = openapi.document()
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    for part in text.split('"$ref": "')[1:]:
        path = part.split('"')[0]
        assert path.startswith("#/components/schemas/")
        assert path.rpartition("/")[2] in schemas
    assert document["openapi"].startswith("3.1")
    operations = [op["operationId"] for methods in document["paths"].values() for op in methods.values()]
    assert len(operations) == len(set(operations))
    for path, methods in document["paths"].items():
        for operation in methods.values():
            inside = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
            assert inside == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert {"400", "401", "403", "500"} <= set(operation["responses"])


async def test_answers_are_what_is_described(api: Running) -> None:
    gpus = [{"index": 0, "uuid": "GPU-0", "model": "A", "memory": 10, "numa": 0}]
    peer = await api.peer("n1", gpus=gpus, numa=[{"id": 0, "cpus": [0, 1], "memory": 5}], labels={"a": "b"})
    await peer.heartbeat()
    submitted = await api.submit_all(
        "true", 'ü\x01\x7f"', targets=["n1:0::0", "n9"], tags=["a", "b"], memory=5, name="x"
    )
    check(submitted, answer_schema("submit"))
    number = submitted["tasks"][0]["id"]
    assert submitted["tasks"][0]["command"] == ["true", 'ü\x01\x7f"']
    await api.until(number, state="assigned")
    await peer.report((number, 1), "running")
    await api.tell(number, "pause")
    held = await api.tell(number, "kill", delay=30)
    check(held, answer_schema("kill"))
    shown = await api.task(number)
    check(shown, answer_schema("task"))
    assert list(shown) == list(get_type_hints(TaskView)), "fields stand in the order of the view"
    nodes = await api.user.request("GET", "/api/nodes")
    check(nodes, answer_schema("nodes"))
    assert list(nodes[0]) == list(get_type_hints(NodeView))
    check(await api.user.request("GET", "/api/nodes/n1"), answer_schema("node"))
    check(await api.user.request("GET", "/api/cluster"), answer_schema("cluster"))
    check(await api.tasks(), answer_schema("tasks"))
    assert await api.user.request("GET", "/api/openapi.json") == json.loads(json.dumps(openapi.document()))
    async with api.watch() as stream:
        check(await stream.next("snapshot"), answer_schema("watch"))
        await peer.report((number, 1), "paused")
        check(await stream.next("task"), answer_schema("watch"))
        await peer.heartbeat()
        check(await stream.next("node"), answer_schema("watch"))
