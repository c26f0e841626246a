"""异常 → contract 规定的错误体 ``{"error": {code, message, temporary, details}}``。"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi._compat import ModelField
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.utils import create_model_field
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from ..errors import (
    AlreadyDueError,
    AuthenticationError,
    ForbiddenError,
    IdempotencyConflictError,
    InvalidInputError,
    InvalidJsonError,
    MeetingEndedError,
    MeetingPushError,
    MessageExpiredError,
    NotFoundError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    RateLimitedError,
    UnavailableError,
    UnknownConnectionError,
    UnsupportedMediaTypeError,
    UsernameTakenError,
)
from ..http.refusals import error_body
from ..logs import RepeatedWarning, logger

#: 沿 MRO 找最近的一个；找不到的（配置、信封……）是我们自己的错，500。
STATUSES: Final[Mapping[type, int]] = {
    AuthenticationError: 401,
    ForbiddenError: 403,
    NotFoundError: 404,
    UsernameTakenError: 409,
    AlreadyDueError: 409,
    IdempotencyConflictError: 409,
    MeetingEndedError: 409,
    MessageExpiredError: 409,
    UnknownConnectionError: 409,
    InvalidJsonError: 400,
    PayloadTooLargeError: 413,
    UnsupportedMediaTypeError: 415,
    InvalidInputError: 422,
    RateLimitedError: 429,
    UnavailableError: 503,
}
_UNAVAILABLE_RETRY_S: Final = 1
_MAX_DETAILS: Final = 20  # 一万个收件人个个不对时，列出头几个就够了
# 框架自己抛出的，按状态码取名；其余用标准短语。
_HTTP_CODES: Final = {400: "invalid_json", 401: "unauthenticated", 413: "payload_too_large"}


#: 依赖不在时拒绝了的请求：几百个也只说一次，带着次数（E12）。
_refused: Final = RepeatedWarning("requests_refused")


#: Starlette 的样子。
ErrorHandler = Callable[[Request, Any], Coroutine[Any, Any, Response]]


def install_error_handlers(app: FastAPI) -> None:
    """让 ``app`` 的一切错误都是 contract 的样子，包括 404、405 与意外的异常。"""
    app.add_exception_handler(MeetingPushError, on_expected)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, on_unexpected)


class ErrorDetail(BaseModel):
    code: str = Field(description="稳定的，小写下划线", examples=["invalid_input"])
    message: str
    temporary: bool = Field(description="原样再来一次是否可能成功")
    details: Any


class ErrorOut(BaseModel):
    """每个错误应答的样子。"""

    error: ErrorDetail


class ErrorAnswer(JSONResponse):
    """一个错误应答；``code`` 供人计数。"""

    def __init__(
        self, body: dict[str, Any], status: int, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(body, status, headers)
        self.code: str = body["error"]["code"]


def status_of(error: MeetingPushError) -> int:
    found = (STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    return next(found, 500)


def error_response(error: MeetingPushError) -> ErrorAnswer:
    """``error`` 的状态码、错误体与头。"""
    body = error_body(error.code, error.message, temporary=error.temporary, details=error.details)
    return ErrorAnswer(body, status_of(error), _headers(error))


def method_not_allowed(allowed: Iterable[str]) -> ErrorAnswer:
    """405；``allowed`` 是这个路径收的全部方法。"""
    body = error_body("method_not_allowed", "this path does not take this method")
    return ErrorAnswer(body, 405, {"Allow": ", ".join(sorted(allowed))})


async def on_expected(request: Request, error: Exception) -> ErrorAnswer:
    assert isinstance(error, MeetingPushError)
    if status_of(error) == 500:
        return await on_unexpected(request, error)
    if status_of(error) == 503:
        _refused.say(code=error.code, cause=error.cause)
    if isinstance(error, OutcomeUnknownError) and "idempotency-key" not in request.headers:
        error = error.without_key()
    return error_response(error)


async def on_invalid_request(_request: Request, error: Exception) -> ErrorAnswer:
    """绝不回显输入：它可能是密码。"""
    assert isinstance(error, RequestValidationError)
    problems = error.errors()[:_MAX_DETAILS]
    if any(problem["type"] == "json_invalid" for problem in problems):
        return ErrorAnswer(error_body("invalid_json", "the body is not valid JSON"), 400)
    if any(tuple(problem["loc"]) == ("query", "cursor") for problem in problems):
        return ErrorAnswer(error_body("invalid_cursor", "not a cursor of this list"), 422)
    details = list(_fields(problems))
    return ErrorAnswer(error_body("invalid_input", "the request is invalid", details=details), 422)


async def _on_http(_request: Request, error: Exception) -> ErrorAnswer:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    code = _HTTP_CODES.get(error.status_code, phrase.lower().replace(" ", "_").replace("-", "_"))
    body = error_body(code, str(error.detail), temporary=error.status_code >= 502)
    return ErrorAnswer(body, error.status_code, error.headers)


async def on_unexpected(request: Request, error: Exception) -> ErrorAnswer:
    logger.bind(method=request.method, path=request.url.path).opt(exception=error).error(
        "request_failed"
    )
    return ErrorAnswer(error_body("internal_error", "something went wrong on our side"), 500)


def _fields(problems: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, str]]:
    for problem in problems:
        yield {"field": ".".join(map(str, problem["loc"])), "message": problem["msg"]}


def _headers(error: MeetingPushError) -> dict[str, str]:
    if isinstance(error, AuthenticationError):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, RateLimitedError):
        return {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, UnavailableError) and error.temporary:
        return {"Retry-After": str(_UNAVAILABLE_RETRY_S)}
    return {}


def possible_errors(path: str, methods: Collection[str]) -> dict[int | str, dict[str, Any]]:
    """这条路由可能回答的错误状态。"""
    statuses = {401, 403, 422, 429, 500, 503}
    if "{" in path:
        statuses |= {404, 409}
    if "POST" in methods:
        statuses |= {400, 404, 409, 413, 415}
    return {status: {"description": HTTPStatus(status).phrase} for status in sorted(statuses)}


@lru_cache(maxsize=1)
def error_field() -> ModelField:
    return create_model_field("ErrorOut", ErrorOut, mode="serialization")
