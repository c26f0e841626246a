"""一张平的路由表：字面的路径在前，HEAD 与 GET 同样回答，405 说出这个路径收的全部方法（C4）。"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from copy import copy

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route

from .contract_route import ContractRoute, methods_of
from .errors import method_not_allowed


def complete(routes: Iterable[BaseRoute]) -> list[BaseRoute]:
    """``routes`` 里各路径的次序不变，只是带参数的排到字面的后面。"""
    table = sorted(_with_head(routes), key=_has_parameter)
    allowed = defaultdict[str, set[str]](set)
    for route in table:
        if isinstance(route, APIRoute):
            allowed[route.path] |= methods_of(route)
    for route in table:
        if isinstance(route, ContractRoute):
            route.allow = frozenset(allowed[route.path])
    return sorted([*table, *_closed(table, allowed)], key=_has_parameter)


def _with_head(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """服务器不写 HEAD 的正文，所以同一个函数就能回答；OpenAPI 里不必再说一遍。"""
    for route in routes:
        yield route
        if not isinstance(route, APIRoute):
            continue
        methods = methods_of(route)
        if "GET" in methods and "HEAD" not in methods:
            head = copy(route)
            head.methods = {"HEAD"}
            head.include_in_schema = False
            yield head


def _closed(table: Sequence[BaseRoute], allowed: dict[str, set[str]]) -> Iterator[Route]:
    """``GET /messages/batch`` 不是 id 为 batch 的消息：字面的路径不落到带参数的路由里。"""
    parametrised = [each for each in table if isinstance(each, Route) and _has_parameter(each)]
    for path, methods in allowed.items():
        if any(each.path_regex.match(path) and each.path != path for each in parametrised):
            yield Route(path, method_not_allowed(methods), include_in_schema=False)


def _has_parameter(route: BaseRoute) -> bool:
    return "{" in getattr(route, "path", "")
