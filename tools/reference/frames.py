"""``frames.md``：``docs/asyncapi.yaml`` 的每一种帧：方向、字段、例子。"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import yaml

from .pages import DOCS, cell, fields, head, table
from .schema import Field, Shapes
from .words import meaning_of

Document = Mapping[str, Any]
_CHANNELS: Final = {"userMessages": "用户", "meeting": "会议"}
_DIRECTIONS: Final = {"send": "服务器 → 客户端", "receive": "客户端 → 服务器"}


@cache
def document() -> Document:
    loaded: Document = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())
    return loaded


def resolve(reference: str) -> Mapping[str, Any]:
    found: Any = document()
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found  # type: ignore[no-any-return]


def page() -> str:
    return "\n".join((head("frames"), *_body())).rstrip() + "\n"


def _body() -> Iterator[str]:
    for channel, name in _CHANNELS.items():
        itself = document()["channels"][channel]
        yield f"## {name}，连接\n\n`{itself['address']}`\n"
        yield from _query(itself)
        for action, direction in _DIRECTIONS.items():
            yield f"## {name}，{direction}\n"
            for message in sent(channel, action):
                yield from _frame(message, direction, answered(channel, message))


def _query(channel: Mapping[str, Any]) -> Iterator[str]:
    """连接时可以说的。"""
    shapes = Shapes(resolve)
    ws = channel["bindings"]["ws"]
    rows = [
        (f"`{one.name}`", where, one.kind, one.meaning)
        for where, part in (("查询", "query"), ("头", "headers"))
        for one in shapes.fields(ws.get(part, {}))
    ]
    yield from (*table(("连接时", "在哪里", "类型", "含义"), rows), "")


def sent(channel: str, action: str) -> list[str]:
    """这条路上一个方向的各种帧，照契约里的次序；``send`` 连同回答。"""
    own = {"$ref": f"#/channels/{channel}"}
    operations = [one for one in document()["operations"].values() if one["channel"] == own]
    used = [one for one in operations if one["action"] == action]
    if action == "send":
        used += [one["reply"] for one in operations if "reply" in one]
    names = {_name(one) for each in used for one in each["messages"]}
    return [name for name in document()["channels"][channel]["messages"] if name in names]


def answered(channel: str, message: str) -> list[str]:
    """客户端的这一帧的回答。"""
    own = {"$ref": f"#/channels/{channel}"}
    for one in document()["operations"].values():
        is_ours = one["channel"] == own and one["action"] == "receive" and "reply" in one
        if is_ours and message in map(_name, one["messages"]):
            return [_name(each) for each in one["reply"]["messages"]]
    return []


def _says(field: Field) -> bool:
    """``type`` 就是标题。"""
    return field.name.rpartition(".")[2] != "type"


def _explained(field: Field) -> Field:
    """自己没有说明的，说到处一个意思的。"""
    return field if field.meaning else field._replace(meaning=meaning_of("", field.name))


def _name(reference: Mapping[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]


def _frame(message: str, direction: str, answers: list[str]) -> Iterator[str]:
    itself = document()["components"]["messages"][message]
    shapes = Shapes(resolve)
    payload = shapes.of(itself["payload"])
    choices = shapes.choices(payload)
    kind = choices[0]["properties"]["type"]["const"]
    label = f"`{kind}`" if kind == message else f"`{kind}`（{message}）"
    yield f"### {label}\n"
    reply = f" 回答：{'、'.join(f'`{one}`' for one in answers)}。" if answers else ""
    yield f"{direction}。{cell(itself['title'])}。{reply}\n"
    for one in choices:
        if said := one.get("description"):
            yield f"{cell(said)}\n"
        server = direction == _DIRECTIONS["send"]
        rows = [_explained(each) for each in shapes.fields(one) if _says(each)]
        if rows:
            yield from (*fields(rows, sent=server), "")
    examples = (json.dumps(each["payload"], ensure_ascii=False) for each in itself["examples"])
    yield "```json"
    yield from examples
    yield "```\n"
