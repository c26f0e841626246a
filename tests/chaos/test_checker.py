"""检查者抓得住：每个测试打破一条承诺，只有那条规则开口；守住承诺的故事谁也不开口。"""

from __future__ import annotations

import msgspec
import pytest

from meeting_push_bench.chaos.check import check
from meeting_push_bench.chaos.evidence import evidence
from meeting_push_bench.chaos.final_state import MessageRow, Queued
from meeting_push_bench.chaos.history import (
    AnyEvent,
    Died,
    Faulted,
    Looked,
    Observed,
    Recovered,
    SeenState,
    Unrecorded,
)
from meeting_push_bench.chaos.rules.arrival import GRACE_MS
from tests.chaos.story import EPOCH, Story

ALICE, BOB = 1, 2


@pytest.fixture
def story() -> Story:
    return Story()


def broken(events: list[AnyEvent]) -> dict[str, int]:
    return check(events).broken_rules()


def delivered(story: Story, user_id: int = ALICE) -> str:
    """一条走完全程的消息。"""
    message_id = story.send(user_id)
    connection = story.connect(user_id)
    story.receive(connection, message_id, live=False)
    story.ack(connection, message_id)
    story.close(connection)
    return message_id


# ── 守住的 ──────────────────────────────────────────────────────────────────


def test_a_history_that_kept_every_promise_is_clean(story: Story) -> None:
    phone = story.connect(ALICE)
    for priority in (0, 5, 0):
        message_id = story.send(ALICE, BOB, priority=priority)
        story.receive(phone, message_id)
        story.ack(phone, message_id)
    laptop = story.connect(BOB)
    urgent_first = sorted(story.mailboxes[BOB], key=lambda i: (i != message_ids(story)[1], i))
    story.receive(laptop, *urgent_first, live=False)
    story.ack_upto(laptop, 3, *urgent_first)
    assert broken(story.end()) == {}


def message_ids(story: Story) -> list[str]:
    return [row.message_id for row in story.rows]


def test_every_place_is_counted_in_the_accounts(story: Story) -> None:
    delivered(story)
    story.send(ALICE, hold=True)
    post = story.intend(ALICE, later=True)
    waiting = story.store(post, ALICE)
    story.answer(post, waiting)
    story.queued.append(Queued("delayed_message_queue", waiting, (ALICE,)))
    for status in ("failed", "expired"):
        message_id = story.send(ALICE)
        story.statuses[ALICE, message_id] = (status, None)
        del story.mailboxes[ALICE][message_id]
        if status == "failed":
            story.dead.append(Queued("dead_letter_queue", message_id, (ALICE,)))
    verdict = check(story.end())
    assert verdict.held
    assert verdict.accounts == {
        "delivered": 1,
        "expired": 1,
        "failed": 1,
        "mailbox": 1,
        "queue": 1,
    }
    assert verdict.accepted_pairs == 5


def test_a_commit_without_an_answer_counts_as_accepted(story: Story) -> None:
    post = story.intend(ALICE)
    message_id = story.store(post, ALICE)
    story.answer(post, status=0)
    assert broken(story.end()) == {"conservation": 1}
    story.deliver(ALICE, message_id)
    assert broken(story.end()) == {"drained": 1}


# ── DLV-1 ───────────────────────────────────────────────────────────────────


def test_dlv_1_a_lost_message_is_caught(story: Story) -> None:
    message_id = story.send(ALICE)
    del story.mailboxes[ALICE][message_id]
    assert broken(story.end()) == {"conservation": 1}


def test_dlv_1_an_answer_without_a_record_is_caught(story: Story) -> None:
    post = story.intend(ALICE)
    story.answer(post, "X" * 26)
    assert broken(story.end()) == {"conservation": 1, "idempotency": 1}


