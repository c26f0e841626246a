"""``wecom+https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=…``：企业微信的群机器人，markdown。"""

from __future__ import annotations

from typing import Final

import msgspec

from ....errors import ConfigurationError
from ...alerts.model import Notice
from ..config import Channel
from ..http_post import HttpPost
from ..sender import TIMEOUT_S
from ..text import NoticeWriter
from .robot_answer import check_robot

#: ``markdown.content`` 的上限，UTF-8 的字节。
MOST_BYTES: Final = 4_096
#: 45009：接口调用超过限制；45033：并发超过限制。
_TOO_FAST: Final = frozenset({45009, 45033})


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
        content = self._writer.markdown(notice, self._language, MOST_BYTES)
        body = msgspec.json.encode({"msgtype": "markdown", "markdown": {"content": content}})
        headers = {"Content-Type": "application/json; charset=utf-8"}
        answer = await self._http.post(self._address.base(), headers, body)
        check_robot(answer, self._address, _TOO_FAST)
        return ()
