"""文档与代码是同一份契约：``docs/asyncapi.yaml`` 的每一种帧、上限与关闭码都与实现核对。"""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from meeting_push.mailbox_model import MailboxView
from meeting_push.meeting import frames as meeting_frames
from meeting_push.model import Principal
from meeting_push.protocol import envelope, frames
from meeting_push.protocol.codes import CloseCode, may_reconnect
from meeting_push.protocol.commands import Refused
from meeting_push.protocol.envelope import ForeignMessage
from meeting_push.protocol.event_stream import closing_event
from meeting_push.protocol.session import Session
from meeting_push.version import __version__
from meeting_push.websocket.handshake import (
    MAX_DEVICE_ID_CHARS,
    MAX_DEVICE_INFO_CHARS,
    MAX_TOKEN_CHARS,
)
from tests.support import asyncapi
from tests.support.limits import limits_with

Schema = dict[str, Any]
LARGE = limits_with(max_frame_bytes=2**20)
LIMITS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")


Frames = dict[str, type[msgspec.Struct]]


def tagged(base: type[msgspec.Struct], module: ModuleType) -> Frames:
    """``type`` → 结构；两种 WebSocket 的帧从同一个根派生。"""
    return {
        str(struct.__struct_config__.tag): struct
        for struct in base.__subclasses__()
        if struct.__module__ == module.__name__
    }


SERVER_FRAMES = tagged(frames.ServerFrame, frames)
CLIENT_FRAMES = tagged(frames.ClientFrame, frames)
SHARED = ("heartbeat_ack", "token_refreshed", "token_expiring", "error")
MEETING_SERVER_FRAMES = {
    **{kind: SERVER_FRAMES[kind] for kind in SHARED},
    **tagged(frames.ServerFrame, meeting_frames),
}
del MEETING_SERVER_FRAMES["removed"]  # 只在各节点之间
MEETING_CLIENT_FRAMES = {
    **{kind: CLIENT_FRAMES[kind] for kind in ("heartbeat", "refresh_token")},
    **tagged(frames.ClientFrame, meeting_frames),
}
#: 不是结构的几种：文本是拼出来的。
SPLICED = {"new_message", "batch"}
MEETING_SPLICED = {"history"}
#: (哪一条 WebSocket, 收还是发, 它的帧)。
DIRECTIONS = [
    (asyncapi.USER, "send", SERVER_FRAMES),
    (asyncapi.USER, "receive", CLIENT_FRAMES),
    (asyncapi.MEETING, "send", MEETING_SERVER_FRAMES),
    (asyncapi.MEETING, "receive", MEETING_CLIENT_FRAMES),
]
FRAMES = [
    pytest.param(channel, action, kind, struct, id=f"{channel.name}-{action}-{kind}")
    for channel, action, structs in DIRECTIONS
    for kind, struct in structs.items()
]


# ── 文档自身 ────────────────────────────────────────────────────────────────


def test_every_reference_leads_somewhere() -> None:
    for reference in asyncapi.references(asyncapi.document()):
        assert asyncapi.resolve(reference), reference


def test_c11_every_key_is_a_text() -> None:
    """参考解析器不收别的：十五个关闭码曾是整数。"""

    def walk(node: object) -> None:
        if isinstance(node, dict):
            assert all(isinstance(key, str) for key in node), list(node)
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(asyncapi.document())


def test_the_operations_use_exactly_the_messages_of_their_channel() -> None:
    everywhere: set[str] = set()
    for channel in asyncapi.CHANNELS:
        sent, received = channel.messages("send"), channel.messages("receive")
        used = {*sent.values(), *received.values()}
        assert used == set(channel.itself["messages"])
        everywhere |= used
    assert everywhere == set(asyncapi.document()["components"]["messages"])


def test_every_payload_is_a_valid_schema() -> None:
    for name in asyncapi.document()["components"]["schemas"]:
        Draft7Validator.check_schema(asyncapi.schema(name))


@pytest.mark.parametrize("message", sorted(asyncapi.document()["components"]["messages"]))
def test_c11_every_message_has_examples_and_they_are_valid(message: str) -> None:
    examples = asyncapi.resolve(f"#/components/messages/{message}")["examples"]
    for example in examples:
        assert not list(asyncapi.validator(message).iter_errors(example["payload"]))
    assert examples


def test_c11_the_examples_of_what_clients_send_are_taken_by_the_code() -> None:
    for channel, decode in (
        (asyncapi.USER, frames.decode_client_frame),
        (asyncapi.MEETING, meeting_frames.decode_meeting_frame),
    ):
        for name in channel.messages("receive").values():
            for example in asyncapi.resolve(f"#/components/messages/{name}")["examples"]:
                decode(json.dumps(example["payload"]).encode())


