"""账：心跳很多时写得很少，但谁都不会太久不写。"""

from __future__ import annotations

from collections import Counter

import pytest

from meeting_push.model import ConnectionInfo
from meeting_push.node_identity import NodeIdentity
from meeting_push.presence.ledger import BEATS_PER_S, REFRESH_MS, PresenceLedger

from .nodes import info

NODE = NodeIdentity("n1")
INTERVAL_MS = 30_000


def crowd(size: int) -> PresenceLedger:
    """``size`` 条同一时刻连上、都已写入的连接。"""
    ledger = PresenceLedger(NODE, INTERVAL_MS)
    for number in range(size):
        ledger.connection_opened(number, info(f"c{number}"))
    ledger.take(size, 0)
    return ledger


def beat_for(ledger: PresenceLedger, size: int, rounds: int) -> list[list[int]]:
    """每轮 30 秒，人人心跳一次，一轮里均匀；返回每轮写了谁。"""
    written: list[list[int]] = []
    for turn in range(1, rounds + 1):
        taken: list[int] = []
        for number in range(size):
            now = turn * INTERVAL_MS + number * INTERVAL_MS // size
            ledger.heartbeat(number, f"c{number}", now)
            if ledger.pending:
                taken += [user_id for user_id, _, _ in ledger.take(size, now)]
        written.append(taken)
    return written


def test_with_few_connections_every_heartbeat_is_written() -> None:
    size = BEATS_PER_S * INTERVAL_MS // 1000
    rounds = beat_for(crowd(size), size, 3)
    assert [len(one) for one in rounds] == [size] * 3


@pytest.mark.parametrize("size", [10_000, 60_000])
def test_the_writes_stay_within_budget_and_evenly_spread(size: int) -> None:
    spacing_ms = min(REFRESH_MS, size * 1000 // BEATS_PER_S)
    expected = size * INTERVAL_MS / spacing_ms
    rounds = beat_for(crowd(size), size, 12)
    assert all(0.7 * expected < len(one) < 1.3 * expected for one in rounds[1:])


def test_every_connection_is_written_often_enough_for_its_keys_to_live() -> None:
    size = 40_000
    turns = REFRESH_MS // INTERVAL_MS + 1
    written = Counter(user for one in beat_for(crowd(size), size, turns + 1) for user in one)
    assert len(written) == size


def test_the_newest_heartbeat_is_the_one_written() -> None:
    ledger = crowd(1)
    for now in (1, 2, 3):
        ledger.heartbeat(0, "c0", now + INTERVAL_MS)
    [(_, _, written)] = ledger.take(10, 0)
    assert isinstance(written, ConnectionInfo)
    assert written.last_heartbeat == INTERVAL_MS + 3


def test_a_connection_that_came_and_went_leaves_nothing() -> None:
    ledger = PresenceLedger(NODE, INTERVAL_MS)
    ledger.connection_opened(1, info("a"))
    ledger.connection_closed(1, "a")
    assert (ledger.connections, ledger.pending, ledger.written) == (0, 0, 0)