def test_dlv_1_a_missing_recipient_is_caught(story: Story) -> None:
    message_id = delivered(story)
    post = story.intend(ALICE, BOB)
    other = story.store(post, ALICE)
    story.answer(post, other)
    story.deliver(ALICE, other)
    phone = story.connect(ALICE)
    story.receive(phone, other, live=False)
    story.ack(phone, other)
    [violation] = check(story.end()).violations
    assert (violation.rule, violation.message_id) == ("conservation", other)
    assert message_id != other


def test_dlv_1_a_message_in_two_places_is_caught(story: Story) -> None:
    message_id = delivered(story)
    story.queued.append(Queued("message_delivery_queue", message_id, (ALICE,)))
    assert broken(story.end()) == {"conservation": 1, "drained": 1}


def test_dlv_1_failed_without_a_dead_letter_is_caught(story: Story) -> None:
    message_id = story.send(ALICE)
    del story.mailboxes[ALICE][message_id]
    story.statuses[ALICE, message_id] = ("failed", None)
    assert broken(story.end()) == {"conservation": 1}


def test_dlv_1_a_dead_letter_that_is_still_pending_is_caught(story: Story) -> None:
    message_id = story.send(ALICE)
    del story.mailboxes[ALICE][message_id]
    story.dead.append(Queued("dead_letter_queue", message_id, (ALICE,)))
    assert broken(story.end()) == {"conservation": 1}


def test_dlv_1_a_message_that_never_comes_out_is_caught(story: Story) -> None:
    story.send(ALICE)
    assert broken(story.end()) == {"drained": 1}


@pytest.mark.parametrize("hold", [False, True])
def test_dlv_1_a_message_for_tomorrow_belongs_in_the_queue_and_nowhere_else(
    story: Story, hold: bool
) -> None:
    post = story.intend(ALICE, hold=hold, later=True)
    message_id = story.store(post, ALICE)
    story.answer(post, message_id)
    story.queued.append(Queued("delayed_message_queue", message_id, (ALICE,)))
    assert broken(story.end()) == {}
    story.queued.clear()
    story.deliver(ALICE, message_id)
    assert broken(story.end()) == {"drained": 1}


# ── DLV-2、DLV-3 ────────────────────────────────────────────────────────────


def test_dlv_3_a_reordered_frame_is_caught(story: Story) -> None:
    first, second = story.send(ALICE), story.send(ALICE)
    phone = story.connect(ALICE)
    story.receive(phone, second, first, live=False)
    story.ack(phone, first, second)
    # 先到的第二条越过了还欠着的第一条，所以洞的规则也开口
    assert broken(story.end()) == {"order": 1, "holes": 1}


def test_dlv_3_urgent_messages_may_overtake_in_a_flush(story: Story) -> None:
    normal, urgent = story.send(ALICE), story.send(ALICE, priority=9)
    phone = story.connect(ALICE)
    story.receive(phone, urgent, normal, live=False)
    story.ack(phone, urgent, normal)
    assert broken(story.end()) == {}


def test_dlv_3_a_retry_may_repeat_an_older_seq(story: Story) -> None:
    phone = story.connect(ALICE)
    first, second = story.send(ALICE), story.send(ALICE)
    story.receive(phone, first)
    story.receive(phone, second)
    story.receive(phone, first, attempt=1)
    story.ack(phone, first, second)
    assert broken(story.end()) == {}


def test_dlv_2_a_repeat_that_is_not_a_retry_is_caught(story: Story) -> None:
    phone = story.connect(ALICE)
    first = story.send(ALICE)
    story.receive(phone, first)
    story.receive(phone, first)
    story.ack(phone, first)
    assert broken(story.end()) == {"duplicates": 1}


def test_dlv_2_delivery_again_after_it_was_settled_is_caught(story: Story) -> None:
    message_id = delivered(story)
    story.settle(ALICE, message_id)
    story.receive(story.connect(ALICE), message_id, live=False)
    assert broken(story.end()) == {"duplicates": 1}


def test_dlv_2_delivery_again_before_it_was_settled_is_allowed(story: Story) -> None:
    message_id = delivered(story)
    phone = story.connect(ALICE)
    story.settle(ALICE, message_id)
    story.receive(phone, message_id, live=False)
    assert broken(story.end()) == {}


