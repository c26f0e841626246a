"""各站的几组：握手、用户连接、放行、消息、会议、队列、投递、在线状态。"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from .ground import (
    Amount,
    Group,
    Kilobytes,
    PositiveInt,
    PositiveRate,
    PositiveSeconds,
    Rate,
    Seconds,
    setting,
)

#: 设备满了怎么办：拒绝新来的（4006）· 送走最早的（4505）· 拒绝，但同一个 ``device_id`` 总是新的顶掉
#: 旧的（4505）。
DevicePolicy = Literal["reject", "evict_oldest", "replace_same_device"]
TokenSource = Literal["header", "subprotocol", "ticket", "query"]
#: WebSocket 的令牌可以从哪里来；先找到者胜，就按这个次序。
TOKEN_SOURCES: Final[tuple[TokenSource, ...]] = ("header", "subprotocol", "ticket", "query")
RetryDelays = Annotated[tuple[PositiveSeconds, ...], Field(min_length=1, max_length=10)]
#: RFC 6454：方案、主机、端口，没有路径。浏览器对沙箱里的页面说的 ``null`` 不是谁，不能放行。
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s@]+", re.IGNORECASE)


def _whole_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is not an origin: scheme://host[:port], such as https://app.example"
            )
    return origins


Origins = Annotated[tuple[str, ...], AfterValidator(_whole_origins)]


class HandshakeSettings(Group):
    """握手"""

    allowed_origins: Origins = setting(
        (),
        "放行的来源：WebSocket 的 Origin 与 CORS；空的只许同源或没有 Origin",
        "页面与 API 不同源",
        unit="来源",
    )
    token_sources: Annotated[tuple[TokenSource, ...], Field(min_length=1)] = setting(
        TOKEN_SOURCES, "令牌可以从哪里来", "代理会记下 URL：去掉 query", flat="ws_token_sources"
    )
    ticket_ttl_s: Annotated[int, Field(ge=1, le=60)] = setting(
        30, "票据活多久，只用一次", flat="ws_ticket_ttl_s"
    )
    handshakes_per_address_per_s: PositiveRate = setting(
        500, "一个地址的握手，每个节点", "一个地址后面是大公司：放宽", unit="次/秒"
    )
    handshakes_per_address_burst: PositiveInt = setting(
        10_000, "同上，攒得下多少；一个地址后面可能是整个公司", "同上", unit="次"
    )
    handshakes_per_user_per_s: PositiveRate = setting(
        10, "一个用户的握手，认证之后才算，每个节点", unit="次/秒"
    )
    handshakes_per_user_burst: PositiveInt = setting(200, "同上，攒得下多少", unit="次")
    auth_failures_per_address_per_s: PositiveRate = setting(
        5, "一个地址的无效令牌，过期的不算，每个节点", unit="次/秒"
    )
    auth_failures_per_address_burst: PositiveInt = setting(100, "同上，攒得下多少", unit="次")


class EdgeSettings(Group):
    """用户连接"""

    driver: Literal["native", "asgi"] = setting(
        "native", "asgi：用户连接也走普通 ASGI", "内嵌到别的服务器", flat="edge"
    )
    heartbeat_interval_s: PositiveSeconds = setting(
        30, "客户端多久发一次心跳", "手机省电：60，连同代理的时限"
    )
    heartbeat_timeout_s: PositiveSeconds = setting(
        60, "这么久没有心跳就关，须长于间隔", "同上：150；僵尸连接多留一会儿"
    )
    handshake_timeout_s: PositiveSeconds = setting(
        5, "握手、请求头、对方的关闭帧各等至多这么久", "客户端的网络很慢"
    )
    max_frame_bytes: Kilobytes = setting(64 * 1024, "客户端的一帧")
    outbox_max_bytes: Kilobytes = setting(
        1024 * 1024, "一条连接的发件箱，满了 4001", "内存紧：256 KB；最坏是慢的连接数 × 它"
    )
    outbox_max_delay_s: PositiveSeconds = setting(5, "发件箱这么久没有进展就 4001", "客户端很慢")
    bad_frame_limit: PositiveInt = setting(20, "窗口里坏帧攒够就 4504", unit="帧")
    bad_frame_window_s: PositiveSeconds = setting(60, "坏帧的窗口")
    max_unacked: PositiveInt = setting(4096, "每条连接记住多少条未确认的推送", unit="条")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """互相矛盾的：启动时说，不让听话的客户端替它受罚。"""
        if self.heartbeat_interval_s >= self.heartbeat_timeout_s:
            raise ValueError("heartbeat_timeout_s must be more than heartbeat_interval_s")
        return self


class AdmissionSettings(Group):
    """连接的数目与快慢"""

    max_connections_per_address: Amount = setting(
        10_000, "一个地址的 WebSocket，每个节点；0 = 不限", "一个地址后面的人更多", unit="条"
    )
    max_connections_per_node: PositiveInt = setting(
        100_000, "一个节点的 WebSocket，越过时 4006", "内存装不下：每条约 10 KB", unit="条"
    )
    connects_per_s: PositiveRate = setting(
        2_000, "一个节点放行多快，再快的排队", "重连拖慢在线的人：400", unit="条/秒"
    )
    connects_burst: PositiveInt = setting(5_000, "同上，攒得下多少", "同上：50", unit="条")
    connect_wait_s: Seconds = setting(5, "排队至多这么久，再长就 4005", "同上：60")
    auth_failure_delay_s: Seconds = setting(0.2, "认证失败的回答平均推迟多久：坏客户端转不快")


class MessageSettings(Group):
    """消息"""

    ttl_s: PositiveInt = setting(
        7 * 86400, "一条消息活多久", "Redis 内存紧：1 天，约剩七分之一", flat="message_ttl_s"
    )
    max_content_bytes: PositiveInt = setting(
        64 * 1024, "一条消息的正文", "更大的放在别处，正文里给链接"
    )
    max_title_chars: PositiveInt = setting(200, "一条消息的标题")
    max_data_bytes: Amount = setting(16 * 1024, "一条消息的 data")
    max_recipients: PositiveInt = setting(10_000, "一条消息的收件人", "更多的用广播", unit="人")
    max_batch_messages: PositiveInt = setting(1_000, "一次批量发送的消息", unit="条")
    sends_per_user_per_s: Rate = setting(
        1_000,
        "一个用户发多快，每个进程各算；一份是一个收件人或正文每满 1 KB；0 = 不限，管理员不算",
        "一个后端以用户的令牌替很多人发",
        unit="份/秒",
    )
    sends_per_user_burst: PositiveInt = setting(
        50_000, "同上，攒得下多少；优先级 5–9 的各只有十分之一", "同上", unit="份"
    )
    sends_per_key_per_s: Rate = setting(
        0,
        "一枚 API 密钥发多快，替谁发都算它的；攒得下的同 `sends_per_user_burst`；0 = 不限",
        "一个后端不该拖慢别的",
        unit="份/秒",
    )
    mailbox_max_entries: PositiveInt = setting(
        1_000, "一个人还没确认的，满了先挤占得最多的发送者", "Redis 内存紧：128", unit="条"
    )
    log_max_entries: PositiveInt = setting(
        1_000,
        "一个人续传的日志，更早的得到 resync",
        "同上",
        unit="条",
        flat="message_log_max_entries",
    )
    compress_above_bytes: Amount = setting(
        1024, "正文满这么大才压缩了存", "正文多在 1 KB 以上：默认就好，更小的压不下多少"
    )


class MeetingSettings(Group, alias_generator="meeting_{}".format):
    """会议"""

    max_title_chars: PositiveInt = setting(200, "会议的标题")
    max_participants: Annotated[int, Field(ge=1, le=10_000)] = setting(
        1_000, "一场会议的参与者", unit="人"
    )
    max_connections: PositiveInt = setting(
        500, "一场会议的 WebSocket，所有节点合计", "一场会议的人更多", unit="条"
    )
    max_text_chars: PositiveInt = setting(4_000, "一段转录")
    max_frame_bytes: Kilobytes = setting(16 * 1024, "客户端的一帧")
    frames_per_s: PositiveRate = setting(
        20, "一条连接发多快；允许两秒的突发", "识别器说得更密", unit="帧/秒"
    )
    bytes_per_s: Annotated[float, Field(ge=1024)] = setting(
        64 * 1024, "同上，以字节计", "同上", unit="字节/秒"
    )
    outbox_max_bytes: Kilobytes = setting(512 * 1024, "一条连接的发件箱，满了 4001", "内存紧")
    refresh_s: PositiveSeconds = setting(5, "多久续一次在场、核对有无漏段；三次没续上即不在场")
    leave_grace_s: Seconds = setting(2, "断开这么久仍没回来才宣布离开", "客户端常断一下")


class QueueSettings(Group):
    """队列与工人"""

    max_length: PositiveInt = setting(
        100_000,
        "一条流至多这么长，再来的留在发件箱",
        "Redis 内存紧：小",
        unit="项",
        flat="queue_max_length",
    )
    chunk_recipients: PositiveInt = setting(
        500,
        "一项至多这么多收件人",
        "一发几千人时普通消息被堵：200",
        unit="人",
        flat="queue_chunk_recipients",
    )
    partitions: Annotated[int, Field(ge=1, le=64)] = setting(
        1,
        "流分几份：Cluster 上各份落在不同的主",
        "一个主的处理器被队列占满：主的个数；留在别的份里的几秒内搬回来",
        unit="份",
        flat="queue_partitions",
    )
    max_deliveries: PositiveInt = setting(
        5, "取出超过这么多次还没有了结的进死信", unit="次", flat="queue_max_deliveries"
    )
    consumer_tasks: PositiveInt = setting(2, "一个进程平常几个消费者", unit="个")
    consumer_tasks_max: PositiveInt = setting(
        8, "积压时增到这么多，不少于平常的", "任务只盖住等待；CPU 要加进程", unit="个"
    )
    consumer_batch_entries: PositiveInt = setting(100, "一批取这么多项", unit="项")
    consumer_block_ms: PositiveInt = setting(1_000, "空着时一次等这么久")
    consumer_stall_s: PositiveSeconds = setting(30, "消费者这么久没有进展就不就绪")
    claim_idle_ms: PositiveInt = setting(
        30_000, "取走这么久没有了结的由别人认领", "一批投递常比它久"
    )
    starvation_bound: PositiveInt = setting(10, "每这么多批，普通队列至少先取一批", unit="批")
    fair_share_per_s: PositiveRate = setting(
        1_000,
        "入队时一个发送者的一份，超出的走慢的那条，别人不等它",
        "一个发送者就是全部的业务",
        unit="人/秒",
    )
    fair_share_burst: PositiveInt = setting(2_000, "同上，攒得下多少", "同上", unit="人")
    direct_recipients: Annotated[int, Field(ge=0, le=500)] = setting(
        10,
        "收件人不多于它的，收下的进程自己投递，不经队列；0 = 都经队列",
        "投递要另给机器：0",
        unit="人",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.consumer_tasks_max < self.consumer_tasks:
            raise ValueError("consumer_tasks_max must not be less than consumer_tasks")
        return self


class DeliverySettings(Group):
    """投递与结局"""

    relay_interval_s: PositiveSeconds = setting(1, "多久扫一遍发件箱里没有送进队列的")
    relay_grace_s: Seconds = setting(5, "提交满这么久还没入队的，由上一项的扫描代劳")
    reconcile_interval_s: PositiveSeconds = setting(2, "多久对照一次 Redis 与 SQL 的记号")
    straggler_interval_s: PositiveSeconds = setting(30, "多久查一页掉队的")
    straggler_after_s: PositiveSeconds = setting(
        600, "入队这么久还毫无痕迹才算掉队", "积压会超过它"
    )
    ack_flush_ms: Seconds = setting(
        5,
        "确认攒多久写一次；忙时两批至少隔它的五倍与 50 ms",
        "确认很多、SQL 吃紧：20–50，回执晚同样久",
    )
    retry_delays_s: RetryDelays = setting(
        (60, 300, 900), "没有确认：依次等这么久再推，用完即 failed", "消息更急或更不急"
    )
    expiry_interval_s: PositiveSeconds = setting(5, "多久扫一遍过期的")


class PresenceSettings(Group):
    """在线状态与设备"""

    node_lease_s: Annotated[int, Field(ge=1, le=30)] = setting(
        20, "节点的租约：死了的这么久之后没有人算在线"
    )
    flush_ms: Seconds = setting(200, "上下线攒多久写一次", "要更及时：50", flat="presence_flush_ms")
    sweep_s: PositiveSeconds = setting(
        60, "隔多久，内存与 Redis 对一次账", "十万连接以上：120", flat="presence_sweep_s"
    )
    grace_s: Seconds = setting(
        5, "离线满这么久才告诉关注者", "客户端常断一下", flat="presence_grace_s"
    )
    max_watched_per_connection: PositiveInt = setting(500, "一条连接至多关注多少人", unit="人")
    max_watched_per_user: PositiveInt = setting(
        2_500, "一个用户的全部设备至多关注多少人，每个节点", unit="人"
    )
    max_watched_users: PositiveInt = setting(
        50_000, "一个节点至多关注多少人；一个地址占四分之一", "每人在 Redis 里一个订阅", unit="人"
    )
    max_devices_per_user: Annotated[int, Field(ge=1, le=1_000)] = setting(
        200, "一个用户的设备，所有节点合计", "要限住共用的账号：小", unit="台"
    )
    device_policy: DevicePolicy = setting(
        "reject",
        "设备满了：拒绝新来的；送走最早的；同一 device_id 新的顶掉旧的",
        "设备数有限、换设备的人进不来",
    )
