"""群里的机器人，markdown：钉钉与企业微信。它们说不也是 HTTP 200，``errcode`` 不是 0。

``dingtalk+https://…/robot/send?access_token=…&secret=SEC…``：加签。签名是
``HmacSHA256(密钥, "毫秒\\n密钥")`` 的 base64，与 ``timestamp`` 一起放进地址；
时刻与钉钉差一小时以上就不收。

``wecom+https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=…``。
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Container
from typing import Final
from urllib.parse import quote

import msgspec

from ...clock import Clock, now_ms
from ...errors import ChannelFailedError, ConfigurationError
from ..alerts.model import Notice
from .channel import TIMEOUT_S, Address, Channel
from .text import NoticeWriter
from .webhook import Answer, HttpPost

#: 嫌太快之后歇这么久：它们按一分钟算。
PAUSE_S = 60.0
#: 整个请求体。
_DINGTALK_BYTES: Final = 20_000
#: 130101：发送速度太快而限流；410100：同；88：API 限流。
_DINGTALK_TOO_FAST: Final = frozenset({88, 130101, 410100})
#: ``markdown.content`` 的上限，UTF-8 的字节。
_WECOM_BYTES: Final = 4_096
#: 45009：接口调用超过限制；45033：并发超过限制。
_WECOM_TOO_FAST: Final = frozenset({45009, 45033})


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
        check_robot(answer, self._address, _DINGTALK_TOO_FAST)
        return ()

    def _signed(self) -> str:
        if not self._secret:
            return self._url
        timestamp = self._clock()
        sign = quote(signature(self._secret, timestamp), safe="")
        return f"{self._url}&timestamp={timestamp}&sign={sign}"

    def body(self, notice: Notice) -> bytes:
        """转义也占地方，装不下就再写短一些。"""
        room = _DINGTALK_BYTES
        while True:
            body = self._encoded(notice, room)
            if len(body) <= _DINGTALK_BYTES:
                return body
            room -= len(body) - _DINGTALK_BYTES

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


class WeCom:
    def __init__(
        self, channel: Channel, writer: NoticeWriter, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        if not channel.address.get("key"):
            raise ConfigurationError(f"{channel.address}: has no key=")
        self._http = HttpPost(channel.address, timeout_s)
        self._address = channel.address
        self._language = channel.language
        self._writer = writer

    async def send(self, notice: Notice) -> tuple[str, ...]:
        content = self._writer.markdown(notice, self._language, _WECOM_BYTES)
        body = msgspec.json.encode({"msgtype": "markdown", "markdown": {"content": content}})
        headers = {"Content-Type": "application/json; charset=utf-8"}
        answer = await self._http.post(self._address.base(), headers, body)
        check_robot(answer, self._address, _WECOM_TOO_FAST)
        return ()


class _Said(msgspec.Struct):
    errcode: int
    errmsg: str = ""


def check_robot(answer: Answer, address: Address, too_fast: Container[int]) -> None:
    """``too_fast``：哪些 ``errcode`` 是嫌太快。

    :raises ChannelFailedError: 没有收下，或答的不是它的格式
    """
    try:
        said = msgspec.json.decode(answer.body, type=_Said)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ChannelFailedError("HTTP 200, but not a robot's answer", temporary=False) from None
    if said.errcode == 0:
        return
    reason = f"errcode {said.errcode}: {address.scrub(said.errmsg)}"
    if said.errcode in too_fast:
        raise ChannelFailedError(reason, slow_down_s=PAUSE_S)
    # -1：系统繁忙，请稍后再试
    raise ChannelFailedError(reason, temporary=said.errcode == -1)
