"""通知，整个的：真的 HTTP 与 SMTP 接收者，监督者跑着的循环。"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from meeting_push.clock import now_ms
from meeting_push.errors import ChannelFailedError, DatabaseUnavailableError, NotFoundError
from meeting_push.monitoring.alerts.model import Alert, Severity, row_of
from meeting_push.monitoring.notices.channel import Escalation, NoticeConfig
from meeting_push.monitoring.notices.config import notice_config
from meeting_push.monitoring.notices.courier import Timings, notice_samples
from meeting_push.monitoring.notices.notifier import Notifier
from meeting_push.monitoring.notices.text import NoticeWriter
from meeting_push.storage.alerts import AlertRow, Standing, ToldRow
from meeting_push.supervision import Supervisor
from tests.support.eventually import eventually
from tests.support.notice_receivers import (
    HttpReceiver,
    Received,
    Reply,
    http_receiver,
    smtp_receiver,
)
from tests.support.notices import alert, resolved

QUICK = Timings(retries_s=(0.01, 0.01), rest_s=0.05, beat_s=0.05, stale_s=0.5, watch_s=0.02)


@dataclass
class Memory:
    """SQL 的替身：``down`` 时不在。"""

    rows: dict[tuple[Any, ...], ToldRow] = field(default_factory=dict)
    standing: dict[str, Standing] = field(default_factory=dict)
    recovered: list[AlertRow] = field(default_factory=list)
    down: bool = False

    async def note(self, rows: Sequence[ToldRow]) -> None:
        self._check()
        self.rows |= {row[:4]: row for row in rows}

    async def told(self, now_ms: int) -> list[ToldRow]:
        self._check()
        return [row for row in self.rows.values() if row.told]

    async def unsaid(self, now_ms: int) -> list[AlertRow]:
        return self.recovered

    async def purge(self, now_ms: int) -> int:
        return 0

    async def standings(self, alert_ids: Sequence[str]) -> Mapping[str, Standing]:
        self._check()
        return {name: self.standing[name] for name in alert_ids if name in self.standing}

    def _check(self) -> None:
        if self.down:
            raise DatabaseUnavailableError("away")


@dataclass
class World:
    memory: Memory = field(default_factory=Memory)
    firing: list[Alert] | None = None
    #: 单调的钟往前拨了多少秒。
    ahead_s: float = 0.0
    clock: Callable[[], int] = now_ms

    @asynccontextmanager
    async def notifier(self, config: NoticeConfig, **given: Any) -> AsyncIterator[Notifier]:
        notifier = Notifier(
            config,
            NoticeWriter(),
            self.memory,
            firing=lambda: self.firing,
            timings=given.pop("timings", QUICK),
            clock=lambda: self.clock(),
            monotonic=lambda: time.monotonic() + self.ahead_s,
        )
        supervisor = Supervisor()
        for name, body in notifier.loops():
            supervisor.start(name, body)
        yield notifier
        died = [loop.name for loop in supervisor.states() if loop.restarts]
        await supervisor.stop()
        assert died == []


def hook(there: HttpReceiver, name: str = "hook", **given: Any) -> dict[str, Any]:
    return {"name": name, "url": f"webhook+http://{there.host}/{name}", "group_s": 0.05, **given}


def config(*channels: dict[str, Any], **given: Any) -> NoticeConfig:
    known = notice_config(list(channels), None, given.pop("quiet_hours", None))
    return NoticeConfig(known.channels, given.pop("escalate", ()), known.quiet_hours)


def escalations(there: HttpReceiver) -> list[str]:
    """升级了的告警，按到的次序。"""
    bodies = [json.loads(got.body)["data"] for got in there.requests]
    return [each["alerts"][0]["alert_id"] for each in bodies if each["escalation"]]


def told(got: Received) -> list[tuple[str, str]]:
    alerts = json.loads(got.body)["data"]["alerts"]
    return [(one["alert_id"], one["state"]) for one in alerts]


def broken(_: Received) -> Reply:
    return Reply(b"no", 500)


@pytest.fixture
def world() -> World:
    return World()


async def test_what_fired_and_recovered_is_told_in_one_notice_each(world: World) -> None:
    async with http_receiver() as there, world.notifier(config(hook(there))) as notifier:
        await notifier.told([alert("a"), alert("b")])
        await notifier.told([alert("a")])
        (first,) = await there.arrived(1)
        await notifier.told([resolved("a"), resolved("b"), resolved("never")])
        _, second = await there.arrived(2)
    assert told(first) == [("a", "firing"), ("b", "firing")]
    assert told(second) == [("a", "resolved"), ("b", "resolved")]


async def test_a_thousand_at_once_are_one_notice(world: World) -> None:
    async with http_receiver() as there, world.notifier(config(hook(there))) as notifier:
        await notifier.told([alert(f"a{n}") for n in range(1000)])
        (got,) = await there.arrived(1)
        assert len(told(got)) == 1000
        await eventually(lambda: len(world.memory.rows) == 1000)


async def test_a_channel_that_hangs_does_not_hold_up_another(world: World) -> None:
    async def hang(_: Received) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async with http_receiver(hang) as dead, http_receiver() as there:
        both = config(hook(dead, "dead"), hook(there))
        async with world.notifier(both) as notifier:
            await notifier.told([alert()])
            await there.arrived(1)


async def test_a_channel_that_fails_falls_back_and_is_counted(world: World) -> None:
    async with http_receiver(broken) as dead, smtp_receiver() as mail:
        url = f"mailto://127.0.0.1:{mail.port}?to=ops@example.org"
        both = config(
            hook(dead, fallback="mail"),
            {"name": "mail", "url": url, "group_s": 0, "min_severity": "critical"},
        )
        async with world.notifier(both) as notifier:
            await notifier.told([alert("a")])
            await eventually(lambda: len(mail.letters) == 1)
            await notifier.told([resolved("a")])
            await eventually(lambda: len(mail.letters) == 2)
            assert len(dead.requests) == 3
            statistics = notifier.statistics()
            await eventually(lambda: len(world.memory.rows) == 3)
    assert statistics.failed == {"webhook": 1}
    assert statistics.sent == {"mailto": 2}
    assert world.memory.rows["a", "hook", "firing", False].reason == "HTTP 500: no"
    assert world.memory.rows["a", "mail", "firing", False].told


async def test_without_a_fallback_it_is_tried_until_it_works(world: World) -> None:
    async with http_receiver(broken) as there, world.notifier(config(hook(there))) as notifier:
        await notifier.told([alert("a")])
        await there.arrived(4)
        there.answer = lambda _: Reply()
        await notifier.told([alert("b")])
        await eventually(lambda: notifier.statistics().sent["webhook"] > 0)
        await eventually(lambda: notifier.statistics().waiting == 0)
        heard = {name for got in there.requests for name, _ in told(got)}
    assert heard == {"a", "b"}


async def test_what_is_refused_for_good_is_not_tried_again(world: World) -> None:
    async with http_receiver(lambda _: Reply(b"", 404)) as there, http_receiver() as other:
        both = config(hook(there, fallback="other"), hook(other, "other", min_severity="critical"))
        async with world.notifier(both) as notifier:
            await notifier.told([alert()])
            await other.arrived(1)
            assert len(there.requests) == 1


async def test_one_refused_recipient_is_told_and_counted(world: World, log: list[str]) -> None:
    async with smtp_receiver() as mail:
        mail.refuse = {"gone@example.org"}
        url = f"mailto://127.0.0.1:{mail.port}?to=ops@example.org,gone@example.org"
        channel = {"name": "mail", "url": url, "group_s": 0}
        async with world.notifier(config(channel)) as notifier:
            await notifier.told([alert("a")])
            await eventually(lambda: bool(world.memory.rows))
            statistics = notifier.statistics()
    assert (statistics.sent["mailto"], statistics.failed["mailto"]) == (1, 1)
    assert [letter.to for letter in mail.letters] == [["ops@example.org"]]
    assert "gone@example.org" in world.memory.rows["a", "mail", "firing", False].reason
    assert any("notice_failed" in line and "gone@example.org" in line for line in log)


async def test_the_robot_never_hears_a_twenty_first_a_minute(world: World) -> None:
    def strict(got: Received) -> Reply:
        too_many = len(there.requests) >= 20 and not world.ahead_s
        return Reply(json.dumps({"errcode": 130101 if too_many else 0, "errmsg": ""}).encode())

    async with http_receiver(strict) as there:
        url = f"dingtalk+http://{there.host}/robot/send?access_token=T"
        robot = {"name": "robot", "url": url, "group_s": 0}
        async with world.notifier(config(robot)) as notifier:
            for n in range(20):
                await notifier.told([alert(f"a{n}")])
                await there.arrived(n + 1)
            await notifier.told([alert(f"b{n}", f"rule_{n}") for n in range(9)])
            await eventually(lambda: notifier.statistics().waiting == 9)
            assert len(there.requests) == 20
            world.ahead_s = 61
            await notifier.told([alert("c", "rule_9")])
            *_, last = await there.arrived(21)
            statistics = notifier.statistics()
    text = json.loads(last.body)["markdown"]["text"]
    assert all(f"rule_{n}" in text for n in range(10))
    assert statistics.failed == {}


async def test_at_night_only_what_pierces_is_told(world: World) -> None:
    day_ms = 86_400_000
    world.clock = lambda: 20_000 * day_ms + 2 * 3_600_000  # 02:00 UTC
    quiet = {"from": "22:00", "to": "07:00", "tz": "UTC"}
    async with http_receiver() as there:
        night = config(hook(there), quiet_hours=quiet)
        async with world.notifier(night) as notifier:
            grave = alert("c", severity=Severity.CRITICAL)
            await notifier.told([alert("a"), grave, alert("b")])
            (first,) = await there.arrived(1)
            await notifier.told([resolved("b")])
            world.clock = lambda: 20_000 * day_ms + 7 * 3_600_000
            await notifier.told([alert("d")])
            _, second = await there.arrived(2)
    assert told(first) == [("c", "firing")]
    assert sorted(told(second)) == [("a", "firing"), ("b", "resolved"), ("d", "firing")]


async def test_what_is_silenced_is_not_told(world: World) -> None:
    world.memory.standing["a"] = Standing(silenced_until=now_ms() + 60_000)
    async with http_receiver() as there, world.notifier(config(hook(there))) as notifier:
        await notifier.told([alert("a"), alert("b")])
        (first,) = await there.arrived(1)
        assert told(first) == [("b", "firing")]
        world.memory.standing.clear()
        world.ahead_s = 61
        await notifier.told([alert("c")])
        await eventually(lambda: notifier.statistics().waiting == 0)
        heard = [each for got in there.requests[1:] for each in told(got)]
    assert sorted(heard) == [("a", "firing"), ("c", "firing")]


async def test_a_silenced_recovery_is_not_told_either(world: World) -> None:
    async with http_receiver() as there, world.notifier(config(hook(there))) as notifier:
        await notifier.told([alert("a")])
        await there.arrived(1)
        world.memory.standing["a"] = Standing(silenced_until=now_ms() + 60_000)
        await notifier.told([resolved("a"), alert("b")])
        _, second = await there.arrived(2)
    assert told(second) == [("b", "firing")]


async def test_what_nobody_acknowledges_goes_up_step_by_step(world: World) -> None:
    async with http_receiver() as there, http_receiver() as boss, http_receiver() as top:
        escalate = (Escalation(0.1, "boss"), Escalation(0.2, "top"))
        channels = (
            hook(there),
            hook(boss, "boss", min_severity="warning"),
            hook(top, "top", min_severity="warning"),
        )
        async with world.notifier(config(*channels, escalate=escalate)) as notifier:
            await notifier.told([alert("a")])
            _, escalated = await boss.arrived(2)
            await top.arrived(2)
            world.memory.standing["b"] = Standing(acknowledged_at=1)
            await notifier.told([alert("b")])
            await boss.arrived(3)
            await notifier.told([alert("c")])  # 比 b 晚的都升级了：b 不会再来
            await asyncio.gather(boss.arrived(5), top.arrived(5))
            for receiver in (boss, top):
                assert escalations(receiver) == ["a", "c"]
    assert json.loads(escalated.body)["data"]["escalation"] is True


async def test_a_recovered_alert_is_not_escalated(world: World) -> None:
    async with http_receiver() as there, http_receiver() as boss:
        escalate = (Escalation(0.1, "boss"),)
        both = config(hook(there), hook(boss, "boss"), escalate=escalate)
        async with world.notifier(both) as notifier:
            await notifier.told([alert("a")])
            await there.arrived(1)
            await notifier.told([resolved("a")])
            await there.arrived(2)
            await notifier.told([alert("b")])  # 比 a 晚的都升级了：a 不会再来
            await eventually(lambda: escalations(boss))
            assert escalations(boss) == ["b"]


async def test_it_is_told_while_sql_is_away_and_recorded_when_it_is_back(world: World) -> None:
    world.memory.down = True
    async with http_receiver() as there, world.notifier(config(hook(there))) as notifier:
        await notifier.told([alert("a")])
        await there.arrived(1)
        assert world.memory.rows == {}
        world.memory.down = False
        await eventually(lambda: ("a", "hook", "firing", False) in world.memory.rows)


async def test_who_takes_over_tells_the_rest_and_nothing_twice(world: World) -> None:
    async with http_receiver() as there:
        async with world.notifier(config(hook(there))) as first:
            await first.told([alert("a")])
            await eventually(lambda: bool(world.memory.rows))
        world.firing = [alert("a"), alert("b")]
        async with world.notifier(config(hook(there))) as second:
            await there.arrived(2)
            world.firing = [alert("b")]
            await second.told([resolved("a")])
            await there.arrived(3)
    assert [told(got) for got in there.requests] == [
        [("a", "firing")],
        [("b", "firing")],
        [("a", "resolved")],
    ]


async def test_who_takes_over_tells_the_recovery_its_predecessor_died_with(world: World) -> None:
    async with http_receiver() as there:
        async with world.notifier(config(hook(there))) as first:
            await first.told([alert("a")])
            await eventually(lambda: bool(world.memory.rows))
        world.memory.recovered = [row_of(resolved("a"))]
        world.firing = []
        async with world.notifier(config(hook(there))):
            _, second = await there.arrived(2)
    assert told(second) == [("a", "resolved")]


async def test_an_escalation_is_not_repeated_by_who_takes_over(world: World) -> None:
    async with http_receiver() as there, http_receiver() as boss:
        escalate = (Escalation(0.1, "boss"),)
        channels = (hook(there), hook(boss, "boss"))
        world.firing = [alert("a")]
        async with world.notifier(config(*channels, escalate=escalate)):
            await boss.arrived(2)
            await eventually(lambda: ("a", "boss", "firing", True) in world.memory.rows)
        world.firing = [alert("a"), alert("b")]
        async with world.notifier(config(*channels, escalate=escalate)):  # b 升级了：a 不会再来
            await asyncio.gather(boss.arrived(4), there.arrived(2))
        assert escalations(boss) == ["a", "b"]
        assert len(there.requests) == 2


async def test_the_watchdog_beats_to_its_own_channel_only(world: World) -> None:
    world.firing = [alert("w", "watchdog"), alert("a")]
    async with http_receiver() as dog, http_receiver() as there:
        both = config(hook(dog, "dog", watchdog=True), hook(there))
        async with world.notifier(both):
            await dog.arrived(3)
            await there.arrived(1)
            assert {told(got)[0] for got in dog.requests} == {("w", "firing")}
            assert [told(got) for got in there.requests] == [[("a", "firing")]]


async def test_the_watchdog_is_silent_when_nobody_evaluates(world: World) -> None:
    world.firing = [alert("w", "watchdog")]
    async with http_receiver() as dog, world.notifier(config(hook(dog, "dog", watchdog=True))):
        await dog.arrived(1)
        world.firing = None
        await asyncio.sleep(0.1)
        before = len(dog.requests)
        await asyncio.sleep(0.2)
        assert len(dog.requests) == before


async def test_a_test_notice_is_sent_at_once_and_marked(world: World) -> None:
    async with http_receiver() as there:
        slow = config(hook(there, group_s=1000))
        async with world.notifier(slow) as notifier:
            await notifier.test("hook")
            assert json.loads(there.requests[0].body)["data"]["test"] is True
            there.answer = broken
            with pytest.raises(ChannelFailedError, match="500"):
                await notifier.test("hook")
            with pytest.raises(NotFoundError):
                await notifier.test("nowhere")


async def test_a_sender_that_breaks_loses_nothing(world: World) -> None:
    class Broken:
        async def send(self, notice: object) -> tuple[str, ...]:
            raise ZeroDivisionError

    async with http_receiver() as there:
        both = config(hook(there, "bad", fallback="hook"), hook(there, min_severity="critical"))
        senders = Notifier(both, NoticeWriter())  # 造得出来
        assert senders.channels == ["bad", "hook"]
        notifier = Notifier(
            both, NoticeWriter(), timings=QUICK, make_sender=lambda channel, writer: Broken()
        )
        with pytest.raises(ChannelFailedError, match="ZeroDivisionError"):
            await notifier.test("bad")


async def test_the_clock_jumping_changes_no_wait(world: World) -> None:
    async with http_receiver() as there, world.notifier(config(hook(there))) as notifier:
        world.clock = lambda: 1
        await notifier.told([alert("a")])
        await there.arrived(1)
        world.clock = lambda: 10**14
        await notifier.told([alert("b")])
        await there.arrived(2)


async def test_figures_are_there_before_anything_is_sent() -> None:
    notifier = Notifier(config({"name": "log", "url": "log://"}), NoticeWriter())
    samples = {
        (s.name, s.labels.get("channel")): s.value for s in notice_samples(notifier.statistics())
    }
    assert samples["notices_sent", "log"] == 0
    assert samples["notices_failed", "log"] == 0
