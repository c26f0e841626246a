"""``docs/asyncapi.yaml``：读进来，按它核对一帧。"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from jsonschema import Draft7Validator

PATH: Final = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"
Json = Any


@cache
def document() -> dict[str, Json]:
    return dict(yaml.safe_load(PATH.read_text()))


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


def expanded(node: Json) -> Json:
    """全部引用都展开。"""
    if isinstance(node, dict):
        if "$ref" in node:
            return expanded(resolve(node["$ref"]))
        return {name: expanded(value) for name, value in node.items()}
    if isinstance(node, list):
        return [expanded(value) for value in node]
    return node


def schema(name: str) -> dict[str, Json]:
    return dict(expanded(resolve(f"#/components/schemas/{name}")))


@dataclass(frozen=True)
class Channel:
    """一种 WebSocket，或事件流。"""

    name: str

    @property
    def itself(self) -> dict[str, Json]:
        return dict(document()["channels"][self.name])

    def messages(self, action: str) -> dict[str, str]:
        """``type`` → 消息的名字。``send``：服务器发出的（含回答）；``receive``：服务器收下的。"""
        own = {"$ref": f"#/channels/{self.name}"}
        operations = [o for o in document()["operations"].values() if o["channel"] == own]
        used = [o for o in operations if o["action"] == action]
        used += [o["reply"] for o in operations if "reply" in o and action == "send"]
        names = {ref.rpartition("/")[2] for o in used for ref in references(o["messages"])}
        return {_type_of(name): name for name in names}

    def schema_of(self, action: str, kind: str) -> dict[str, Json]:
        """一种帧的 schema，全部引用已展开。"""
        return schema_of(self.messages(action)[kind])

    def validator(self, action: str, kind: str) -> Draft7Validator:
        return validator(self.messages(action)[kind])

    def check_server_frame(self, frame: dict[str, Json]) -> None:
        """:raises AssertionError: 文档里没有这种帧、没有这个字段，或值不合"""
        kind = frame.get("type", "stream_closed")
        assert kind in self.messages("send"), f"undocumented frame {kind!r}"
        errors = [error.message for error in self.validator("send", kind).iter_errors(frame)]
        assert not errors, f"{frame} does not fit the document: {errors}"
        unknown = frame.keys() - _fields(self.schema_of("send", kind))
        assert not unknown, f"undocumented fields of {kind}: {unknown}"


USER: Final = Channel("userMessages")
EVENTS: Final = Channel("userEvents")
MEETING: Final = Channel("meeting")
CHANNELS: Final = (USER, EVENTS, MEETING)


@cache
def schema_of(message: str) -> dict[str, Json]:
    return dict(expanded(resolve(f"#/components/messages/{message}")["payload"]))


@cache
def validator(message: str) -> Draft7Validator:
    return Draft7Validator(schema_of(message))


def _type_of(message: str) -> str:
    """没有 ``type`` 的（事件流的最后一个事件）是它在文档里的名字。"""
    one = schema_of(message)
    while "anyOf" in one and "properties" not in one:
        one = one["anyOf"][0]
    return str(one["properties"].get("type", {"const": message})["const"])


def _fields(one: dict[str, Json]) -> set[str]:
    choices = one.get("anyOf", [])
    return set(one.get("properties", {})).union(*(_fields(choice) for choice in choices))
