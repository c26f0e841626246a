"""A5：发送者之间怎样分，纯的部分。"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meeting_push.errors import SendLimitError, TooExpensiveError
from meeting_push.limits.send_limits import (
    MAX_DEBT_S,
    QUANTUM,
    FairLine,
    FairShares,
    SendQuota,
)
from meeting_push.model import Draft, KeyPrincipal, Message, Outgoing, Principal, Sender

PER_S, BURST = 100, 200


def outgoing(sender: int, recipients: int = 1, name: str = "", content: str = "c") -> Outgoing:
    message = Message(
        message_id=name or f"{sender}",
        message_type="message",
        priority=0,
        title="t",
        content=content,
        sender=Sender(sender, "s"),
        timestamp=0,
        expires_at=1,
    )
    return Outgoing(message, range(recipients))


def test_a5_within_his_share_a_sender_goes_the_quick_way() -> None:
    shares = FairShares(PER_S, BURST)
    assert [shares.spend(1, 50, now=0) for _ in range(5)] == [True] * 4 + [False]
    assert shares.spend(2, 50, now=0)


def test_a5_whoever_keeps_sending_too_much_does_not_overtake_himself() -> None:
    """快一倍的人一直在慢的那条上，而不是一条快一条慢。"""
    shares = FairShares(PER_S, BURST)
    ways = [shares.spend(1, 2 * PER_S // 10, now=100 * tenth) for tenth in range(100)]
    assert ways == sorted(ways, reverse=True)


def test_a5_after_the_flood_a_sender_is_like_the_others_again() -> None:
    shares = FairShares(PER_S, BURST)
    for _ in range(1_000):
        shares.spend(1, 1_000, now=0)
    assert shares.exceeded(1, now=MAX_DEBT_S * 1_000)
    assert shares.spend(1, BURST, now=(MAX_DEBT_S + BURST // PER_S) * 1_000)


def test_a5_one_huge_message_goes_the_slow_way() -> None:
    assert not FairShares(PER_S, BURST).spend(1, BURST + 1, now=0)


def test_a5_a_flood_before_him_is_one_turn_before_him() -> None:
    line = FairLine()
    line.extend(outgoing(1, 400) for _ in range(500))
    line.extend([outgoing(2)])
    taken = line.take(500, 5_000)
    senders = [one.message.sender.id for one in taken]
    assert senders.index(2) <= -(-QUANTUM // 400)


def test_a9_large_bodies_are_taken_a_few_at_a_time() -> None:
    """一批的正文至多约 1 MB，每人轮到一次也有限。"""
    line = FairLine()
    line.extend(outgoing(1, content="x" * 64 * 1024) for _ in range(100))
    line.extend([outgoing(2)])
    taken = line.take(100, 5_000)
    assert sum(len(one.message.content) for one in taken) <= 1_100_000
    assert 2 in [one.message.sender.id for one in taken[:4]]


@given(
    sent=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 900)), max_size=60),
    messages=st.integers(1, 10),
    recipients=st.integers(1, 3_000),
)
def test_a5_nothing_is_lost_and_each_senders_own_order_is_kept(
    sent: list[tuple[int, int]], messages: int, recipients: int
) -> None:
    line = FairLine()
    posts = [outgoing(sender, size, f"{n}") for n, (sender, size) in enumerate(sent)]
    line.extend(posts)
    taken: list[Outgoing] = []
    while len(line):
        batch = line.take(messages, recipients)
        assert 1 <= len(batch) <= messages
        taken += batch
        assert sum(line.of(sender) for sender in range(1, 5)) == len(line)
    for sender in range(1, 5):
        mine = [one for one in taken if one.message.sender.id == sender]
        assert mine == [one for one in posts if one.message.sender.id == sender]


# ── 密钥 ─────────────────────────────────────────────────────────────────────


def key(number: int, role: str = "key") -> KeyPrincipal:
    return KeyPrincipal(-number, role, 0, 1, name="billing", scopes=frozenset({"send"}))


def drafts(count: int) -> list[Draft]:
    return [Draft(recipient_ids=(1,), title="t", content="c")] * count


def quota(per_user: float, per_key: float, burst: float = 10) -> SendQuota:
    return SendQuota(per_user, burst, clock=lambda: 0, per_key_per_s=per_key)


def test_a_key_has_no_limit_unless_one_is_set() -> None:
    limits = quota(1, 0)
    assert limits.charge(key(3)) is None
    limits.glance(key(3), drafts(1_000))
    limits.charge_recipients(key(3), range(1_000))
    assert limits.refused == 0


@pytest.mark.parametrize("role", ["key", "admin"])
def test_a_key_pays_for_itself_whoever_it_speaks_for(role: str) -> None:
    limits = quota(0, 1)
    charge = limits.charge(key(3, role))
    assert charge is not None
    charge(drafts(10))
    with pytest.raises(SendLimitError):
        charge([*drafts(1), Draft(recipient_ids=(1,), title="t", content="", sender=Sender(5, ""))])
    with pytest.raises(TooExpensiveError):
        limits.glance(key(3, role), drafts(11))
    other = limits.charge(key(4, role))
    assert other is not None
    other(drafts(10))
    assert limits.charge(Principal(3, "user", 0, 1)) is None  # 人的不限着
    assert limits.refused == 2


def test_a_keys_bucket_holds_a_second_at_least() -> None:
    charge = quota(1, 50, burst=10).charge(key(3))
    assert charge is not None
    charge(drafts(50))


def test_a_key_takes_turns_as_one_sender_whoever_it_speaks_for() -> None:
    """替一百个人发的一枚密钥，不是一百个发送者。"""
    line = FairLine()
    for person in range(100):
        message = outgoing(person + 1).message
        line.append(Outgoing(_by_key(message), range(QUANTUM)))
    line.append(outgoing(500))
    taken = line.take(500, 2 * QUANTUM)
    assert [one.message.sender.id for one in taken] == [1, 500, 2]


def _by_key(message: Message) -> Message:
    return msgspec.structs.replace(message, key_id=3)
