"""把一份通知发到一个渠道：几次，退避，数着；发不成就抛出，由 ``Notifier`` 决定怎么办。

看门狗的心跳也是这样发的：规则 ``watchdog`` 一直触发，每分钟往另一头的开关（healthchecks 之类）说
一声，那一头听不到了就该去叫人：评估停了、进程没了、网断了都是。所以评估不再来说，心跳也停。

一个地址由谁发，看它的方案（``sender_of``）；没有自己一页的两种在这里：写日志的，与 Apprise 认识的
一百多种。
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ulid import ULID

from ...errors import ChannelFailedError, ConfigurationError, MissingExtraError
from ...logs import RepeatedWarning, logger, plain
from ...supervision import periodically, woken
from ..alerts.model import Alert, AlertState, Notice, Severity
from ..metrics import Sample
from .channel import TIMEOUT_S, Address, Channel, Sender
from .mail import Mail
from .robots import DingTalk, WeCom
from .schedule import Lane
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


#: 看门狗的规则。
WATCHDOG: Final = "watchdog"
#: 嫌太快的连着这么多次，就是坏了。
MOST_SLOW_DOWNS: Final = 3


@dataclass(frozen=True, slots=True)
class Timings:
    #: 各次重试之前歇多久，乘以一个 0.5–1 的随机数。
    retries_s: tuple[float, ...] = (1.0, 4.0)
    #: 没有后备的渠道坏了，歇多久再试。
    rest_s: float = 60.0
    #: 看门狗的心跳多久一次；多久没有新的评估就停。
    beat_s: float = 60.0
    stale_s: float = 180.0
    #: 多久看一眼此刻在触发的。
    watch_s: float = 5.0
    #: 问记录至多等这么久。
    ask_s: float = 2.0


@dataclass(slots=True)
class NoticeStatistics:
    """发了几份、失败了几份，按渠道的种类；规则 ``notifier_failing`` 看的就是它。

    只增，``waiting`` 除外。种类一开始就都在，值是 0：没有发过也看得见。
    """

    kinds: frozenset[str]
    sent: Counter[str] = field(default_factory=Counter)
    #: 试了几次都没有说成的份数，与有收件人被拒绝的份数。
    failed: Counter[str] = field(default_factory=Counter)
    #: 等不下而丢了的告警。
    dropped: int = 0
    waiting: int = 0


def notice_samples(statistics: NoticeStatistics) -> Iterator[Sample]:
    for kind in sorted(statistics.kinds):
        label = {"channel": kind}
        yield Sample("notices_sent", "counter", "notices sent", statistics.sent[kind], label)
        yield Sample(
            "notices_failed", "counter", "notices that failed", statistics.failed[kind], label
        )
    yield Sample(
        "notices_dropped", "counter", "alerts dropped, too many waiting", statistics.dropped
    )
    yield Sample("notices_waiting", "gauge", "alerts waiting to be told", statistics.waiting)


class Courier:
    """一个渠道一个。"""

    def __init__(
        self,
        lane: Lane,
        sender: Sender,
        statistics: NoticeStatistics,
        timings: Timings,
        monotonic: Callable[[], float],
    ) -> None:
        self.lane = lane
        self.wake = asyncio.Event()
        self._sender = sender
        self._statistics = statistics
        self._timings = timings
        self._monotonic = monotonic
        self._slow_downs = 0
        self._said = RepeatedWarning("notice_failed", lines=5)

    @property
    def name(self) -> str:
        return self.lane.channel.name

    async def deliver(
        self, alerts: Sequence[Alert], *, is_test: bool = False, is_escalation: bool = False
    ) -> tuple[str, ...]:
        """返回被拒绝的收件人。成败都数过、说过。

        :raises ChannelFailedError: 没有人收到；``slow_down_s`` 大于 0 的不算失败
        """
        notice = Notice(
            notice_id=str(ULID()),
            alerts=tuple(alerts),
            is_test=is_test,
            is_escalation=is_escalation,
        )
        try:
            refused = await self._attempts(notice)
        except ChannelFailedError as error:
            raise self._judged(error, len(alerts)) from None
        self._slow_downs = 0
        self._statistics.sent[self.lane.channel.kind] += 1
        if refused:
            self._statistics.failed[self.lane.channel.kind] += 1
            self._said.say(channel=self.name, refused=", ".join(refused), alerts=len(alerts))
        return refused

    async def _attempts(self, notice: Notice) -> tuple[str, ...]:
        for pause_s in self._timings.retries_s:
            try:
                return await self._attempt(notice)
            except ChannelFailedError as error:
                if not error.temporary or error.slow_down_s:
                    raise
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 — 抖动
            if wait_s := self.lane.rate_wait(self._monotonic()):
                raise ChannelFailedError("out of its rate", slow_down_s=wait_s)
        return await self._attempt(notice)

    async def _attempt(self, notice: Notice) -> tuple[str, ...]:
        try:
            return await self._sender.send(notice)
        except ChannelFailedError:
            raise
        except Exception as error:  # noqa: BLE001 — 见下
            # 我们自己的错也不许丢了通知：当作渠道坏了，由后备去说
            logger.bind(channel=self.name).opt(exception=error).error("notice_sender_broken")
            raise ChannelFailedError(type(error).__name__, temporary=False) from None
        finally:
            self.lane.attempted(self._monotonic())

    def _judged(self, error: ChannelFailedError, alerts: int) -> ChannelFailedError:
        """嫌太快的先等着；连着几次就是坏了。"""
        if error.slow_down_s:
            self._slow_downs += 1
            if self._slow_downs < MOST_SLOW_DOWNS:
                return error
        self._slow_downs = 0
        self._statistics.failed[self.lane.channel.kind] += 1
        self._said.say(channel=self.name, cause=error.message, alerts=alerts)
        return ChannelFailedError(error.message, temporary=error.temporary)


class Watchdog:
    """``couriers``：收心跳的渠道，它们不收别的。"""

    def __init__(
        self, couriers: Sequence[Courier], timings: Timings, monotonic: Callable[[], float]
    ) -> None:
        self._couriers = couriers
        self._timings = timings
        self._monotonic = monotonic
        self._alert: Alert | None = None
        self._heard_at = 0.0
        self._next_at = 0.0
        self._wake = asyncio.Event()

    def hear(self, alert: Alert) -> None:
        """评估说它还活着。"""
        if alert.state is AlertState.RESOLVED:
            self.stop()
            return
        if self._alert is None:
            self._wake.set()
        self._alert, self._heard_at = alert, self._monotonic()

    def stop(self) -> None:
        self._alert = None

    async def beat(self) -> None:
        """一个循环。"""
        await periodically(self._step, self._pause)

    async def _step(self) -> None:
        self._wake.clear()
        now = self._monotonic()
        alert = self._alert
        if alert is None or now < self._next_at:
            return
        if now - self._heard_at > self._timings.stale_s:
            self._alert = None
            return
        self._next_at = now + self._timings.beat_s
        await asyncio.gather(*(_told(courier, alert) for courier in self._couriers))

    async def _pause(self) -> None:
        left_s = self._next_at - self._monotonic()
        await woken(self._wake, left_s if self._alert and left_s > 0 else self._timings.beat_s)


async def _told(courier: Courier, alert: Alert) -> None:
    try:
        await courier.deliver([alert])
    except ChannelFailedError:
        return  # 数过、说过；下一次心跳不远
