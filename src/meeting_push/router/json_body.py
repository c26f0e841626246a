"""请求体：一边解码一边验，遇到第一处错就停（A1）。

解码器认得每个字段的类型与上限，所以一个全是错的 1 MB 请求体只花几微秒，也不为每处错造一个对象；
先认证、后读请求体，因为它是排在令牌后面的一个依赖，不是 FastAPI 的 ``body``。
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec
from fastapi import Request

from ..errors import InvalidInputError, InvalidJsonError, UnsupportedMediaTypeError
from ..protocol import json_text
from .turns import Turn

T = TypeVar("T")
Schema = dict[str, Any]

#: ASGI scope 里这个请求的号。
TURN: Final = "meeting_push.turn"
#: JSON 没有的数，许多写法却会写出来：说清楚是哪一样（422），而不是“不是 JSON”。
_NOT_FINITE: Final = (b"NaN", b"Infinity", b"-Infinity")
_AT_BYTE: Final = re.compile(r"\(byte (\d+)\)")
#: msgspec 的说明：``Expected `int` >= 1 - at `$.messages[0].recipient_ids[1]` ``。
_AT_PATH: Final = re.compile(r" - at `(?:key(?: in)? )?\$?\.?(.*)`$", re.DOTALL)
_QUOTED_VALUE: Final = re.compile(r" '.*'", re.DOTALL)
_MAX_TEXT: Final = 200


class JsonBody(Generic[T]):
    """依赖：``Annotated[DraftIn, Depends(JsonBody(DraftIn))]``。

    ``limits`` 是由设置定的上限（字段名 → JSON Schema 的几项），只为 OpenAPI；由服务检查。
    """

    def __init__(self, kind: type[T], limits: Mapping[str, Schema] | None = None) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self.schema = schema_of(kind, limits or {})

    async def __call__(self, request: Request) -> T:
        """:raises InvalidInputError: 415、400、422；说出第一处错，绝不回显输入（可能是密码）"""
        if not _is_json(request.headers.get("content-type", "")):
            raise UnsupportedMediaTypeError("content-type must be application/json")
        # 不用 ``request.body()``：它替请求留着一份，几 MB 要到应答之后才放手
        body = b"".join([chunk async for chunk in request.stream()])
        turn: Turn | None = request.scope.get(TURN)
        if turn is not None:
            await turn.take()
        return self.decode(body)

    def decode(self, body: bytes) -> T:
        try:
            return json_text.decode(self._decoder, body)
        except msgspec.ValidationError as error:
            raise _invalid(str(error)) from None
        except RecursionError:
            raise _first("body", "nested too deeply") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if _is_not_finite(body, str(error)):
                raise _first("body", "numbers must be finite") from None
            raise InvalidJsonError("the body is not valid JSON") from None


def schema_of(kind: object, limits: Mapping[str, Schema]) -> Schema:
    """``kind`` 的 JSON Schema，引用都展开：嵌进别人的 OpenAPI 里也对。"""
    schema = msgspec.json.schema(kind)
    definitions = schema.pop("$defs", {})
    return _expanded(schema, definitions, limits)


def _expanded(schema: Schema, definitions: Schema, limits: Mapping[str, Schema]) -> Schema:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].removeprefix("#/$defs/")]
    expanded: Schema = {}
    for key, value in schema.items():
        if key == "properties":
            expanded[key] = {
                name: _expanded(each, definitions, limits) | limits.get(name, {})
                for name, each in value.items()
            }
        elif isinstance(value, dict) and key in ("items", "additionalProperties"):
            expanded[key] = _expanded(value, definitions, limits)
        elif key in ("anyOf", "prefixItems"):
            expanded[key] = [_expanded(each, definitions, limits) for each in value]
        else:
            expanded[key] = value
    return expanded


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )


def _is_not_finite(body: bytes, message: str) -> bool:
    found = _AT_BYTE.search(message)
    if found is None:
        return False
    at = int(found[1])
    return body.startswith(_NOT_FINITE, at) or body.startswith(_NOT_FINITE, max(at - 1, 0))


def _invalid(message: str) -> InvalidInputError:
    path = _AT_PATH.search(message)
    text = _QUOTED_VALUE.sub("", message[: path.start()] if path else message)
    return _first(path[1] if path else "body", text)


def _first(field: str, text: str) -> InvalidInputError:
    details = [{"field": field[:_MAX_TEXT], "message": text[:_MAX_TEXT]}]
    return InvalidInputError("the request is invalid", details=details)
