"""信箱 + 确认 + 续传，对真的 Redis 的状态机。

两台设备都用 SDK 自己的账（``client.intake``），服务器一侧是真的信箱与会话，中间的发布可以丢。
模型：一台设备续传并应用完之后，发过的每一条它都有，或被明说了没有（``gap``、``resync``、
没有续传）；信箱里恰是没确认、没过期、没被挤出的。
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ulid import ULID

from meeting_push.client import wire
from meeting_push.client.endpoint import ClientOptions
from meeting_push.client.intake import Intake, ReceivedMessage
from meeting_push.client.ledger import DeviceState
from meeting_push.clock import now_ms
from meeting_push.deliver.offline_message_queue import Delivery, OfflineMessageQueue
from meeting_push.mailbox_model import MailboxView, Origin
from meeting_push.model import Message, Principal, Sender
from meeting_push.outcome.mailbox_evictor import choose
from meeting_push.protocol import envelope, frames
from meeting_push.protocol.commands import Acked
from meeting_push.protocol.session import Phase, Pushed, Session
from meeting_push.redis.outcomes import Outcomes
from meeting_push.redis.redis_service import RedisService
from meeting_push.settings import load_settings
from tests.support.limits import limits_with
from tests.support.redis_server import RedisServer

USER = 7
SETTINGS = load_settings(mailbox_max_entries=4, message_log_max_entries=8).messages
T = TypeVar("T")


@dataclass
class Post:
    """发过的一条。"""

    seq: int
    priority: int
    lost: bool = False  # 过期了，或所在的 Redis 数据没了


class Record:
    """``contracts.BodySource``：没过期的都认识。"""

    def __init__(self) -> None:
        self.tails_of: dict[str, bytes] = {}

    async def tails(self, message_ids: Sequence[str]) -> dict[str, bytes]:
        return {i: self.tails_of[i] for i in message_ids if i in self.tails_of}


@dataclass
class Device:
    intake: Intake
    session: Session | None = None
    #: 交给应用而还没处理完的。
    hand: list[ReceivedMessage] = field(default_factory=list)
    #: 应用处理过的，或被叫去用 REST 取过的。
    known: set[str] = field(default_factory=set)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    #: 这条连接上宣告过的。
    told: list[tuple[int, int]] = field(default_factory=list)
    #: 这条连接上各优先级推到的 seq。
    newest: dict[int, int] = field(default_factory=dict)


class Resuming(RuleBasedStateMachine):
    server: ClassVar[RedisServer]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis = self.run(self._connect())
        self.record = Record()
        self.queue = OfflineMessageQueue(self.redis, self.record, SETTINGS)
        self.outcomes = Outcomes(self.redis.lean, self.redis.keys, 3_600_000)
        self.posts: dict[str, Post] = {}
        self.acked: set[str] = set()
        self.evicted: set[str] = set()
        self.devices = [
            Device(Intake(DeviceState(device_id=name), None, ClientOptions())) for name in "ab"
        ]
        for device in self.devices:
            self.connect(device)

    def teardown(self) -> None:
        try:
            for device in self.devices:
                self.disconnect(device)
                self.catch_up(device)
        finally:
            self.run(self.redis.close())
            self.runner.close()

    def run(self, work: Coroutine[object, object, T]) -> T:
        return self.runner.run(work)

    async def _connect(self) -> RedisService:
        service = self.server.service(f"t-{uuid4().hex[:12]}:")
        await service.start()
        return service

    # ── 服务器 → 设备 ────────────────────────────────────────────────────────

    def connect(self, device: Device, cut_after: int | None = None) -> None:
        """连上并补发；``cut_after``：补发了几帧就断。"""
        session = Session(USER, "c", limits_with(), now_ms())
        session.authenticated(Principal(USER, "user", now_ms(), now_ms() + 3_600_000))
        view = self.run(self.queue.open(USER, device.intake.resume_point))
        device.session = session
        device.newest, device.told = {}, []
        self.receive(device, session.welcome(view, "d", now_ms()))
        self.flush(device, view, cut_after)

    def flush(self, device: Device, view: MailboxView, cut_after: int | None = None) -> None:
        session = device.session
        assert session is not None
        loaded = self.run(self.queue.load(session.unsent(view.entries)))
        for message in loaded[:cut_after]:
            self.receive(device, [session.batch([message], now_ms())])
        if cut_after is not None and cut_after < len(loaded):
            self.disconnect(device)
        else:
            self.receive(device, session.finish(view, now_ms()))

    def push(self, device: Device, frame: bytes, key: tuple[int, str]) -> None:
        session = device.session
        if session is None:
            return
        pushed = session.push(frame, key, now_ms())
        if pushed is Pushed.SEND:
            self.receive(device, [frame])
        elif pushed is Pushed.HOLE:
            view = self.run(self.queue.open(USER, session.position()))  # 同 ``Opener``
            self.receive(device, session.reread(view))
            self.flush(device, view)

    def receive(self, device: Device, texts: Sequence[bytes]) -> None:
        for text in texts:
            frame = wire.decode(text)
            match frame:
                case wire.Batch():
                    for message in frame.messages:
                        assert isinstance(message, wire.NewMessage), "nobody withdraws here"
                        self.take(device, message)
                case wire.NewMessage():
                    self.take(device, frame)
                case frames.Welcome():
                    device.intake.opened(frame)
                    if not frame.resumed:
                        device.known.update(self.posts)
                case frames.Gap():
                    device.intake.gap(frame)
                    self.hear(device, (frame.from_seq, frame.to_seq))
                case frames.Resync():
                    device.intake.resync(frame)
                    device.known.update(self.posts)
                case _:
                    raise AssertionError(f"unexpected {frame}")

    def hear(self, device: Device, gap: tuple[int, int]) -> None:
        assert all(gap[0] > high for _, high in device.told), "a gap out of order, or told twice"
        device.told.append(gap)
        device.gaps.append(gap)

    def take(self, device: Device, message: wire.NewMessage) -> None:
        assert message.seq is not None
        assert not any(low <= message.seq <= high for low, high in device.told), "after its gap"
        before = device.newest.get(message.priority, 0)
        assert message.seq > before, "DLV-3: out of order within one priority"
        device.newest[message.priority] = message.seq
        self.run(device.intake.receive(message))
        device.hand += device.intake.inbox.clear()

    def disconnect(self, device: Device) -> None:
        if device.session is not None:
            device.session.close()
        device.session = None
        device.intake.closed()

    # ── 设备 → 服务器 ────────────────────────────────────────────────────────

    def settle(self, device: Device, count: int | None = None) -> None:
        ready = device.hand[:count]
        del device.hand[: len(ready)]
        for message in ready:
            device.known.add(message.message_id)
            device.intake.settle(message)

    def ack(self, device: Device, *, answered: bool) -> None:
        if device.session is None or (batch := device.intake.acks.take()) is None:
            return
        request_id, ids = batch
        command = device.session.receive(wire.encode(frames.AckFrame(message_ids=ids)), now_ms())
        assert isinstance(command, Acked)
        verified = [ack.message_id for ack in command.acks]
        held, _, _ = self.run(self.queue.contains(USER, command.unverified))
        self.run(self.queue.remove([(USER, [*verified, *held])]))
        self.acked.update(verified, held)
        if answered:
            device.intake.acks.confirmed(request_id)

    # ── 规则 ────────────────────────────────────────────────────────────────

    @rule(
        posts=st.lists(
            st.tuples(st.sampled_from([0, 0, 5]), st.integers(1, 3)), min_size=1, max_size=5
        ),
        heard=st.tuples(st.booleans(), st.booleans()),
    )
    def send(self, posts: list[tuple[int, int]], heard: tuple[bool, bool]) -> None:
        """几条新消息，各有优先级与发送者；``heard``：各设备的网关有没有收到发布。"""
        for priority, sender in posts:
            self.send_one(priority, sender, heard)

    def send_one(self, priority: int, sender: int, heard: tuple[bool, bool]) -> None:
        now = now_ms()
        message = Message(
            message_id=str(ULID()),
            message_type="message",
            priority=priority,
            title="t",
            content="c",
            sender=Sender(sender, "ann"),
            timestamp=now,
            expires_at=now + 3_600_000,
        )
        tail = envelope.encode_tail(message)
        self.record.tails_of[message.message_id] = tail
        self.run(
            self.queue.store_bodies([(message.message_id, tail, priority, message.expires_at)])
        )
        [[delivered]] = self.run(
            self.queue.deliver(
                [
                    Delivery(
                        message_id=message.message_id,
                        tail=tail,
                        recipient_ids=(USER,),
                        priority=priority,
                        expires_at=message.expires_at,
                    )
                ]
            )
        )
        self.posts[message.message_id] = Post(delivered.seq, priority)
        self.run(self._evict())
        frame = envelope.new_message(delivered.seq, 0, tail)
        for device, got in zip(self.devices, heard, strict=True):
            if got:
                self.push(device, frame, (delivered.seq, message.message_id))

    async def _evict(self) -> None:
        """同 ``MailboxEvictor``；奇数条的正文当场交还，偶数条的还有别人等着。"""
        for user_id in self.queue.overflow.take(1):
            seen = await self.queue.overfull(user_id)
            found = await self.queue.origins([i for i, _ in seen.held])
            origins = {seq: found.get(i, Origin(0, 0)) for i, seq in seen.held}
            chosen = choose(seen.held, origins, len(seen.held) - self.queue.max_entries)
            gone = await self.queue.mark_evicted(user_id, chosen, {})
            await self.queue.remove([(user_id, gone)])
            await self.queue.give_back([i for i in gone if self.posts[i].seq % 2])
            self.evicted.update(gone)

    @rule(which=st.integers(0, 1), count=st.integers(1, 3), answered=st.booleans())
    def apply_and_ack(self, which: int, count: int, answered: bool) -> None:
        self.settle(self.devices[which], count)
        self.ack(self.devices[which], answered=answered)

    @rule(
        which=st.integers(0, 1),
        then=st.sampled_from(["stay away", "stay away", "catch up", 0, 2, None]),
    )
    def come_and_go(self, which: int, then: str | int | None) -> None:
        """断开；此后不来、来并追上、或补发了几帧又断（None：补发完）。"""
        device = self.devices[which]
        self.disconnect(device)
        if then == "catch up":
            self.catch_up(device)
        elif not isinstance(then, str):
            self.connect(device, then)

    @precondition(lambda self: self.posts)
    @rule(
        back=st.integers(1, 4),
        kind=st.sampled_from([*["expired"] * 3, *["swept"] * 3, "lost", "lost", "all"]),
    )
    def trouble(self, back: int, kind: str) -> None:
        """倒数第几条过期了（清理过没有）、它的正文丢了（记录还认识），或 Redis 丢了一切。"""
        if kind == "all":
            self.lose_redis()
            return
        candidates = [i for i, post in self.posts.items() if not post.lost]
        if not candidates:
            return
        message_id = candidates[-min(back, len(candidates))]
        self.run(self._delete(self.redis.keys.message_body(message_id)))
        if kind == "swept":
            self.run(self.outcomes.expire([(message_id, USER, now_ms())]))
        if kind != "lost":
            self.posts[message_id].lost = True
            del self.record.tails_of[message_id]

    def lose_redis(self) -> None:
        keys = self.redis.keys
        of_user = (
            *(keys.user_seq, keys.mailbox, keys.message_log),
            *(keys.expired_messages, keys.evicted_messages, keys.mailbox_senders),
        )
        for key in (key_of(USER) for key_of in of_user):
            self.run(self._delete(key))
        for message_id, post in self.posts.items():
            post.lost = True
            self.record.tails_of.pop(message_id, None)
        for device in self.devices:  # 换了代，连着的要重读才知道；这里从重连看
            self.disconnect(device)
            device.gaps.clear()  # 旧一代的 seq

    async def _delete(self, key: str) -> None:
        await self.redis.lean.execute("DEL", key)

    def catch_up(self, device: Device) -> None:
        """DLV-5：续传并应用完之后，每一条它都有，或被明说了没有。"""
        self.connect(device)
        self.settle(device)
        missing = {i: post for i, post in self.posts.items() if i not in device.known}
        for message_id, post in missing.items():
            told = any(low <= post.seq <= high for low, high in device.gaps)
            assert told, f"seq {post.seq} is missing and nobody said so"
            assert post.lost or message_id in self.evicted, f"seq {post.seq} was given up"

    @invariant()
    def dlv_1_the_mailbox_has_whatever_has_no_outcome(self) -> None:
        held = set(self.run(self._held()))
        alive = {i for i, post in self.posts.items() if not post.lost}
        assert alive - self.acked - self.evicted <= held
        assert held <= set(self.posts) - self.acked - self.evicted

    async def _held(self) -> list[str]:
        key = self.redis.keys.mailbox(USER)
        return [each.decode() for each in await self.redis.lean.execute("ZRANGE", key, 0, -1)]

    @invariant()
    def sessions_are_live_or_gone(self) -> None:
        assert all(d.session is None or d.session.phase is Phase.LIVE for d in self.devices)


@pytest.mark.timeout(300)  # 一千多步，步步问真的 Redis
def test_dlv_5_resume(redis_server: RedisServer) -> None:
    class Here(Resuming):
        server = redis_server

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=60,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