def test_dlv_2_a_resuming_device_may_get_again_what_another_one_settled(story: Story) -> None:
    message_id = delivered(story)
    story.settle(ALICE, message_id)
    story.receive(story.connect(ALICE, resume_from=0), message_id, live=False)
    assert broken(story.end()) == {}


def test_dlv_2_one_message_under_two_seqs_is_caught(story: Story) -> None:
    message_id = delivered(story)
    story.deliver(ALICE, message_id)
    phone = story.connect(ALICE)
    story.receive(phone, message_id, live=False)
    story.ack(phone, message_id)
    assert broken(story.end()) == {"duplicates": 1}


def test_dlv_2_a_duplicate_under_another_id_is_caught(story: Story) -> None:
    """同一次 POST 成了两条：收件人分不出它们是重复。"""
    post = story.intend(ALICE, key="k")
    copies = [story.store(post, ALICE) for _ in range(2)]
    for copy in copies:
        story.answer(post, copy)
        story.deliver(ALICE, copy)
    phone = story.connect(ALICE)
    story.receive(phone, *copies, live=False)
    story.ack(phone, *copies)
    assert broken(story.end()) == {"idempotency": 2}


def test_dlv_2_one_seq_for_two_messages_is_caught(story: Story) -> None:
    first = delivered(story)
    second = story.send(ALICE)
    story.seq_of[ALICE, second] = story.seq_of[ALICE, first]
    story.mailboxes[ALICE].clear()
    phone = story.connect(ALICE)
    story.receive(phone, second, live=False)
    story.ack(phone, second)
    assert "duplicates" in broken(story.end())


# ── SEC-1 ───────────────────────────────────────────────────────────────────


def test_sec_1_a_foreign_delivery_is_caught(story: Story) -> None:
    message_id = delivered(story)
    story.receive_raw(story.connect(BOB), story.push(message_id, 1))
    assert broken(story.end()) == {"foreign": 1}


def test_sec_1_a_foreign_mailbox_entry_is_caught(story: Story) -> None:
    message_id = delivered(story)
    story.mailboxes[BOB][message_id] = 1
    assert broken(story.end()) == {"foreign": 1}


def test_sec_1_another_messages_content_is_caught(story: Story) -> None:
    message_id = story.send(ALICE)
    phone = story.connect(ALICE)
    story.receive_raw(phone, msgspec.structs.replace(story.push(message_id, 1), crc=8))
    story.ack(phone, message_id)
    assert broken(story.end()) == {"foreign": 1}


def test_sec_1_a_message_nobody_sent_is_caught(story: Story) -> None:
    message_id = story.send(ALICE)
    invented = msgspec.structs.replace(
        story.push(message_id, 1), message_id="Z" * 26, title="unheard of"
    )
    story.receive_raw(story.connect(ALICE), invented)
    assert broken(story.end())["foreign"] == 1


def test_sec_1_a_stored_message_nobody_sent_is_caught(story: Story) -> None:
    story.rows.append(MessageRow("Z" * 26, 100, "unheard of", 0, False))
    assert broken(story.end()) == {"foreign": 1}


# ── DLV-4 ───────────────────────────────────────────────────────────────────


def test_dlv_4_delivered_without_an_ack_is_caught(story: Story) -> None:
    message_id = story.send(ALICE)
    story.receive(story.connect(ALICE), message_id, live=False)
    story.record(ALICE, message_id)
    assert broken(story.end()) == {"confirmation": 1}


def test_dlv_4_the_ack_of_a_stranger_does_not_count(story: Story) -> None:
    message_id = story.send(ALICE)
    story.ack(story.connect(BOB), message_id)
    del story.statuses[BOB, message_id]
    story.record(ALICE, message_id)
    assert broken(story.end()) == {"confirmation": 1}


