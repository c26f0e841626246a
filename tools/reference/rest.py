"""``rest.md``：路由、参数、请求体、回答、错误的状态出自 OpenAPI，谁可以、说的话出自契约。"""

from __future__ import annotations

import inspect
import re
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from meeting_push import MeetingPush, load_settings

from .codes import codes
from .pages import DOCS, cell, fields, head, rebased, table
from .schema import Field, Shapes
from .words import meaning_of

API: Final = "/api/v1"
#: 每个 ``/api/v1`` 的调用都可能的；别的各说各的。
ALWAYS: Final = ("401", "403", "422", "429", "500", "503")
_TITLES: Final = {
    "messages": "消息与收件箱",
    "auth": "账号与令牌",
    "stream": "没有 WebSocket 时",
    "presence": "在线状态",
    "people": "人的号",
    "deliveries": "投递与信箱",
    "meetings": "会议",
    "queues": "队列",
    "alerts": "告警",
    "operations": "看一个人、一条消息",
    "stats": "统计",
    "logs": "日志",
    "ops": "探针",
}
#: 码 → 请求里有它，就可能有这个码。
_IMPLIED: Final = {"idempotency_conflict": "idempotency-key", "payload_too_large": ""}
_PLACES: Final = {"query": "查询", "header": "头", "path": "路径"}


def page() -> str:
    return "\n".join((head("rest"), *_body())).rstrip() + "\n"


def _body() -> Iterator[str]:
    document, guards = api()
    shapes = Shapes(lambda reference: document["components"]["schemas"][reference.split("/")[-1]])
    for tag, title in _TITLES.items():
        yield f"## {title}\n"
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if operation["tags"] == [tag]:
                    call = f"{method.upper()} {path.removeprefix(API)}"
                    yield from _operation(shapes, call, operation, guards.get(call))


@cache
def api() -> tuple[dict[str, Any], dict[str, tuple[str, ...] | None]]:
    """（OpenAPI，调用 → API 密钥要的范围；None 是密钥不行的）。"""
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(
            data_dir=Path(folder),
            redis_url="redis://127.0.0.1:1",
            jwt_secret="x" * 32,
            _env_file=None,
        )
        push = MeetingPush(settings, identity="accounts")
    app = FastAPI(title="meeting-push")
    app.include_router(push.router)
    app.include_router(push.probes)
    routes = [one for one in push.router.routes if isinstance(one, APIRoute)]
    guards = {
        f"{method} {route.path.removeprefix(API)}": _scopes(route.dependant)
        for route in routes
        for method in route.methods or ()
    }
    return app.openapi(), guards


def _scopes(dependant: Dependant) -> tuple[str, ...] | None:
    for each in dependant.dependencies:
        name = getattr(each.call, "__qualname__", "")
        if name == "Security.require_admin":
            return ("admin",)
        if name.startswith(("Security.allowing.", "Security.admin_or.")) and callable(each.call):
            scopes = inspect.getclosurevars(each.call).nonlocals["scopes"]
            return tuple(dict.fromkeys((*scopes, "admin")))
        found = _scopes(each)
        if found is not None:
            return found
    return None


@cache
def promised() -> dict[str, tuple[str, str, str]]:
    """调用 →（谁，回答，哪一页），照契约与会议的页的表。"""
    found: dict[str, tuple[str, str, str]] = {}
    for page_name in ("contract.md", "meeting.md"):
        text = (DOCS / page_name).read_text()
        rows = re.findall(r"^\| (`(?:GET|POST|DELETE) /.*?) \|([^|]*)\| (.+) \|$", text, re.M)
        for calls, who, said in rows:
            for call in re.findall(r"`((?:GET|POST|DELETE) /[\w/{}.-]*)", calls):
                name = re.sub(r"(/meetings/)\{id\}", r"\1{meeting_id}", call)
                found[name] = (who.strip(), said.strip(), page_name)
    return found