def test_the_version_is_the_version() -> None:
    assert asyncapi.document()["info"]["version"] == __version__


# ── 与代码核对 ───────────────────────────────────────────────────────────────


def test_every_frame_is_documented_and_nothing_else() -> None:
    """两种 WebSocket，两个方向（C11：会议的也在）。"""
    user, meeting = asyncapi.USER, asyncapi.MEETING
    assert user.messages("send").keys() == SERVER_FRAMES.keys() | SPLICED
    assert user.messages("receive").keys() == CLIENT_FRAMES.keys() == frames.CLIENT_FRAME_TYPES
    assert meeting.messages("send").keys() == MEETING_SERVER_FRAMES.keys() | MEETING_SPLICED
    received = meeting.messages("receive").keys()
    assert received == MEETING_CLIENT_FRAMES.keys() == meeting_frames.MEETING_FRAME_TYPES


def test_a_stream_carries_what_a_websocket_says_unasked() -> None:
    """事件流：没有人开口就会来的那些，连同道别；听不到回答与要先开口的。"""
    own = {"$ref": "#/channels/userMessages"}
    pushed = asyncapi.document()["operations"]["push"]
    assert pushed["channel"] == own
    unasked = {ref.rpartition("/")[2] for ref in asyncapi.references(pushed["messages"])}
    spoken_first = {"presence", "ops", "error"}
    assert asyncapi.EVENTS.messages("send").keys() == unasked - spoken_first | {"stream_closed"}
    assert asyncapi.EVENTS.messages("receive") == {}


def test_the_stream_says_goodbye_as_documented() -> None:
    lines = closing_event(CloseCode.SERVER_DRAINING).decode().splitlines()
    assert lines[0] == "event: close"
    frame = json.loads(lines[1].removeprefix("data: "))
    asyncapi.EVENTS.check_server_frame(frame)


@pytest.mark.parametrize(("channel", "action", "kind", "struct"), FRAMES)
def test_a_frame_has_the_fields_of_the_code(
    channel: asyncapi.Channel, action: str, kind: str, struct: type[msgspec.Struct]
) -> None:
    documented = channel.schema_of(action, kind)
    if action == "receive":
        assert fields(documented, LIMITS) == fields(code_schema(struct), LIMITS)
        assert set(documented["required"]) == set(code_schema(struct)["required"])
    else:
        assert fields(documented) == sent_fields(struct)
        assert set(documented["required"]) == always_sent(struct)


def test_a_new_message_has_the_fields_of_the_code() -> None:
    documented = asyncapi.schema("NewMessage")
    head = {"type": shape({"const": "new_message"}), "seq": {"integer"}, "attempt": {"integer"}}
    tail = sent_fields(frames.NewMessageTail)
    assert fields(documented) == {**head, **tail}
    assert set(documented["required"]) == documented["properties"].keys()


def test_a_broadcast_has_the_fields_of_the_code() -> None:
    schema = asyncapi.schema("BroadcastMessage")
    tail = b'"message_id":"m"}'
    head = msgspec.json.decode(envelope.broadcast_message(2, 1, tail)).keys() - {"message_id"}
    assert schema["properties"].keys() == head | set(frames.NewMessageTail.__struct_fields__)
    assert set(schema["required"]) == schema["properties"].keys()


def test_a_foreign_message_has_the_fields_and_limits_of_the_code() -> None:
    documented = asyncapi.schema("ForeignMessage")
    assert fields(documented, LIMITS) == fields(code_schema(ForeignMessage), LIMITS)
    assert set(documented["required"]) == set(code_schema(ForeignMessage)["required"])


def test_a_batch_holds_as_many_messages_as_the_code_puts_in() -> None:
    messages = asyncapi.USER.schema_of("send", "batch")["properties"]["messages"]
    assert messages["maxItems"] == envelope.BATCH_MAX_MESSAGES


def test_the_close_codes_are_the_codes() -> None:
    codes = {str(int(code)): (code.reason, may_reconnect(code)) for code in CloseCode}
    for channel in asyncapi.CHANNELS:
        documented = channel.itself["x-close-codes"]
        assert codes == {code: (it["name"], it["reconnect"]) for code, it in documented.items()}


