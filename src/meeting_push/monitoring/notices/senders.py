"""一个地址由谁发，看它的方案；没有自己一页的两种在这里：写日志的，与 Apprise 认识的一百多种。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from ...errors import ChannelFailedError, ConfigurationError, MissingExtraError
from ...logs import logger, plain
from ..alerts.model import Alert, AlertState, Notice, Severity
from .channel import TIMEOUT_S, Address, Channel, Sender
from .mail import Mail
from .robots import DingTalk, WeCom
from .sms import AliyunSms, TencentSms
from .text import NoticeWriter
from .webhook import Webhook


class LogLines:
    """``log://``：每条告警一行 WARNING。"""

    def __init__(self, channel: Channel, writer: NoticeWriter) -> None:
        if channel.address.url != "log://":
            raise ConfigurationError("log:// takes nothing after it")
        self._language = channel.language
        self._writer = writer

    async def send(self, notice: Notice) -> tuple[str, ...]:
        for alert in notice.alerts:
            self._say(alert, notice)
        return ()

    def _say(self, alert: Alert, notice: Notice) -> None:
        summary = alert.summary.zh if self._language == "zh" else alert.summary.en
        fields = {
            "alert_id": alert.alert_id,
            "rule": alert.rule,
            "severity": alert.severity.value,
            "summary": plain(summary),
            "value": self._writer.show(alert.rule, alert.value),
            "threshold": self._writer.show(alert.rule, alert.threshold),
            "since": self._writer.moment(alert.started_at),
            "runbook": self._writer.runbook(alert),
            **{f"label_{name}": plain(value) for name, value in alert.labels.items()},
            **({"test": True} if notice.is_test else {}),
            **({"escalated": True} if notice.is_escalation else {}),
        }
        log = logger.bind(**fields)
        if alert.state is AlertState.FIRING:
            log.warning("alert_firing")
        else:
            log.warning("alert_resolved")


class Others:
    """其余的地址。Apprise 用到时才装载（``[server]`` 里有）。

    它只说成或不成，为什么在它自己的日志里。
    """

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


_OURS: Final[dict[str, Callable[[Channel, NoticeWriter], Sender]]] = {
    "log": LogLines,
    "webhook+http": Webhook,
    "webhook+https": Webhook,
    "dingtalk+http": DingTalk,
    "dingtalk+https": DingTalk,
    "wecom+http": WeCom,
    "wecom+https": WeCom,
    "sms-aliyun+http": AliyunSms,
    "sms-aliyun+https": AliyunSms,
    "sms-tencent+http": TencentSms,
    "sms-tencent+https": TencentSms,
    "mailto": Mail,
    "mailtos": Mail,
}


def sender_of(channel: Channel, writer: NoticeWriter) -> Sender:
    """:raises ConfigurationError: 地址缺了什么、多了什么，或没有谁认识它；一行话，没有密钥"""
    make = _OURS.get(channel.address.scheme, Others)
    try:
        return make(channel, writer)
    except ConfigurationError as error:
        raise ConfigurationError(f"channel {channel.name!r}: {error.message}") from error
