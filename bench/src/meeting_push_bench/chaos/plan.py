"""一次混乱有多大：全部上限都在这里，写进报告。"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

#: 一台、Sentinel 看着的一主几副本，或几个主各有副本的 Cluster。
RedisKind = Literal["single", "sentinel", "cluster"]


class ChaosPlan(msgspec.Struct, frozen=True, kw_only=True):
    """默认值是完整的一次：五分钟，十万个（消息，收件人），还有没得到回答而放弃的余量。"""

    seed: int = 1
    duration_s: float = 300
    #: 发送到至少这么多个（消息，收件人）为止，均匀摊在 ``duration_s`` 里。
    pairs: int = 102_000

    senders: int = 3
    users: int = 24
    #: 其中这么多个用户会故意永不确认一些消息；他们因此从不用 ``upto``。
    hoarders: int = 4
    #: 只发给他们中一人的，这么大一份永不确认。
    hold_share: float = 0.1
    devices_per_user: int = 3
    #: 每个用户的头一台设备守着自己的网关，一次在线至多这么久；其余的来来去去，随便连哪个网关。
    longest_stay_s: float = 90
    #: 长过续传日志装得下的，就会得到 ``too_far_behind``。
    longest_away_s: float = 150

    redis: RedisKind = "single"
    #: Sentinel 看着的主有几个副本。
    replicas: int = 2
    #: Cluster 有几个主，各有几个副本。
    masters: int = 3
    replicas_each: int = 1

    apis: int = 2
    gateways: int = 2
    workers: int = 2
    writers: int = 12

    #: 发给所有人的平均隔多久一条。
    broadcast_gap_s: float = 3

    #: 两次故障平均隔多久；开头与结尾各留一段没有新故障的时间。
    fault_gap_s: float = 5
    #: 只要这些故障；空 = 全部。
    only_faults: tuple[str, ...] = ()
    calm_s: float = 5
    #: 终局里每这么多条消息用 REST 问一条；SQL 与 Redis 总是全读。
    report_every: int = 3
    #: 收尾时多久没有任何进展就不再等。
    patience_s: float = 30

    @property
    def phones(self) -> int:
        return self.users * self.devices_per_user


FULL: Final = ChaosPlan()

#: 测试套件里的一分钟。
QUICK: Final = ChaosPlan(
    duration_s=60,
    pairs=7_000,
    senders=2,
    users=12,
    hoarders=2,
    devices_per_user=2,
    longest_stay_s=25,
    longest_away_s=30,
    apis=1,
    writers=8,
    fault_gap_s=3.5,
    calm_s=3,
    report_every=5,
)
