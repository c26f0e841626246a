"""计划：同一个种子同一套，长短都轮得到每一种混乱。"""

from __future__ import annotations

import msgspec
import pytest

from meeting_push_bench.chaos.plan import FULL, QUICK, ChaosPlan
from meeting_push_bench.chaos.schedule import Schedule, make_schedule

PLANS = pytest.mark.parametrize("plan", [QUICK, FULL], ids=["quick", "full"])


def pairs(schedule: Schedule) -> int:
    return sum(len(draft.recipients) for post in schedule.posts for draft in post.drafts)


def test_the_same_seed_gives_the_same_plan_of_actions() -> None:
    assert make_schedule(QUICK) == make_schedule(QUICK)


def test_another_seed_gives_another_plan() -> None:
    assert make_schedule(QUICK) != make_schedule(msgspec.structs.replace(QUICK, seed=2))


def test_more_devices_do_not_change_what_is_sent_or_broken() -> None:
    more = make_schedule(msgspec.structs.replace(QUICK, devices_per_user=3))
    assert (more.posts, more.faults) == (make_schedule(QUICK).posts, make_schedule(QUICK).faults)


@PLANS
def test_enough_is_sent(plan: ChaosPlan) -> None:
    assert pairs(make_schedule(plan)) >= plan.pairs


@PLANS
def test_every_kind_of_fault_has_its_turn(plan: ChaosPlan) -> None:
    kinds = {fault.kind for fault in make_schedule(plan).faults}
    assert {"kill_api", "kill_gateway", "kill_worker", "restart_redis"} <= kinds
    assert {"cut", "hang", "pause", "refuse"} <= kinds
    assert {"isolate", "half_open", "kick_subscribers"} <= kinds


@PLANS
def test_every_user_has_a_device_that_stays_and_others_elsewhere(plan: ChaosPlan) -> None:
    """E1：一台守在一个网关上，别的在别处收到、确认。"""
    stays = make_schedule(plan).stays
    for user in range(plan.users):
        settled, *roaming = stays[user * plan.devices_per_user :][: plan.devices_per_user]
        assert {stay.gateway for stay in settled} == {user % plan.gateways}
        assert min(stay.online_s for stay in settled) >= plan.longest_stay_s / 3
        assert all(stay.resume for stay in settled)
        assert {stay.gateway for each in roaming for stay in each} == set(range(plan.gateways))


@PLANS
def test_no_fault_begins_in_the_calm_at_the_end(plan: ChaosPlan) -> None:
    last = make_schedule(plan).faults[-1]
    assert last.at_s <= plan.duration_s - plan.calm_s


@PLANS
def test_a_user_who_holds_messages_back_never_acks_by_upto(plan: ChaosPlan) -> None:
    schedule = make_schedule(plan)
    hoarders = schedule.stays[: plan.hoarders * plan.devices_per_user]
    assert not any(stay.policy == "upto" for stays in hoarders for stay in stays)
    holds = [d for post in schedule.posts for d in post.drafts if d.hold]
    assert holds
    assert all(draft.recipients[0] < plan.hoarders for draft in holds)


@PLANS
def test_every_way_to_send_and_to_ack_occurs(plan: ChaosPlan) -> None:
    schedule = make_schedule(plan)
    assert {post.batch for post in schedule.posts} == {True, False}
    assert {post.keyed for post in schedule.posts} == {True, False}
    assert any(post.again for post in schedule.posts)
    assert {stay.policy for stays in schedule.stays for stay in stays} == {
        *("each", "batched", "upto", "late", "never"),
    }