def _operation(
    shapes: Shapes, call: str, operation: Mapping[str, Any], scopes: tuple[str, ...] | None
) -> Iterator[str]:
    who, said, where = promised().get(call, ("", "", ""))
    yield f"### {call}\n"
    yield f"{cell(operation.get('summary', ''))}。{cell(operation.get('description', ''))}\n"
    outside = "；不在 /api/v1 下" if _is_outside(call) else ""
    yield f"- 谁：{_who(call, who, scopes)}{outside}"
    if said:
        yield f"- 契约：{rebased(said, where)}"
    names = " ".join(one["name"] for one in operation.get("parameters", ()))
    text = f"{operation.get('description', '')} {said} {names}"
    extra = [one for one in operation["responses"] if one >= "400" and one not in ALWAYS]
    if shown := [_coded(one, text) for one in extra if one != "409" or _conflicts(text)]:
        yield f"- 另可能有的错误：{'、'.join(shown)}"
    yield ""
    yield from _parameters(shapes, call, operation)
    yield from _bodies(shapes, call, operation)


def _conflicts(text: str) -> bool:
    """OpenAPI 里每个带 id 的都有 409；说到它的才真有。"""
    return "409" in text or "idempotency-key" in text


def _coded(status: str, text: str) -> str:
    """一个状态，连同它的码；码多的只写这个调用自己提到的。"""
    known = [one.code for one in codes() if str(one.status) == status]
    implied = {code for code, word in _IMPLIED.items() if word in text}
    shown = [one for one in known if len(known) == 1 or f"`{one}`" in text or one in implied]
    return " ".join((status, *(f"`{one}`" for one in shown)))


def _is_outside(call: str) -> bool:
    return call.partition(" ")[2] in ("/healthz", "/readyz", "/metrics") or " /sse/" in call


def _who(call: str, who: str, scopes: tuple[str, ...] | None) -> str:
    if " /sse/" in call:
        return "这个用户自己：令牌在头、票据、查询里"
    if _is_outside(call) or call in ("POST /auth/login", "POST /auth/refresh"):
        return "谁都行"
    people = re.sub(r"、密钥", "", who, count=1)
    if scopes is None:
        return people if people.startswith("谁都行") else f"{people}；密钥不行"
    return f"{people}；密钥要有范围 {' 或 '.join(f'`{one}`' for one in scopes)}"


def _parameters(shapes: Shapes, call: str, operation: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for one in operation.get("parameters", ()):
        (field,) = shapes.fields({"properties": {one["name"]: one["schema"]}})
        default = "必填" if one.get("required") else f"`{field.default}`" if field.default else ""
        said = field.meaning or one.get("description") or meaning_of(call, one["name"])
        kind = "人的 id" if one["name"] == "user_id" else field.kind.removesuffix(" 或 null")
        rows.append((f"`{one['name']}`", _PLACES[one["in"]], kind, default, said))
    if rows:
        yield from (*table(("参数", "在哪里", "类型", "缺省", "含义"), rows), "")


def _bodies(shapes: Shapes, call: str, operation: Mapping[str, Any]) -> Iterator[str]:
    given = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    for number, one in enumerate(shapes.choices(given["schema"]) if given else ()):
        yield f"{'或者' if number else '请求体'}：{_said(one)}\n"
        yield from (*fields(_explained(shapes, call, one)), "")
    for status, answer in operation["responses"].items():
        if status < "400":
            content = answer.get("content", {})
            schema = content.get("application/json", {}).get("schema")
            rows = list(_explained(shapes, call, schema)) if schema else []
            said = _said(shapes.of(schema)) if schema and rows else ""
            yield f"回答 {status}{_described(content, answer, rows)}{said}\n"
            if rows:
                yield from (*fields(rows, sent=True), "")


def _said(schema: Mapping[str, Any]) -> str:
    """一种对象自己的说明。"""
    return cell(str(schema.get("description", "")))


def _explained(shapes: Shapes, call: str, schema: Mapping[str, Any]) -> Iterator[Field]:
    """自己没有说明的，说到处一个意思的。"""
    for one in shapes.fields(schema):
        yield one if one.meaning else one._replace(meaning=meaning_of(call, one.name))


def _described(content: Mapping[str, Any], answer: Mapping[str, Any], rows: list[Field]) -> str:
    if rows:
        return "："
    said = str(answer.get("description", "")).replace("Successful Response", "")
    kinds = [kind for kind in content if kind != "application/json"]
    words = "，".join((*(f"`{kind}`" for kind in kinds), *((said,) if said else ())))
    return f"：{words}" if words else "，没有正文"
