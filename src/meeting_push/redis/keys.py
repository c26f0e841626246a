"""Redis 键与频道的名字。

花括号是字面的 Cluster hash tag：同一用户、同一队列分区的键各落在同一个槽，可在一段 Lua 里一起改。
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

DELIVERY_GROUP: Final = "delivery_workers"
#: 队列至多分几份（设置 ``queue_partitions`` 的上界）。
MAX_PARTITIONS: Final = 64


def literally(text: str) -> str:
    """``MATCH`` 里的一段，其中的特殊字符只当字面。"""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)


class _Name:
    """一个名字，前面加上 ``Keys.prefix``。"""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, keys: Keys, _kind: type[Keys]) -> str:
        return f"{keys.prefix}{self._name}"


@dataclass(frozen=True, slots=True)
class Keys:
    """``prefix`` 原样加在每个键和频道前面（测试用它互相隔离）。

    ``tagged``：一条命令的键要同槽（Cluster），队列的键总带着分区的 tag。
    """

    prefix: str = ""
    tagged: bool = False

    # 在线状态
    def online_user(self, user_id: int) -> str:
        return f"{self.prefix}online_users:{{{user_id}}}"

    online_users_set = _Name("online_users_set")
    #: 最近一条连接断得不正常、还没有回来的人。
    left_users = _Name("left_users")

    def connection_count(self, user_id: int) -> str:
        return f"{self.prefix}user_connections_count:{{{user_id}}}"

    def node(self, node_id: str) -> str:
        return f"{self.prefix}node:{node_id}"

    nodes = _Name("nodes")

    def node_connections(self, node_id: str) -> str:
        return f"{self.prefix}node_connections:{node_id}"

    def user_slots(self, user_id: int) -> str:
        return f"{self.prefix}user_slots:{{{user_id}}}"

    node_reports = _Name("node_reports")

    def active_users(self, name: str) -> str:
        """一格时间里的活跃用户；各格在一个槽里，一次数得了几格。"""
        return f"{self.prefix}active_users:{{all}}:{name}"

    def traffic(self, name: str) -> str:
        """一天里每小时发了多少、收到多少。"""
        return f"{self.prefix}traffic:{name}"

    def log_counts(self, name: str) -> str:
        """一格时间里各种日志事件说了几次；各格在一个槽里。"""
        return f"{self.prefix}log_counts:{{all}}:{name}"

    def probe(self, node_id: str) -> str:
        """就绪检查自己写的，见 ``probe.lua``。"""
        return f"{self.prefix}probe:{{{node_id}}}"

    def probe_queue(self, node_id: str) -> str:
        return f"{self.prefix}probe_queue:{{{node_id}}}"

    # 每个用户的投递状态
    def mailbox(self, user_id: int) -> str:
        return f"{self.prefix}offline_messages:{{{user_id}}}"

    def message_log(self, user_id: int) -> str:
        return f"{self.prefix}message_log:{{{user_id}}}"

    def user_seq(self, user_id: int) -> str:
        return f"{self.prefix}user_seq:{{{user_id}}}"

    def expired_messages(self, user_id: int) -> str:
        """过期了还没确认的（墓碑；见 ``expire.lua``）。"""
        return f"{self.prefix}expired_messages:{{{user_id}}}"

    def evicted_messages(self, user_id: int) -> str:
        """被挤出信箱还没确认的（墓碑；见 ``evict.lua``）。"""
        return f"{self.prefix}evicted_messages:{{{user_id}}}"

    def mailbox_senders(self, user_id: int) -> str:
        """信箱里各条是谁发的、多急：挤出时要知道（见 ``evict.lua``）。"""
        return f"{self.prefix}mailbox_senders:{{{user_id}}}"

    def broadcast_cursor(self, user_id: int) -> str:
        return f"{self.prefix}broadcast_cursor:{{{user_id}}}"

    # 每条消息
    def message_body(self, message_id: str) -> str:
        return f"{self.prefix}message_body:{message_id}"

    def delivery_status(self, message_id: str) -> str:
        return f"{self.prefix}message_delivery_status:{message_id}"

    # 队列
    delivery_queue = _Name("message_delivery_queue")
    priority_queue = _Name("priority_message_queue")
    #: 超出发送者一份的、一起到期的：前两条空着才轮到它。
    bulk_queue = _Name("bulk_message_queue")
    #: 预约的里超出发送者一份的。
    delayed_bulk_queue = _Name("delayed_bulk_queue")
    delayed_queue = _Name("delayed_message_queue")
    dead_letter_queue = _Name("dead_letter_queue")
    #: 谁拿到它，谁做这一轮的过期清理。
    expiry_turn = _Name("expiry_turn")
    #: 谁拿到它，谁扫发件箱。
    outbox_turn = _Name("outbox_turn")
    #: 谁拿到它，谁评估告警的规则。
    alert_turn = _Name("alert_turn")
    cancelled_messages = _Name("cancelled_messages")
    #: 有人不经队列投递着此刻的消息：做 ``bulk_queue`` 的一次少做些。
    live_traffic = _Name("live_traffic")
    delivery_generation = _Name("delivery_generation")

    def generation_witness(self, tag: str) -> str:
        """Cluster 的一段槽里的同一个记号（``GenerationMark``）。"""
        return f"{self.prefix}delivery_generation:{{{tag}}}"

    #: 服务着哪个数据库，它的哪些节点活着（``claim.lua``）。
    database_claim = _Name("database_claim")
    #: 谁拿到它，谁清掉先前那个数据库留下的。
    takeover_turn = _Name("takeover_turn")
    broadcast_log = _Name("broadcast_log")

    @property
    def broadcast_ids(self) -> str:
        """日志里有哪些消息；hash tag 恰是日志的整个键名，所以与它同槽。"""
        return f"{{{self.broadcast_log}}}:ids"

    def meeting_online(self, meeting_id: str) -> str:
        return f"{self.prefix}meeting_online:{{{meeting_id}}}"

    # 认证
    def ws_ticket(self, digest: str) -> str:
        return f"{self.prefix}ws_ticket:{digest}"

    def attempts(self, name: str, digest: str) -> str:
        return f"{self.prefix}attempts:{name}:{digest}"

    # 运维
    def trace_answers(self, nonce: str) -> str:
        """各进程说它们看见一条消息走到了哪里。"""
        return f"{self.prefix}trace_answers:{nonce}"

    def ack_answers(self, nonce: str) -> str:
        """握着一条连接的进程说它确认了几条。"""
        return f"{self.prefix}ack_answers:{nonce}"

    # 频道
    def meeting_channel(self, meeting_id: str) -> str:
        return f"{self.prefix}meeting:{{{meeting_id}}}:frames"

    def user_channel(self, user_id: int) -> str:
        """注意：频道里的 ``{user_id}`` 也是字面花括号，与 contract 一致。"""
        return f"{self.prefix}user:{{{user_id}}}:messages"

    def presence_channel(self, user_id: int) -> str:
        return f"{self.prefix}presence:{{{user_id}}}"

    def canary_channel(self, node_id: str) -> str:
        """Cluster 上每个主一个：后面添上 ``:<数>``，落在它的槽里。"""
        return f"{self.prefix}canary:{node_id}"

    broadcast_channel = _Name("broadcast:all")
    system_channel = _Name("system:notifications")

    def is_sharded(self, channel: str) -> bool:
        """Cluster 上只在管着它的槽的那台发布的：各人的、各节点的；其余的走全体的总线。"""
        return channel.startswith(self.sharded)

    @property
    def sharded(self) -> tuple[str, ...]:
        """分片的频道以什么开头。"""
        return tuple(f"{self.prefix}{kind}:" for kind in ("user", "presence", "canary"))


# ── 队列的分区 ───────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """只有一个分区时是 contract 里的名字；多于一个、在 Cluster 上，各带 ``{q0}``、``{q1}`` …"""

    delivery: str
    priority: str
    bulk: str
    delayed: str
    delayed_bulk: str
    dead_letter: str

    @property
    def streams(self) -> tuple[str, str, str]:
        """消费者读的几条，先读的在前。"""
        return self.priority, self.delivery, self.bulk

    @classmethod
    def of(cls, keys: Keys, partitions: int) -> tuple[QueueKeys, ...]:
        plain = partitions == 1 and not keys.tagged
        tags = [""] if plain else [f":{{q{number}}}" for number in range(partitions)]
        return tuple(cls._with(keys, tag) for tag in tags)

    @classmethod
    def others(cls, keys: Keys, partitions: int) -> tuple[QueueKeys, ...]:
        """分区的数目从前不同、从前不在 Cluster 上时可能用过的别的名字。"""
        plain = cls._with(keys, "")
        ours = cls.of(keys, partitions)
        return tuple(one for one in (plain, *cls.of(keys, MAX_PARTITIONS)) if one not in ours)

    @classmethod
    def _with(cls, keys: Keys, tag: str) -> QueueKeys:
        return cls(
            delivery=keys.delivery_queue + tag,
            priority=keys.priority_queue + tag,
            bulk=keys.bulk_queue + tag,
            delayed=keys.delayed_queue + tag,
            delayed_bulk=keys.delayed_bulk_queue + tag,
            dead_letter=keys.dead_letter_queue + tag,
        )


def home_of(message_id: str, partitions: Sequence[QueueKeys]) -> QueueKeys:
    """一条消息的全部条目落在同一分区：去重与撤回只看一处。"""
    count = len(partitions)
    return partitions[zlib.crc32(message_id.encode()) % count if count > 1 else 0]
