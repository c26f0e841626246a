"""自动处理：真的毛病，做了什么记在告警上；有节制，关得掉，别的进程也做得到。"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest
from ulid import ULID

from meeting_push.app import create_app
from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.drill.stand_ins import redis_proxy
from meeting_push.errors import QueueFullError
from meeting_push.model import Draft, Sender
from meeting_push.monitoring.alerts.actions import (
    Allowance,
    OrderTaker,
    RecoveryActions,
)
from meeting_push.monitoring.alerts.config import ActionConfig
from meeting_push.monitoring.alerts.desk import Event
from meeting_push.monitoring.alerts.evaluation import History
from meeting_push.monitoring.alerts.model import Alert, AlertState, Severity, Text, row_of
from meeting_push.monitoring.figures import Seen
from meeting_push.monitoring.report import Errands, NodeReport, Order
from meeting_push.node_identity import NodeIdentity
from meeting_push.storage.alerts import AlertRepository
from meeting_push.storage.database import Database
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node
from tests.support.server_process import TEST_JWT_SECRET

NOW: Final = 1_800_000_000_000
QUICK: Final[dict[str, Any]] = {"alerts_interval_s": 0.05, "stats_interval_s": 0.1}
ANN: Final = Sender(1, "ann")


def rules(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "alerts.yml"
    path.write_text(text)
    return path


async def actions_of(node: Node, rule: str) -> list[Event]:
    """这条规则的告警上自动做过的。"""
    desk = node.push._alerting.desk
    listed, _ = await desk.page("all", None, 50)
    stories = [await desk.story(one.row.alert_id) for one in listed if one.row.rule == rule]
    return [event for story in stories for event in story.timeline if event.kind == "action"]


async def test_a_deaf_node_is_asked_to_subscribe_again_by_the_one_that_evaluates(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> None:
    """评估的是另一个进程；聋了的听不到频道，看得见报告。"""
    settings = {**QUICK, "alerts": rules(tmp_path, "rules: {deaf_node: {for_s: 0}}")}
    url = embedded_redis_server.url
    quick_canary = {"canary_interval_s": 0.05, "canary_deaf_s": 0.4}
    async with (
        redis_proxy(embedded_redis_server.port) as proxy,
        running_node(tmp_path, url, key_prefix, **settings) as leader,
    ):
        await eventually(lambda: leader.push._alerting._evaluator.firing() is not None)
        async with running_node(
            tmp_path, proxy.url, key_prefix, **settings, **quick_canary
        ) as other:
            proxy.deaf = True

            async def done() -> list[Event]:
                return await actions_of(leader, "deaf_node")

            (event, *_) = await eventually(done)
            assert (event.by, event.state, event.ok) == (other.push.node_id, "done", True)
            assert event.text == "resubscribe: subscribing to everything again"
            proxy.deaf = False


async def test_a_consumer_that_hangs_is_started_again_and_goes_on(
    tmp_path: Path,
    embedded_redis_server: RedisServer,
    key_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings: dict[str, Any] = {
        **QUICK,
        "alerts": rules(tmp_path, "rules: {consumer_stalled: {for_s: 1.5}}"),
        "consumer_tasks": 1,
        "consumer_tasks_max": 1,
        "consumer_block_ms": 20,
        "consumer_stall_s": 1,
        "direct_recipients": 0,
    }
    async with running_node(tmp_path, embedded_redis_server.url, key_prefix, **settings) as node:
        pool = node.push._rooms.messages.consumers
        (consumer,) = pool._consumers
        take, hung = consumer._take, asyncio.Event()

        async def hang(reader: Any) -> Any:
            if hung.is_set():
                return await take(reader)
            hung.set()
            return await asyncio.Event().wait()

        monkeypatch.setattr(consumer, "_take", hang)
        await asyncio.wait_for(hung.wait(), 5)
        accepted = await node.send(7)

        async def arrived() -> bool:
            return accepted.message_id in await node.push.mailbox.message_ids(7)

        await eventually(arrived, timeout=20)

        async def done() -> list[Event]:
            return await actions_of(node, "consumer_stalled")

        (event,) = await eventually(done)
        assert event.text == "restart_stalled_loop: 1 consumers started again"


@contextlib.asynccontextmanager
async def api_of(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    token = AccessTokens(node.push.settings.auth, TEST_JWT_SECRET).issue(1, "admin", "ann", 600)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=create_app(node.push)),
        base_url="http://node/api/v1",
        headers={"authorization": f"Bearer {token}"},
    ) as api:
        yield api


async def test_a_queue_nearly_full_pauses_every_door_until_it_has_room(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> None:
    text = "rules: {queue_nearly_full: {for_s: 0}}\nactions: {pause_accepting: true}"
    settings = {**QUICK, "alerts": rules(tmp_path, text)}
    async with running_node(
        tmp_path,
        embedded_redis_server.url,
        key_prefix,
        **settings,
        role="api",
        queue_max_length=10,
        direct_recipients=0,
    ) as node:
        push, queue = node.push, node.push._rooms.messages.queue
        for user_id in range(2, 11):  # 没有工人：都留在队列里
            await node.send(user_id)

        async def paused() -> bool:
            await push._observation.surroundings.look()
            return queue.room.is_paused

        await eventually(paused)
        message = {"title": "t", "content": "c"}
        async with api_of(node) as api:
            answers = [
                await api.post("/messages", json={**message, "recipient_ids": [5]}),
                await api.post(
                    "/messages/batch", json={"messages": [{**message, "recipient_ids": [5]}]}
                ),
                await api.post("/messages/broadcast", json=message),
            ]
        for answer in answers:
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
            assert answer.headers["retry-after"] == "5"
        with pytest.raises(QueueFullError):
            await push.messages.send_message(ANN, 5, "t", "c")
        with pytest.raises(QueueFullError):
            await push.broadcasts.send_broadcast(
                ANN, Draft(recipient_ids=(), title="t", content="c")
            )
        await queue.streams.clear()

        async def resumed() -> bool:
            return not await paused()

        await eventually(resumed)
        await push.messages.send_message(ANN, 5, "t", "c")

        async def told() -> list[str | None] | None:
            texts = [event.text for event in await actions_of(node, "queue_nearly_full")]
            return texts if len(texts) == 2 else None

        assert await eventually(told) == [
            "pause_accepting: accepting is paused",
            "pause_accepting: accepting again: the queue is 0% full",
        ]


async def test_an_action_that_is_off_is_not_taken(database: Database) -> None:
    desk = Desk(database, ActionConfig(resubscribe=False))
    desk.see(alert("deaf_node", node="other"))
    assert desk.errands.orders() == ()


# ── 节制 ────────────────────────────────────────────────────────────────────


def test_the_pauses_between_the_same_action_grow_and_an_hour_has_few() -> None:
    now = 0.0
    allowance = Allowance(60, 6, lambda: now)
    taken = []
    for second in range(0, 3_600, 10):
        now = float(second)
        if allowance.take("x"):
            taken.append(second)
    assert taken == [0, 60, 180, 420, 900, 1_860]
    assert allowance.take("y")
    now = 2 * 3_600.0
    assert allowance.take("x")


def alert(rule: str, **labels: str) -> Alert:
    return Alert(
        alert_id=str(ULID()),
        rule=rule,
        severity=Severity.CRITICAL,
        state=AlertState.FIRING,
        summary=Text("坏", "bad"),
        labels=labels,
        value=1,
        threshold=0,
        started_at=NOW,
        runbook="",
    )


class Desk:
    """评估的一边，钟由测试拨；``outages``：要再送死信时说的是哪几段。"""

    def __init__(self, database: Database, config: ActionConfig) -> None:
        self.now = 0.0
        self.errands = Errands(lambda: self.now)
        self.records = AlertRepository(database)
        self.outages: list[Sequence[tuple[int, int]]] = []
        self.actions = RecoveryActions(
            config,
            NodeIdentity("leader"),
            self.errands,
            records=self.records,
            requeue=self._requeue,
            pause_above=0.8,
            clock=lambda: NOW + int(self.now * 1_000),
            monotonic=lambda: self.now,
        )

    async def _requeue(self, outages: Sequence[tuple[int, int]], most: int) -> int:
        self.outages.append(outages)
        return 3

    def see(self, *firing: Alert, others: Sequence[NodeReport] = ()) -> Seen:
        own = report("leader", self.errands)
        seen = Seen([own, *others], History([]), self.now, True, list(firing))
        self.actions.saw(seen)
        return seen


def report(node_id: str, errands: Errands) -> NodeReport:
    return NodeReport(
        node_id=node_id,
        role="all",
        version="0",
        started_at=0,
        reported_at=0,
        gauges={},
        totals={},
        per_s={},
        latency={},
        orders=errands.orders(),
        done=errands.done(),
    )


async def test_who_does_not_answer_has_failed(database: Database) -> None:
    desk, deaf = Desk(database, ActionConfig()), alert("deaf_node", node="other")
    desk.see(deaf)
    assert [order.node for order in desk.errands.orders()] == ["other"]
    desk.now = 61
    desk.see(deaf)
    await desk.actions.step()
    (event,) = await desk.records.events(deaf.alert_id)
    assert (event.state, event.text) == ("failed", "resubscribe: no answer")
    figures = {tuple(one.labels.values()): one.value for one in desk.actions.samples()}
    assert figures["resubscribe", "failed"] == 1


async def test_an_alert_of_alertmanager_moves_nothing(database: Database) -> None:
    desk = Desk(database, ActionConfig())
    desk.see(alert("deaf_node", node="other", source="alertmanager"))
    assert desk.errands.orders() == ()


async def taken(errands: Errands, orders: Sequence[Order], **abilities: Any) -> OrderTaker:
    giver = Errands()
    for order in orders:
        giver.keep(order)
    taker = OrderTaker(NodeIdentity("me"), errands, abilities, lambda _: None)
    taker.saw(Seen([report("leader", giver)], History([]), 0, True, None))
    await taker.step()
    return taker


async def test_only_what_is_addressed_to_it_and_known_is_done() -> None:
    calls = []

    async def resubscribe() -> str:
        calls.append("resubscribe")
        return "ok"

    errands = Errands()
    orders = [
        Order("1", "resubscribe", "me"),
        Order("2", "resubscribe", "other"),
        Order("3", "format_the_disk", "me"),
    ]
    taker = await taken(errands, orders, resubscribe=resubscribe)
    assert calls == ["resubscribe"]
    assert [(one.order_id, one.ok) for one in errands.done()] == [("1", True), ("3", False)]
    again = Errands()
    again.keep(orders[0])
    taker.saw(Seen([report("leader", again)], History([]), 0, True, None))
    await taker.step()
    assert calls == ["resubscribe"]


async def test_a_report_of_an_older_version_has_no_orders() -> None:
    raw = msgspec.to_builtins(report("old", Errands()))
    del raw["orders"], raw["done"]
    assert msgspec.convert(raw, NodeReport).orders == ()


# ── 死信 ────────────────────────────────────────────────────────────────────


async def outage(desk: Desk, since_s: int, until_s: int | None) -> None:
    """一次 Redis 不在，离此刻的秒。"""
    down = msgspec.structs.replace(
        alert("redis_unavailable"),
        started_at=NOW + since_s * 1_000,
        resolved_at=None if until_s is None else NOW + until_s * 1_000,
    )
    await desk.records.fire([row_of(down)])


async def test_letters_are_enqueued_again_when_the_cause_is_gone_for_a_while(
    database: Database,
) -> None:
    desk = Desk(database, ActionConfig(requeue_dead_letters=True))
    await outage(desk, -300, -30)
    letters = alert("dead_letters")
    desk.see(letters)
    await desk.actions.step()
    assert desk.outages == []  # 好了才半分钟
    desk.now = 61
    desk.see(letters)
    await desk.actions.step()
    await desk.actions.step()
    assert desk.outages == [[(NOW - 360_000, NOW + 270_000)]]
    (event,) = await desk.records.events(letters.alert_id)
    assert event.text == "requeue_dead_letters: 3 dead letters enqueued again"


async def test_letters_stay_while_the_cause_is_there(database: Database) -> None:
    desk = Desk(database, ActionConfig(requeue_dead_letters=True))
    await outage(desk, -300, None)
    desk.see(alert("dead_letters"))
    await desk.actions.step()
    assert desk.outages == []
