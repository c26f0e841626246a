"""一次 ``bench edges`` 要做多少：全部上限都在这里，写进报告。"""

from __future__ import annotations

import msgspec


class EdgesPlan(msgspec.Struct, frozen=True, kw_only=True):
    """默认值是完整的一次（两个 edge、三轮，约一刻钟）。"""

    repeats: int = 3

    # 空闲连接的内存
    idle_sockets: int = 10_000
    warm_sockets: int = 200  # 先连再断一次：首次使用才分配的东西不算在连接头上
    heartbeat_interval_s: float = 10
    settle_s: float = 15  # 长于心跳间隔：每条连接都至少心跳过一次

    # 扇出：瞬时帧，一次 PUBLISH → 一个用户的所有设备；浅、深各一次
    fanout_users: int = 10
    devices_per_user: int = 100
    fanout_frames: int = 500_000
    #: 每条连接在途几帧。浅：几乎没有积压，是实时推送的样子（在途 ÷ 速率 = 延迟，约 20 ms）；
    #: 深：消费落后约一秒，谁会把同一条连接的几帧合成一次写，在这里见分晓。
    shallow_frames: int = 2
    deep_frames: int = 100
    frame_bytes: int = 160

    # REST 发送
    recipients: int = 8
    rest_concurrency: tuple[int, ...] = (16, 1)
    rest_duration_s: float = 5

    # POST → 收件人的套接字
    latency_rate_per_s: float = 100
    latency_duration_s: float = 15

    connect_concurrency: int = 64

    @property
    def fanout_sockets(self) -> int:
        return self.fanout_users * self.devices_per_user


QUICK = EdgesPlan(
    repeats=1,
    idle_sockets=500,
    warm_sockets=50,
    heartbeat_interval_s=0.5,
    settle_s=0.6,
    fanout_users=5,
    fanout_frames=20_000,
    recipients=2,
    rest_duration_s=0.3,
    latency_rate_per_s=50,
    latency_duration_s=1,
)