def test_dlv_4_upto_does_not_cover_what_was_never_received(story: Story) -> None:
    first, second = story.send(ALICE), story.send(ALICE)
    phone = story.connect(ALICE)
    story.receive(phone, first, live=False)
    story.ack_upto(phone, 2, first, second)
    assert broken(story.end()) == {"confirmation": 1}


def test_dlv_4_delivered_before_the_ack_is_caught(story: Story) -> None:
    message_id = story.send(ALICE)
    phone = story.connect(ALICE)
    story.receive(phone, message_id, live=False)
    pushed_at = story.now
    story.now += 1_000
    story.ack(phone, message_id)
    story.statuses[ALICE, message_id] = ("delivered", pushed_at)
    assert broken(story.end()) == {"confirmation": 1}


def test_dlv_4_seen_as_delivered_before_the_ack_is_caught(story: Story) -> None:
    message_id = story.send(ALICE)
    phone = story.connect(ALICE)
    story.receive(phone, message_id, live=False)
    seen = (SeenState(ALICE, "delivered", story.now),)
    story.add(Observed(at=story.now, message_id=message_id, states=seen))
    story.ack(phone, message_id)
    assert broken(story.end()) == {"confirmation": 1}


def test_dlv_4_a_delivery_taken_back_is_caught(story: Story) -> None:
    message_id = delivered(story)
    for status in ("delivered", "pending"):
        seen = (SeenState(ALICE, status, None),)
        story.add(Observed(at=story.now, message_id=message_id, states=seen))
    assert broken(story.end()) == {"confirmation": 1}


def test_dlv_1_removed_before_it_was_recorded_is_caught(story: Story) -> None:
    """先移出、后记录：终局看不出来（后来补上了），旁观者看得出来。"""
    message_id = delivered(story)
    story.add(Unrecorded(at=story.now, user_id=ALICE, message_ids=(message_id,)))
    assert broken(story.end()) == {"confirmation": 1}


# ── DLV-5 ───────────────────────────────────────────────────────────────────


def three_live(story: Story) -> tuple[int, str, str, str]:
    phone = story.connect(ALICE)
    return phone, story.send(ALICE), story.send(ALICE), story.send(ALICE)


def test_dlv_5_a_silent_hole_is_caught(story: Story) -> None:
    phone, first, missing, third = three_live(story)
    story.receive(phone, first)
    story.receive(phone, third)
    late = story.connect(ALICE)
    story.receive(late, missing, third, live=False)
    story.ack(phone, first, third)
    story.ack(late, missing)
    [violation] = [v for v in check(story.end()).violations if v.connection == phone]
    assert (violation.rule, violation.message_id) == ("holes", missing)


def test_dlv_5_a_hole_that_was_announced_is_allowed(story: Story) -> None:
    phone, first, evicted, third = three_live(story)
    story.receive(phone, first)
    story.gap(phone, 2, 2)
    story.receive(phone, third)
    story.ack(phone, first, evicted, third)
    assert broken(story.end()) == {}


def acked_elsewhere(story: Story) -> tuple[int, int, str]:
    """Alice 的电话连着而没有收到的一条，她的电脑收到并确认了；返回两条连接与它。"""
    phone, laptop = story.connect(ALICE), story.connect(ALICE, gateway=1)
    message_id = story.send(ALICE)
    story.receive(laptop, message_id)
    story.ack(laptop, message_id)
    return phone, laptop, message_id


def test_dlv_5_what_another_device_acked_is_still_owed(story: Story) -> None:
    """E1：下一帧越过了它。"""
    phone, laptop, _ = acked_elsewhere(story)
    following = story.send(ALICE)
    story.receive(phone, following)
    story.receive(laptop, following)
    story.ack(phone, following)
    assert broken(story.end()) == {"holes": 1}


def test_dlv_5_what_was_acked_before_it_came_needs_no_announcement(story: Story) -> None:
    first = story.send(ALICE)
    laptop = story.connect(ALICE)
    story.receive(laptop, first, live=False)
    phone = story.connect(ALICE)
    story.ack(laptop, first)
    second = story.send(ALICE)
    for device in (phone, laptop):
        story.receive(device, second)
    story.ack(phone, second)
    assert broken(story.end()) == {}


