"""``dingtalk+https://…/robot/send?access_token=…&secret=SEC…``：钉钉群里的自定义机器人，加签，markdown。

签名是 ``HmacSHA256(密钥, "毫秒\\n密钥")`` 的 base64，与 ``timestamp`` 一起放进地址；
时刻与钉钉差一小时以上就不收。
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final
from urllib.parse import quote

import msgspec

from ....clock import Clock, now_ms
from ....errors import ConfigurationError
from ...alerts.model import Notice
from ..config import Channel
from ..http_post import HttpPost
from ..sender import TIMEOUT_S
from ..text import NoticeWriter
from .robot_answer import check_robot

#: 整个请求体。
MOST_BYTES: Final = 20_000
#: 130101：发送速度太快而限流；410100：同；88：API 限流。
_TOO_FAST: Final = frozenset({88, 130101, 410100})


class DingTalk:
    def __init__(
        self,
        channel: Channel,
        writer: NoticeWriter,
        *,
        timeout_s: float = TIMEOUT_S,
        clock: Clock = now_ms,
    ) -> None:
        address = channel.address
        if not address.get("access_token"):
            raise ConfigurationError(f"{address}: has no access_token=")
        self._http = HttpPost(address, timeout_s)
        self._address = address
        self._url = address.base(without=frozenset({"secret"}))
        self._secret = address.get("secret")
        self._language = channel.language
        self._writer = writer
        self._clock = clock

    async def send(self, notice: Notice) -> tuple[str, ...]:
        headers = {"Content-Type": "application/json; charset=utf-8"}
        answer = await self._http.post(self._signed(), headers, self.body(notice))
        check_robot(answer, self._address, _TOO_FAST)
        return ()

    def _signed(self) -> str:
        if not self._secret:
            return self._url
        timestamp = self._clock()
        sign = quote(signature(self._secret, timestamp), safe="")
        return f"{self._url}&timestamp={timestamp}&sign={sign}"

    def body(self, notice: Notice) -> bytes:
        """转义也占地方，装不下就再写短一些。"""
        room = MOST_BYTES
        while True:
            body = self._encoded(notice, room)
            if len(body) <= MOST_BYTES:
                return body
            room -= len(body) - MOST_BYTES

    def _encoded(self, notice: Notice, room: int) -> bytes:
        title = self._writer.title(notice, self._language)
        text = self._writer.markdown(notice, self._language, room)
        return msgspec.json.encode(
            {"msgtype": "markdown", "markdown": {"title": title, "text": text}}
        )


def signature(secret: str, timestamp: int) -> str:
    """base64，还没有为地址转义。"""
    signed = f"{timestamp}\n{secret}".encode()
    return base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
