"""由 msgspec 编码的应答：里面有应用自己的 JSON，原文照抄，别的编码器不再过问（A3）。"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Response

from .json_body import schema_of

_JSON = "application/json"


def json_answer(value: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(value), media_type=_JSON)


def answers(kind: type[msgspec.Struct]) -> dict[int | str, dict[str, Any]]:
    """路由的 ``responses``：200 是一个 ``kind``。"""
    return {200: {"content": {_JSON: {"schema": schema_of(kind, {})}}}}
