"""握手请求：驱动从各自的库里取出同样的几样东西，此后两者无别。

每条连接解析一次；里面有令牌，认证之后就该放手，绝不写进日志。
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from ..model import MAX_USER_ID, ResumePoint
from ..protocol.frames import SUBPROTOCOL

PATH_PREFIX: Final = "/ws/user/"
MAX_DEVICE_ID_CHARS: Final = 64
MAX_DEVICE_INFO_CHARS: Final = 256
_EPOCH: Final = re.compile(r"[!-~]{1,64}")
_SEQ: Final = re.compile(r"[0-9]{1,16}")
#: 设备声称有位置，可我们看不懂；这个 epoch 谁也不会发。
UNREADABLE_POSITION: Final = ResumePoint("?", 0)
_MAX_QUERY_FIELDS: Final = 32
_USER_ID: Final = re.compile(r"[1-9][0-9]{0,15}")
_PATH: Final = re.compile(re.escape(PATH_PREFIX) + r"([^/?]+)/messages")


def parse_user_id(text: str) -> int | None:
    """规范写法的正整数；``01``、``-1``、``1e3``、全角数字与过大的都不是。"""
    if _USER_ID.fullmatch(text) is None:
        return None
    user_id = int(text)
    return user_id if user_id <= MAX_USER_ID else None


def user_id_in_path(path: str) -> int | None:
    """``/ws/user/{user_id}/messages`` 里的用户；别的路径是 None（HTTP 404）。"""
    match = _PATH.fullmatch(path)
    return None if match is None else parse_user_id(match.group(1))


@dataclass(frozen=True, slots=True, repr=False)
class Handshake:
    """``headers`` 的名字为小写、可重复；``query`` 是未解码的查询串。"""

    user_id: int
    query: str
    headers: tuple[tuple[str, str], ...]
    ip_address: str

    def header_values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def header(self, name: str) -> str | None:
        values = self.header_values(name)
        return values[0] if values else None

    def fields(self) -> list[tuple[str, str]]:
        """查询串的各项；坏的百分号编码变成替换字符，项数过多则当作没有。"""
        try:
            return parse_qsl(self.query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
        except ValueError:
            return []

    def subprotocols(self) -> list[str]:
        offered = ",".join(self.header_values("sec-websocket-protocol"))
        return [token.strip() for token in offered.split(",")] if offered else []

    @property
    def accepted_subprotocol(self) -> str | None:
        """只回显 ``meeting-push.v1``，且只在客户端提出时；带令牌的那个绝不回显。"""
        return SUBPROTOCOL if SUBPROTOCOL in self.subprotocols() else None


@dataclass(frozen=True, slots=True)
class Device:
    """客户端自报的设备；都不可信，只截短、去掉控制字符。"""

    device_id: str
    device_info: str
    resume: ResumePoint | None

    @classmethod
    def of(cls, handshake: Handshake, connection_id: str) -> Device:
        """没报 ``device_id`` 的用 ``connection_id``；没报 ``device_info`` 的用 User-Agent。"""
        given: dict[str, str] = {}
        for name, value in handshake.fields():
            given.setdefault(name, value)
        info = given.get("device_info") or handshake.header("user-agent") or ""
        return cls(
            clean(given.get("device_id", ""), MAX_DEVICE_ID_CHARS) or connection_id,
            clean(info, MAX_DEVICE_INFO_CHARS),
            _resume_point(given.get("epoch", ""), given.get("last_seq", "")),
        )


def clean(text: str, max_chars: int) -> str:
    """去掉控制字符、代理项与首尾空白，截短。"""
    kept = (char for char in text[: max_chars * 2] if unicodedata.category(char)[0] != "C")
    return "".join(kept).strip()[:max_chars]


def _resume_point(epoch: str, last_seq: str) -> ResumePoint | None:
    """都没给是没有位置；给了而看不懂的（C7）是作废的位置：它得到信箱，和一帧 ``resync``。"""
    if not epoch and not last_seq:
        return None
    if _EPOCH.fullmatch(epoch) is None or _SEQ.fullmatch(last_seq) is None:
        return UNREADABLE_POSITION
    return ResumePoint(epoch, int(last_seq))