def test_the_query_has_the_limits_of_the_code() -> None:
    query = asyncapi.USER.itself["bindings"]["ws"]["query"]["properties"]
    stream = asyncapi.document()["operations"]["stream"]["bindings"]["http"]["query"]["properties"]
    rules = ("type", "maxLength", "pattern")
    assert {name: [one.get(rule) for rule in rules] for name, one in stream.items()} == {
        name: [one.get(rule) for rule in rules] for name, one in query.items()
    }
    assert query["token"]["maxLength"] == MAX_TOKEN_CHARS
    assert query["device_id"]["maxLength"] == MAX_DEVICE_ID_CHARS
    assert query["device_info"]["maxLength"] == MAX_DEVICE_INFO_CHARS


# ── 收下的恰是文档说可以的 ─────────────────────────────────────────────────────


def edges(*limits: int) -> st.SearchStrategy[int]:
    return st.sampled_from([limit + step for limit in limits for step in (-1, 0, 1)])


def texts(*lengths: int) -> st.SearchStrategy[str]:
    return st.builds(str.__mul__, st.sampled_from("a字\U0001f600"), edges(*lengths))


NUMBERS = edges(0, 2**53, -(2**53), 2**63)
ITEMS = st.one_of(texts(26), NUMBERS, st.none(), st.sampled_from([7.0, 0.5]))
LISTS = st.builds(
    lambda item, length: [item] * length,
    ITEMS,
    st.sampled_from([0, 1, 100, 101, 1000, 1001]),
)
VALUES = st.one_of(
    st.none(),
    st.sampled_from([0.0, 3.0, -1.0, 0.5, 1e300]),
    st.booleans(),
    NUMBERS,
    texts(1, 26, 64, 128, 256, 8192),
    st.sampled_from(["active", "away", "busy", "asleep"]),
    LISTS,
    st.just({}),
)
FIELD_NAMES = sorted({name for frame in CLIENT_FRAMES.values() for name in frame.__struct_fields__})
CLIENT_FIELDS = st.dictionaries(st.sampled_from([*FIELD_NAMES, "surprise"]), VALUES, max_size=4)


@given(st.sampled_from(sorted(CLIENT_FRAMES)), CLIENT_FIELDS)
def test_the_code_accepts_exactly_what_the_document_allows(
    message: str, given_fields: dict[str, Any]
) -> None:
    frame = {"type": message, **given_fields}
    assert accepted(frame) == asyncapi.USER.validator("receive", message).is_valid(frame)


def accepted(frame: dict[str, Any]) -> bool:
    command = live_session().receive(json.dumps(frame).encode(), 0)
    return not (isinstance(command, Refused) and command.code == "invalid_frame")


def live_session() -> Session:
    session = Session(1, "c", LARGE, now=0)
    session.authenticated(Principal(user_id=1, role="user", issued_at=0, expires_at=10**15))
    session.welcome(MailboxView(epoch="e", seq=0, entries=()), "d", 0)
    return session


# ── schema 的比较 ─────────────────────────────────────────────────────────────


def code_schema(struct: type[msgspec.Struct]) -> Schema:
    _, components = msgspec.json.schema_components([struct], ref_template="{name}")
    schema = dict(components[struct.__name__])
    schema["properties"] = {
        name: components.get(value.get("$ref", ""), value)
        for name, value in schema["properties"].items()
    }
    for value in schema["properties"].values():
        choices = value.get("anyOf", [])
        value.update({"anyOf": [components.get(c.get("$ref", ""), c) for c in choices]})
    return schema


def sent_fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """服务器帧的字段；``omit_defaults`` 的从不以 null 出现。"""
    shapes = fields(code_schema(struct))
    if struct.__struct_config__.omit_defaults:
        return {name: kinds - {"null"} for name, kinds in shapes.items()}
    return shapes


def always_sent(struct: type[msgspec.Struct]) -> set[str]:
    omitted = struct.__struct_config__.omit_defaults
    optional = {f.name for f in msgspec.structs.fields(struct) if not f.required and omitted}
    return {"type", *struct.__struct_fields__} - optional


def fields(schema: Schema, limits: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: shape(value, limits) for name, value in schema["properties"].items()}


def shape(schema: Schema, limits: tuple[str, ...] = ()) -> Any:
    """可以是哪些 JSON 类型；给了 ``limits`` 就连同上限、枚举与元素。"""
    if schema.get("anyOf"):
        return frozenset().union(*(shape(choice, limits) for choice in schema["anyOf"]))
    kinds = schema.get("type", "string")
    detail = tuple((name, schema[name]) for name in LIMITS if name in schema and name in limits)
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if limits and values:
        detail += (("enum", tuple(values)),)
    if limits and "items" in schema:
        detail += (("items", shape(schema["items"], limits)),)
    return frozenset(
        (kind, detail) if limits and kind != "null" else kind
        for kind in ([kinds] if isinstance(kinds, str) else kinds)
    )
