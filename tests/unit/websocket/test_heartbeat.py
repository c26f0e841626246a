"""清扫：假时钟，一格一格走。"""

from __future__ import annotations

from typing import Any

import pytest

from meeting_push.contracts import ChannelHandler
from meeting_push.mailbox_model import MailboxView
from meeting_push.model import Principal
from meeting_push.node_identity import NodeIdentity
from meeting_push.protocol.envelope import FrameRun
from meeting_push.protocol.session import Session
from meeting_push.websocket.handshake import Handshake
from meeting_push.websocket.line import UserConnection
from meeting_push.websocket.requests import Sinks
from tests.support.limits import limits_with
from tests.support.stand_ins import (
    AckSink,
    Channels,
    Mailbox,
    PresenceSink,
    ReadSink,
    RetrySink,
    Verifier,
    Watches,
    authenticator_of,
    manager_of,
)


class Wire:
    """记录的驱动。"""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed: list[tuple[int, str]] = []
        self.aborted = 0

    def write_run(self, run: FrameRun) -> None:
        for frame, _ in run.frames:
            self.write(frame)

    def write(self, frame: bytes) -> None:
        self.written.append(frame)

    def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))

    def abort(self) -> None:
        self.aborted += 1


class House:
    """管理者与一个拨得动的时钟；清扫每秒一次。"""

    def __init__(self, **settings: Any) -> None:
        self.now = 1_000_000
        self.retries = RetrySink()
        self.manager = manager_of(
            Sinks(AckSink(), PresenceSink(), ReadSink(), Watches(), self.retries),
            authenticator=authenticator_of(Verifier()),
            channels=Channels(),
            mailbox=Mailbox(),
            limits=limits_with(**settings),
            node=NodeIdentity("n"),
            clock=lambda: self.now,
        )
        self.on_channel_message: ChannelHandler = self.manager.on_channel_message

    def connect(self, user_id: int = 1, ttl_ms: int = 3_600_000) -> tuple[UserConnection, Wire]:
        """一条实时的连接，不经认证与信箱。"""
        wire = Wire()
        connection = UserConnection(self.manager, wire, Handshake(user_id, "", {}, ""), "c")
        principal = Principal(user_id, "user", self.now, self.now + ttl_ms)
        connection.session.authenticated(principal)
        connection.welcome(MailboxView("e", 0, ()))
        connection.session.finish(MailboxView("e", 0, ()), self.now)
        wire.written.clear()
        self.manager._registry.add(connection)
        self.manager._sockets.add(connection)
        self.manager.admission.enter(connection.ip_address)
        self.manager.heartbeat.schedule(connection)
        return connection, wire

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1_000
            self.manager.heartbeat.sweep()


async def test_silence_is_found_within_a_tick_or_two() -> None:
    house = House()
    _, wire = house.connect()
    house.pass_time(60)
    assert wire.closed == []
    house.pass_time(2)
    assert wire.closed == [(4003, "heartbeat_timeout")]


async def test_heartbeats_move_the_deadline() -> None:
    house = House()
    connection, wire = house.connect()
    for _ in range(10):
        house.pass_time(30)
        connection.receive(b'{"type":"heartbeat","timestamp":1}')
    assert wire.closed == []
    house.pass_time(62)
    assert wire.closed == [(4003, "heartbeat_timeout")]


async def test_who_does_not_leave_is_aborted() -> None:
    house = House(handshake_timeout_s=4)
    connection, wire = house.connect()
    while not wire.closed:
        house.pass_time(1)
    house.pass_time(4)
    assert wire.aborted == 0
    house.pass_time(2)
    assert wire.aborted > 0
    connection.lost()
    before = wire.aborted
    house.pass_time(70)
    assert wire.aborted == before


async def test_a_blocked_outbox_is_closed_after_its_delay() -> None:
    house = House()
    connection, wire = house.connect()
    connection.blocked()
    house.pass_time(5)
    assert wire.closed == []
    house.pass_time(1)
    assert wire.closed == [(4001, "slow_consumer")]


async def test_an_outbox_that_recovered_in_time_is_left_alone() -> None:
    house = House()
    connection, wire = house.connect()
    connection.blocked()
    house.pass_time(4)
    connection.unblocked()
    house.pass_time(10)
    assert wire.closed == []


async def test_the_expiring_token_is_announced_then_closed() -> None:
    house = House()
    connection, wire = house.connect(ttl_ms=90_000)
    for _ in range(2):
        house.pass_time(20)
        connection.receive(b'{"type":"heartbeat","timestamp":1}')
    assert [b"token_expiring" in frame for frame in wire.written] == [False, True, False]
    house.pass_time(51)
    assert wire.closed == [(4004, "token_expired")]


async def test_after_our_own_stall_everybody_gets_a_fresh_chance() -> None:
    """进程停了两分钟：心跳还在内核的缓冲里，不是客户端沉默。"""
    house = House()
    _, wire = house.connect()
    house.now += 120_000
    house.manager.heartbeat.sweep()
    house.now += 120_000
    house.manager.heartbeat.sweep()
    house.pass_time(59)
    assert wire.closed == []
    house.pass_time(65)
    assert wire.closed == [(4003, "heartbeat_timeout")]


async def test_a_lost_connection_leaves_the_wheel() -> None:
    house = House()
    connection, wire = house.connect()
    connection.lost()
    assert connection.slot is None
    house.pass_time(130)
    assert wire.closed == []


async def test_a_driver_that_fails_does_not_stop_the_fan_out() -> None:
    house = House()
    _, _ = broken, wire = house.connect()
    _, healthy = house.connect()

    def fail(frame: bytes) -> None:
        raise RuntimeError("the transport is closed")

    wire.write = fail  # type: ignore[method-assign]
    house.on_channel_message(
        b"user:{1}:messages",
        b'{"type":"receipt","message_id":"m","recipient_id":2,"status":"delivered","timestamp":1}',
    )
    assert len(healthy.written) == 1
    assert wire.aborted == 1
    assert broken.closing_since is None


async def test_b1_one_broken_connection_does_not_stop_the_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """一条连接的意外只断开它自己，别人的心跳照样有人看。"""
    house = House()
    (broken, wire), (_, silent) = house.connect(1), house.connect(2)

    tick = Session.tick

    def surprise(session: Session, *args: int) -> Any:
        if session is broken.session:
            raise RuntimeError("surprise")
        return tick(session, *args)

    monkeypatch.setattr(Session, "tick", surprise)
    house.pass_time(62)
    assert wire.aborted == 1
    assert silent.closed == [(4003, "heartbeat_timeout")]
