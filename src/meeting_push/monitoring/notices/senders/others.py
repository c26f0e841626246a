"""其余的地址：Apprise 认识的一百多种。用到时才装载它（``[server]`` 里有）。"""

from __future__ import annotations

import asyncio
from typing import Any

from ....errors import ChannelFailedError, ConfigurationError, MissingExtraError
from ...alerts.model import AlertState, Notice, Severity
from ..address import Address
from ..config import Channel
from ..sender import TIMEOUT_S
from ..text import NoticeWriter


class Others:
    """Apprise 只说成或不成，为什么在它自己的日志里。"""

    def __init__(
        self, channel: Channel, writer: NoticeWriter, *, timeout_s: float = 3 * TIMEOUT_S
    ) -> None:
        self._service = _service(channel.address)
        self._language = channel.language
        self._writer = writer
        self._timeout_s = timeout_s

    async def send(self, notice: Notice) -> tuple[str, ...]:
        """超时的线程留在后面自己结束：Apprise 的每次请求有它自己的时限。"""
        try:
            async with asyncio.timeout(self._timeout_s):
                sent = await asyncio.to_thread(self._notify, notice)
        except TimeoutError:
            raise ChannelFailedError("Apprise: no answer in time") from None
        except Exception as error:  # noqa: BLE001 — 一百多种插件，各抛各的
            raise ChannelFailedError(f"Apprise: {type(error).__name__}") from None
        if not sent:
            raise ChannelFailedError("Apprise: not sent, see its log")
        return ()

    def _notify(self, notice: Notice) -> bool:
        most_title, most_body = self._service.title_maxlen, self._service.body_maxlen
        sent = self._service.notify(
            title=self._writer.title(notice, self._language, most_title) if most_title else "",
            body=self._writer.plain(notice, self._language, most_body),
            notify_type=_kind(notice),
        )
        return bool(sent)


def _service(address: Address) -> Any:
    try:
        from apprise import Apprise
    except ImportError as error:
        raise MissingExtraError(f"the channel {address}", error, "server") from None
    service = Apprise.instantiate(address.url, suppress_exceptions=True)
    if service is None:
        raise ConfigurationError(f"{address}: no kind of channel knows this address")
    return service


def _kind(notice: Notice) -> str:
    firing = [alert for alert in notice.alerts if alert.state is AlertState.FIRING]
    if not firing:
        return "success"
    worst = max(firing, key=lambda alert: alert.severity.rank).severity
    return "failure" if worst is Severity.CRITICAL else "warning"