def test_dlv_5_what_never_came_is_caught_without_a_later_frame(story: Story) -> None:
    """E1：最后的那些没有下一帧来露馅，但连了这么久也没有来。"""
    phone, _, message_id = acked_elsewhere(story)
    story.now += 2 * GRACE_MS
    [violation] = check(story.end()).violations
    assert (violation.rule, violation.connection) == ("arrival", phone)
    assert violation.message_id == message_id


def test_dlv_5_a_connection_that_left_at_once_is_owed_nothing_more(story: Story) -> None:
    phone, _, _ = acked_elsewhere(story)
    story.close(phone)
    story.now += 2 * GRACE_MS
    assert broken(story.end()) == {}


@pytest.mark.parametrize("said", ["gap", "resync"])
def test_dlv_5_what_was_said_needs_not_come(story: Story, said: str) -> None:
    phone, laptop, _ = acked_elsewhere(story)
    if said == "gap":
        story.gap(phone, 1, 1)
    else:
        story.resync(phone, EPOCH, 1)
    following = story.send(ALICE)
    for device in (phone, laptop):
        story.receive(device, following)
    story.ack(phone, following)
    story.now += 2 * GRACE_MS
    assert broken(story.end()) == {}


@pytest.mark.parametrize(
    ("target", "excused"),
    [("gateway-0→redis", True), ("gateway-0", True), ("redis", True), ("gateway-1→redis", False)],
)
def test_dlv_5_only_what_disturbs_its_gateway_excuses_a_delay(
    story: Story, target: str, excused: bool
) -> None:
    story.add(Faulted(at=story.now, kind="isolate", target=target, for_s=20))
    acked_elsewhere(story)
    story.now += 2 * GRACE_MS
    story.add(Recovered(at=story.now, kind="isolate", target=target, after_ms=1))
    assert broken(story.end()) == ({} if excused else {"arrival": 1})


def test_dlv_5_after_a_resume_what_was_missed_is_still_owed(story: Story) -> None:
    phone, laptop, _ = acked_elsewhere(story)
    story.close(phone)
    phone = story.connect(ALICE, resume_from=0)
    following = story.send(ALICE)
    for device in (phone, laptop):
        story.receive(device, following)
    story.ack(phone, following)
    story.now += 2 * GRACE_MS
    assert broken(story.end()) == {"holes": 1, "arrival": 1}


def test_dlv_5_every_connected_device_gets_a_broadcast(story: Story) -> None:
    phone, laptop = story.connect(ALICE), story.connect(ALICE, gateway=1)
    message_id = story.cry()
    for device in (phone, laptop):
        story.hear(device, message_id)
    story.connect(ALICE)  # 此后才来的，也许已确认过
    story.now += 2 * GRACE_MS
    assert broken(story.end()) == {}


def test_dlv_5_a_broadcast_that_only_another_device_got_is_caught(story: Story) -> None:
    """E1。"""
    phone, laptop = story.connect(ALICE), story.connect(ALICE, gateway=1)
    message_id = story.cry()
    story.hear(laptop, message_id)
    story.now += 2 * GRACE_MS
    [violation] = check(story.end()).violations
    assert (violation.rule, violation.connection) == ("broadcasts", phone)


def test_dlv_1_a_broadcast_nobody_got_is_caught(story: Story) -> None:
    story.connect(ALICE)
    story.cry()
    assert broken(story.end()) == {"broadcasts": 1}


def test_dlv_2_a_broadcast_twice_on_a_connection_is_caught(story: Story) -> None:
    phone, message_id = story.connect(ALICE), story.cry()
    story.hear(phone, message_id)
    story.hear(phone, message_id)
    assert broken(story.end()) == {"broadcasts": 1}


