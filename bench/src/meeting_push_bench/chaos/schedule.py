"""要做的事，事先全部排好：同一个种子得到同一套计划，只有时刻会随机器的快慢漂移。

这里的用户、发送者、目标都是序号；真实的 id 与端口要等进程起来才知道。
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final, Literal

from msgspec import Struct, structs

from .plan import ChaosPlan

AckPolicy = Literal["each", "batched", "upto", "late", "never"]
FaultKind = Literal[
    "kill_api",
    "kill_gateway",
    "kill_worker",
    "restart_redis",
    "pause",
    "cut",
    "hang",
    "refuse",
    "isolate",
    "half_open",
    "kick_subscribers",
    "kill_master",
    "hang_master",
    "part_master",
    "fail_over",
    "kill_sentinel",
    "move_slots",
]

_POLICIES: Final[tuple[AckPolicy, ...]] = ("each", "batched", "upto", "late", "never")
_POLICY_WEIGHTS: Final = (35, 20, 25, 10, 10)
#: 每副牌发完再洗：短的一次也轮得到每一种故障。
_DECK: Final[tuple[FaultKind, ...]] = (
    *("kill_worker", "kill_gateway", "kill_api", "restart_redis"),
    *("cut", "hang", "kill_gateway", "pause", "kill_worker", "refuse"),
    *("isolate", "half_open", "kick_subscribers", "isolate"),
)
#: Sentinel 看着的：多一半是主没了；一台的没有主可换，换成它自己重启。
_WATCHED_DECK: Final[tuple[FaultKind, ...]] = (
    *("kill_worker", "kill_master", "cut", "part_master", "kill_gateway", "kill_api"),
    *("hang_master", "hang", "kill_sentinel", "pause", "fail_over", "refuse", "part_master"),
    *("isolate", "half_open", "kick_subscribers", "kill_master"),
)
#: Cluster：没有 Sentinel 可杀，有槽可搬。
_SHARDED_DECK: Final[tuple[FaultKind, ...]] = (
    *("kill_worker", "kill_master", "cut", "move_slots", "kill_gateway", "kill_api"),
    *("hang_master", "hang", "part_master", "pause", "fail_over", "refuse", "move_slots"),
    *("isolate", "half_open", "kick_subscribers", "kill_master", "move_slots"),
)
_DECKS: Final = {"single": _DECK, "sentinel": _WATCHED_DECK, "cluster": _SHARDED_DECK}
#: 短的多半还没有被发现就好了；久的才漏得下东西。
_SPANS_S: Final[dict[FaultKind, tuple[float, float]]] = {
    "hang": (0.3, 4),
    "pause": (0.3, 4),
    "isolate": (3, 10),
    "half_open": (3, 8),
}
_SHORT_S: Final = (0.1, 2.0)
_NEVER_DUE_S: Final = 86_400.0
#: 比它还晚到期的，终局里还在延迟队列。
LATER_MS: Final = 3_600_000


class PlannedDraft(Struct, frozen=True, kw_only=True):
    """``hold``：收件人故意永不确认。``delay_s`` > 0：预约；一天后的在终局里还在延迟队列。"""

    recipients: tuple[int, ...]
    priority: int
    content_bytes: int
    hold: bool = False
    delay_s: float = 0


class PlannedPost(Struct, frozen=True, kw_only=True):
    """一次 POST。``again``：得到 2xx 之后还用同一个键再发一遍。"""

    at_s: float
    sender: int
    drafts: tuple[PlannedDraft, ...]
    batch: bool
    keyed: bool
    again: bool


class Stay(Struct, frozen=True, kw_only=True):
    """一台设备的一次在线：先离开 ``away_s``，再连上 ``online_s``。

    ``stale``：声称一个早已不在的 epoch。``twice``：每次确认都发两遍。
    ``foreign``：试着确认一条别人的消息。
    """

    away_s: float
    online_s: float
    gateway: int
    policy: AckPolicy
    resume: bool
    stale: bool
    abort: bool
    twice: bool
    foreign: bool


class Fault(Struct, frozen=True, kw_only=True):
    """``target`` 对候选者的个数取模；``isolate``、``half_open`` 只找网关到 Redis 的链路，
    ``kick_subscribers`` 是 Redis 掐断全部订阅者。``…_master``、``fail_over`` 等到换了主才恢复：
    ``part_master`` 是别的 Redis 看不见主，服务器照样往里写。``move_slots`` 是槽在主之间搬。

    ``for_s`` 之后恢复；``hard``：挂起的链路以掐断告终，
    ``replies_only``：只有回答被扣下，请求照样被执行。
    """

    at_s: float
    kind: FaultKind
    target: int
    for_s: float
    hard: bool
    replies_only: bool


class Schedule(Struct, frozen=True):
    """``stays`` 按（用户，设备）排列，每台设备一串；``broadcasts`` 是何时发。"""

    broadcasts: tuple[float, ...]
    posts: tuple[PlannedPost, ...]
    stays: tuple[tuple[Stay, ...], ...]
    faults: tuple[Fault, ...]


def make_schedule(plan: ChaosPlan) -> Schedule:
    """纯函数；各部分用各自的随机源，改动一部分不影响别的。"""
    return Schedule(
        broadcasts=tuple(_broadcasts(plan, _random(plan, "broadcasts"))),
        posts=_posts(plan, _random(plan, "posts")),
        stays=tuple(
            tuple(_stays(plan, number, _random(plan, f"phone/{number}")))
            for number in range(plan.phones)
        ),
        faults=tuple(_faults(plan, _random(plan, "faults"))),
    )


def _random(plan: ChaosPlan, part: str) -> Random:
    return Random(f"{plan.seed}/{part}")  # 字符串种子与 PYTHONHASHSEED 无关


def _broadcasts(plan: ChaosPlan, rng: Random) -> Iterator[float]:
    at_s = 0.0
    while (at_s := at_s + rng.uniform(0.2, 1.8) * plan.broadcast_gap_s) < plan.duration_s:
        yield at_s


# ── 发送 ────────────────────────────────────────────────────────────────────


def _posts(plan: ChaosPlan, rng: Random) -> tuple[PlannedPost, ...]:
    shapes: list[tuple[PlannedDraft, ...]] = []
    pairs = 0
    while pairs < plan.pairs:
        shapes.append(_drafts(plan, rng))
        pairs += sum(len(draft.recipients) for draft in shapes[-1])
    moments = sorted(rng.uniform(0, plan.duration_s) for _ in shapes)
    return tuple(_post(plan, rng, *each) for each in zip(moments, shapes, strict=True))


def _post(
    plan: ChaosPlan, rng: Random, at_s: float, drafts: tuple[PlannedDraft, ...]
) -> PlannedPost:
    keyed = rng.random() < 0.7
    return PlannedPost(
        at_s=at_s,
        sender=rng.randrange(plan.senders),
        drafts=drafts,
        batch=len(drafts) > 1,
        keyed=keyed,
        again=keyed and rng.random() < 0.1,
    )


def _drafts(plan: ChaosPlan, rng: Random) -> tuple[PlannedDraft, ...]:
    """六成单发一人，两成单发多人，两成批量。"""
    shape = rng.random()
    if shape < 0.6:
        return (_draft(plan, rng, 1),)
    if shape < 0.8:
        return (_draft(plan, rng, rng.randint(2, min(8, plan.users))),)
    return tuple(
        _draft(plan, rng, rng.randint(1, min(4, plan.users))) for _ in range(rng.randint(2, 10))
    )


def _draft(plan: ChaosPlan, rng: Random, recipients: int) -> PlannedDraft:
    users = tuple(rng.sample(range(plan.users), recipients))
    return PlannedDraft(
        recipients=users,
        priority=rng.choice((0, 0, 0, 0, 1, 3, 5, 5, 7, 9)),
        # 一小部分超过压缩的门槛
        content_bytes=rng.randint(1500, 4000) if rng.random() < 0.05 else rng.randint(10, 200),
        hold=recipients == 1 and users[0] < plan.hoarders and rng.random() < plan.hold_share,
        delay_s=_delay(rng),
    )


def _delay(rng: Random) -> float:
    chance = rng.random()
    if chance < 0.001:
        return _NEVER_DUE_S
    return rng.uniform(0.5, 4) if chance < 0.01 else 0


# ── 设备 ────────────────────────────────────────────────────────────────────


def _stays(plan: ChaosPlan, number: int, rng: Random) -> Iterator[Stay]:
    """排到远超过 ``duration_s`` 为止：发送可能因故障而拖长。"""
    user, device = divmod(number, plan.devices_per_user)
    stays = _roaming(plan, user, rng)
    yield from (_settled(plan, user, stay, rng) for stay in stays) if device == 0 else stays


def _settled(plan: ChaosPlan, user: int, stay: Stay, rng: Random) -> Stay:
    """守着一个网关，断了就带着位置回来：该它的一条不少，全靠服务器。"""
    return structs.replace(
        stay,
        away_s=min(stay.away_s, 1.0),
        online_s=rng.uniform(plan.longest_stay_s / 3, plan.longest_stay_s),
        gateway=user % plan.gateways,
        resume=True,
        stale=False,
    )


def _roaming(plan: ChaosPlan, user: int, rng: Random) -> Iterator[Stay]:
    weights = list(_POLICY_WEIGHTS)
    if user < plan.hoarders:
        weights[_POLICIES.index("upto")] = 0
    planned_s = 0.0
    while planned_s < plan.duration_s * 3 + 60:
        long = rng.random() < 0.08
        away_s = rng.uniform(8, plan.longest_away_s) if long else rng.expovariate(1 / 1.5)
        online_s = 0.2 + rng.expovariate(1 / 6)
        planned_s += away_s + online_s
        yield Stay(
            away_s=away_s,
            online_s=online_s,
            gateway=rng.randrange(plan.gateways),
            policy=rng.choices(_POLICIES, weights)[0],
            resume=rng.random() < 0.5,
            stale=rng.random() < 0.05,
            abort=rng.random() < 0.5,
            twice=rng.random() < 0.1,
            foreign=rng.random() < 0.1,
        )


# ── 故障 ────────────────────────────────────────────────────────────────────


def _faults(plan: ChaosPlan, rng: Random) -> Iterator[Fault]:
    at_s = plan.calm_s
    for kind in _deal(plan, rng):
        if at_s > plan.duration_s - plan.calm_s:
            return
        yield Fault(
            at_s=at_s,
            kind=kind,
            target=rng.randrange(1 << 30),
            for_s=rng.uniform(*_SPANS_S.get(kind, _SHORT_S)),
            hard=rng.random() < 0.5,
            replies_only=rng.random() < 0.5,
        )
        at_s += rng.uniform(0.2, 1.8) * plan.fault_gap_s


def _deal(plan: ChaosPlan, rng: Random) -> Iterator[FaultKind]:
    full = _DECKS[plan.redis]
    deck = [kind for kind in full if not plan.only_faults or kind in plan.only_faults]
    while True:
        yield from rng.sample(deck, len(deck))
