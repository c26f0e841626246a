"""``docs/asyncapi.yaml``：读进来，按它核对一帧。"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from jsonschema import Draft7Validator

PATH: Final = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"
Json = Any


@cache
def document() -> dict[str, Json]:
    """键都是文本（YAML 里的关闭码是整数）。"""
    loaded = yaml.safe_load(PATH.read_text())
    return dict(json.loads(json.dumps(loaded)))


def channel() -> dict[str, Json]:
    return dict(document()["channels"]["userMessages"])


def resolve(reference: str) -> Json:
    """``#/components/…`` 所指的东西。"""
    target: Json = document()
    for part in reference.removeprefix("#/").split("/"):
        target = target[part]
    return target


def references(node: Json) -> Iterator[str]:
    """``node`` 里的每一个 ``$ref``。"""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def message_types(action: str) -> set[str]:
    """``send``：服务器发出的各类型（含回答）；``receive``：服务器收下的。"""
    operations = document()["operations"].values()
    sent = [o for o in operations if o["action"] == action]
    replies = [o["reply"] for o in operations if "reply" in o and action == "send"]
    return {ref.rpartition("/")[2] for o in sent + replies for ref in references(o["messages"])}


@cache
def validator(message: str) -> Draft7Validator:
    """一种 ``type`` 的帧的校验者。"""
    payload = resolve(f"#/components/messages/{message}")["payload"]
    return Draft7Validator({**payload, "components": document()["components"]})


def schema_of(message: str) -> dict[str, Json]:
    """一种帧的 schema，全部引用已展开。"""
    return dict(expanded(resolve(f"#/components/messages/{message}")["payload"]))


def expanded(node: Json) -> Json:
    if isinstance(node, dict):
        if "$ref" in node:
            return expanded(resolve(node["$ref"]))
        return {name: expanded(value) for name, value in node.items()}
    if isinstance(node, list):
        return [expanded(value) for value in node]
    return node


def check_server_frame(frame: dict[str, Json]) -> None:
    """:raises AssertionError: 文档里没有这种帧、没有这个字段，或值不合"""
    kind = frame["type"]
    assert kind in message_types("send"), f"undocumented frame {kind!r}"
    errors = [error.message for error in validator(kind).iter_errors(frame)]
    assert not errors, f"{frame} does not fit the document: {errors}"
    unknown = frame.keys() - _fields(schema_of(kind))
    assert not unknown, f"undocumented fields of {kind}: {unknown}"


def _fields(schema: dict[str, Json]) -> set[str]:
    choices = schema.get("anyOf", [])
    return set(schema.get("properties", {})).union(*(_fields(choice) for choice in choices))
