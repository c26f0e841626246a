"""各 profile 要做多少：全部上限都在这里，写进报告。"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Scenario = Literal["send", "hold", "fanout", "unicast", "storm"]


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """一次运行；各场景只看与它有关的项。"""

    scenario: Scenario
    about: str

    # 连接
    sockets: int
    accounts: int = 0  # 其中有账号的：耐久消息的收件人
    heartbeat_interval_s: float = 30
    connect_concurrency: int = 64  # 每个负载进程同时在连的

    # 负载
    seconds: float
    rate_per_s: float | None = None  # None：先量满载，取其 ``load_share``
    load_share: float = 0.5
    calibrate_s: float = 4
    durable_per_s: float = 0  # 另外的耐久涓流，收件人/s
    recipients_per_message: int = 10
    messages_per_request: int = 1
    frame_bytes: int = 160  # 瞬时帧

    # 爬坡（unicast）
    step_s: float = 5
    growth: float = 1.5
    max_steps: int = 16

    # 旁观者（storm）
    bystanders: int = 0

    # 进程：gateways 为 0 是一个什么都做的 ``serve``
    gateways: int = 0
    load_processes: int = 1

    # 目标
    p95_goal_ms: float | None = None


_SINGLE: Final = LoadPlan(
    scenario="send",
    about="The same with one recipient a message, one message a request.",
    sockets=1_000,
    accounts=1_000,
    seconds=30,
    calibrate_s=8,
    load_share=0.8,
    recipients_per_message=1,
)

PROFILES: Final[dict[str, LoadPlan]] = {
    "smoke": LoadPlan(
        scenario="send",
        about="Seconds: does everything work?",
        sockets=50,
        accounts=50,
        seconds=3,
        calibrate_s=1,
        heartbeat_interval_s=5,
    ),
    "1k": LoadPlan(
        scenario="send",
        about="1,000 sockets, real sends (REST, durable, acks) at half load.",
        sockets=1_000,
        accounts=1_000,
        seconds=30,
        p95_goal_ms=10,
    ),
    "10k": LoadPlan(
        scenario="hold",
        about="10,000 sockets held for 3 minutes, 5,000 messages/s to random users.",
        sockets=10_000,
        accounts=200,
        seconds=180,
        rate_per_s=5_000,
        durable_per_s=20,
        gateways=2,
        p95_goal_ms=50,
    ),
    "100k": LoadPlan(
        scenario="hold",
        about="100,000 sockets held for 10 minutes, 5,000 messages/s to random users.",
        sockets=100_000,
        accounts=200,
        seconds=600,
        rate_per_s=5_000,
        durable_per_s=20,
        gateways=6,
        load_processes=6,
        p95_goal_ms=50,
    ),
    "fanout": LoadPlan(
        scenario="fanout",
        about="Broadcasts to 10,000 sockets: deliveries/s, and the latency at half of that.",
        sockets=10_000,
        seconds=20,
        gateways=1,
    ),
    "unicast": LoadPlan(
        scenario="unicast",
        about="Transient messages to 5,000 users, faster and faster: the highest P95 < 50 ms.",
        sockets=5_000,
        seconds=15,
        rate_per_s=5_000,
        gateways=1,
        p95_goal_ms=50,
    ),
    "durable": LoadPlan(
        scenario="send",
        about="SQL, queue, worker, socket, recorded ack: recipients/s for 60 s.",
        sockets=2_000,
        accounts=2_000,
        seconds=60,
        calibrate_s=8,
        load_share=0.8,
        recipients_per_message=100,
        gateways=1,
    ),
    "durable-single": _SINGLE,
    "durable-batched": msgspec.structs.replace(
        _SINGLE,
        about="The same with one recipient a message, 100 messages a request.",
        messages_per_request=100,
    ),
    "storm": LoadPlan(
        scenario="storm",
        about="20,000 clients cut off at once: how fast they are back, what others notice.",
        sockets=20_000,
        seconds=15,
        rate_per_s=500,
        bystanders=200,
        gateways=2,
        load_processes=2,
        connect_concurrency=256,
    ),
    "soak": LoadPlan(
        scenario="hold",
        about="An hour of moderate load: does anything grow?",
        sockets=1_000,
        accounts=200,
        seconds=3_600,
        rate_per_s=200,
        durable_per_s=20,
    ),
}