def test_dlv_5_a_resumed_device_gets_even_what_others_acked(story: Story) -> None:
    phone, first, second, third = three_live(story)
    story.receive(phone, first)
    story.receive(phone, second)
    story.ack(phone, first, second)
    resumed = story.connect(ALICE, resume_from=0)
    story.receive(resumed, first, third, live=False)
    story.ack(resumed, third)
    assert broken(story.end()) == {"holes": 1}


def test_dlv_5_a_welcome_that_hides_what_is_owed_is_caught(story: Story) -> None:
    message_id = story.send(ALICE)
    story.connect(ALICE, pending=0)
    phone = story.connect(ALICE, pending=1)
    story.receive(phone, message_id, live=False)
    story.ack(phone, message_id)
    assert broken(story.end()) == {"holes": 1}


def test_dlv_5_a_seq_nobody_ever_saw_is_caught(story: Story) -> None:
    phone = story.connect(ALICE)
    story.seqs[ALICE] += 1
    message_id = story.send(ALICE)
    story.receive(phone, message_id)
    story.ack(phone, message_id)
    assert broken(story.end()) == {"holes": 1}


def test_dlv_5_a_new_epoch_starts_a_new_account(story: Story) -> None:
    phone = story.connect(ALICE)
    first = story.send(ALICE)
    story.receive(phone, first)
    story.ack(phone, first)
    story.resync(phone, "e2", 0)
    second = story.send(ALICE)
    story.receive_raw(phone, story.push(second, 1), live=True)
    story.ack(phone, second)
    assert broken(story.end()) == {}


# ── 幂等与其余 ───────────────────────────────────────────────────────────────


def test_a_retry_with_its_key_that_became_two_messages_is_caught(story: Story) -> None:
    post = story.intend(ALICE, key="k")
    story.answer(post, status=0)
    first, second = story.store(post, ALICE), story.store(post, ALICE)
    story.answer(post, second)
    for message_id in (first, second):
        story.deliver(ALICE, message_id)
    phone = story.connect(ALICE)
    story.receive(phone, first, second, live=False)
    story.ack(phone, first, second)
    assert broken(story.end()) == {"idempotency": 1}


def test_a_refused_post_that_was_stored_is_caught(story: Story) -> None:
    post = story.intend(ALICE)
    story.answer(post, status=503)
    message_id = story.store(post, ALICE)
    story.deliver(ALICE, message_id)
    phone = story.connect(ALICE)
    story.receive(phone, message_id, live=False)
    story.ack(phone, message_id)
    assert broken(story.end()) == {"idempotency": 1}


def test_a_report_that_differs_from_the_record_is_caught(story: Story) -> None:
    delivered(story)
    told = story.reports()
    story.rows[0] = MessageRow(*msgspec.structs.astuple(story.rows[0]))
    story.statuses[ALICE, story.rows[0].message_id] = ("delivered", story.now + 5)
    assert broken(story.end(reports=told)) == {"reports": 1}


def test_a_server_that_ended_by_itself_is_caught(story: Story) -> None:
    story.add(Died(at=story.now, target="worker-0", exit_code=1, ready=True))
    story.add(Died(at=story.now, target="worker-1", exit_code=1, ready=False))
    assert broken(story.end()) == {"survival": 1}


@pytest.mark.parametrize(("status", "took_ms"), [(500, 3), (200, 30_000), (0, 30_000)])
def test_an_operator_who_is_not_answered_is_caught(story: Story, status: int, took_ms: int) -> None:
    for seen, waited in ((200, 90), (503, 4_000), (0, 2_000), (status, took_ms)):
        story.add(Looked(at=story.now, path="/stats", status=seen, took_ms=waited))
    assert broken(story.end()) == {"operations": 1}


def test_a_violation_shows_its_slice_of_the_history(story: Story) -> None:
    delivered(story)
    message_id = story.send(ALICE)
    story.receive(story.connect(ALICE), message_id, live=False)
    story.record(ALICE, message_id)
    events = story.end()
    [violation] = check(events).violations
    lines = evidence(events, violation)
    assert [line.split('"event":"')[1].split('"')[0] for line in lines] == [
        *("answered", "dialled", "opened", "received"),
    ]
