"""``codes.md``：错误码出自 ``errors.py``，帧里的与关闭码出自 ``docs/asyncapi.yaml``。"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from meeting_push import errors
from meeting_push.protocol.codes import CloseCode
from meeting_push.router.error_answers import status_of

from .frames import document
from .pages import cell, head, table

#: 从不从 REST 出去的：配置、帧、信封、Redis 的命令（变成 500）。
INSIDE: Final = {"bad_configuration", "bad_frame", "malformed_envelope", "redis_command_failed"}
#: 只在用户的 WebSocket 上。
ON_THE_SOCKET: Final = {"watch_limit"}


class Code(NamedTuple):
    code: str
    status: int
    temporary: bool
    meaning: str


#: 框架与门口自己的，没有类。
WITHOUT_A_CLASS: Final = (
    Code("method_not_allowed", 405, False, "这个路径不收这个方法；`Allow` 列出全部收的。"),
    Code("invalid_cursor", 422, False, "`cursor` 不是上一页给的。"),
    Code("overloaded", 503, True, "门口满了：连接、等着的请求太多；什么都没有做。"),
)
_FRAMES: Final = """
## 帧里的错误码

`error` 帧的 `code`；那一帧没有被接受，连接还在。
"""
_CLOSING: Final = """
## 关闭码

**4000–4499：退避后重连；4500–4999：不要。** 1000、1002、1007、1009 按 RFC 6455；
别的（1001、1006、1012 …）是网络、代理或服务器重启：重连。关闭的原因（reason）就是下面的名；
两种驱动上的样子由 `tests/system/connections/test_close_codes.py` 守着。
"""


def codes() -> list[Code]:
    """每个能从 REST 出去的，按状态。"""
    found, kinds = list(WITHOUT_A_CLASS), [errors.MeetingPushError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        if kind.__module__ == errors.__name__ and kind.code not in INSIDE | ON_THE_SOCKET:
            status = status_of(kind.__new__(kind))
            found.append(Code(kind.code, status, kind.temporary, _meaning(kind)))
    return sorted(_merged(found), key=lambda one: one.status)


def _merged(found: list[Code]) -> list[Code]:
    """几个类同一个码的，说头一个类说的。"""
    first: dict[str, Code] = {}
    for one in found:
        first.setdefault(one.code, one)
    return list(first.values())


def _meaning(kind: type[errors.MeetingPushError]) -> str:
    if kind is errors.MeetingPushError:
        return "我们的错，记在日志里。"
    return cell((kind.__doc__ or "").split("\n\n")[0])


def page() -> str:
    rows = (
        (str(one.status), f"`{one.code}`", "是" if one.temporary else "", one.meaning)
        for one in codes()
    )
    return "\n".join(
        (
            head("codes"),
            *table(("状态", "code", "再来", "含义"), rows),
            _FRAMES,
            *_in_frames(),
            _CLOSING,
            *table(("码", "名", "重连", "客户端该做什么"), _closing()),
            "",
        )
    )


def _in_frames() -> Iterator[str]:
    known = document()["components"]["schemas"]["Error"]["properties"]["code"]["x-codes"]
    yield from table(("code", "含义"), ((f"`{code}`", said) for code, said in known.items()))


def _closing() -> Iterator[tuple[str, str, str, str]]:
    known = document()["channels"]["userMessages"]["x-close-codes"]
    for code in CloseCode:
        one = known[str(int(code))]
        yield (
            str(int(code)),
            f"`{one['name']}`",
            "是" if one["reconnect"] else "不要",
            one["advice"],
        )
