"""在线状态的 Redis 操作：每个用户的连接表与座位表、全局在线集合、各节点的租约与索引。"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence, Set
from functools import partial
from typing import Final, NamedTuple

import msgspec

from ..clock import now_ms
from ..logs import logger
from ..model import ConnectionInfo, FailureCause, PresenceStatus
from ..node_identity import NodeIdentity
from ..settings import DevicePolicy
from .client_pool import RedisClient
from .connection_tables import Around, ConnectionTables, Row, Written
from .connection_tables import Turn as Turn
from .keys import Keys
from .lean import LeanConnection, Script
from .link import Argument, Command

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(ConnectionInfo)

#: 一次收拾死节点的多少条连接（约 2 ms 的 Redis）。
REAP_CHUNK: Final = 100
SCAN_COUNT: Final = 1_000

#: 哪一条连接：(user_id, connection_id)。
ConnectionKey = tuple[int, str]
#: 一条连接的变化：(user_id, connection_id, 现状)；None 表示它没了，``FailureCause`` 是它没了，
#: 而且怎样没有的说明了他为什么收不到。
Change = tuple[int, str, ConnectionInfo | FailureCause | None]

#: 还在的一条。
_Here = tuple[int, str, ConnectionInfo]

#: 记得最近这么多个人的最近一条连接怎样没有的（一个约 100 字节）。
MAX_LEFT: Final = 200_000
#: ``left_users`` 里的分数：断开的毫秒 × 16 + 这里的次序（0 是没有说明什么）。
_LEFT: Final = (None, FailureCause.NETWORK, FailureCause.AUTHENTICATION, FailureCause.CLIENT)
_LEFT_SCALE: Final = 16
#: 断开了这么久还没有回来的，不再算线的、令牌的事。比默认的有效期（七天）长一天。
LEFT_MS: Final = 8 * 86_400_000


class Reaped(NamedTuple):
    """收拾了一步：移走几条、索引里还剩几条、这一步是否收拾完了这个节点（至多一人为真）、谁下线了。"""

    removed: int
    left: int
    last: bool
    turned: list[Turn]


def overall_status(connections: Iterable[ConnectionInfo]) -> PresenceStatus | None:
    """几台设备合起来的状态：有一台忙就是忙，否则有一台活跃就是活跃；None = 不在线。

    ``lua/presence.lua`` 里有同一条规则。
    """
    found = {connection.status for connection in connections}
    order: tuple[PresenceStatus, ...] = ("busy", "active", "away")
    return next((status for status in order if status in found), None)


class PresenceStore:
    """一个节点眼里的在线状态。读取一律忽略租约已失效的节点留下的连接（CON-2）。

    ``ttl_ms``：用户的键活多久，写一次续一次。节点的键活两倍：它们必须比所索引的长命。
    """

    def __init__(self, lean: LeanConnection, keys: Keys, node: NodeIdentity, ttl_ms: int) -> None:
        self._lean = lean
        self._keys = keys
        self._node = node
        self._ttl_ms = ttl_ms
        self._node_ttl_ms = ttl_ms * 2
        self._tables = ConnectionTables(lean, keys, ttl_ms)

    # ── 本节点的连接 ─────────────────────────────────────────────────────────

    async def apply(
        self, changes: Sequence[Change], now: int, *, announce: bool = False
    ) -> list[Turn]:
        """写入一批，并发布由此产生的转变；幂等，重来无害。返回上线、下线了的人。

        ``announce``：写入的各人没有转变也发布。
        """
        here: list[_Here] = []
        rows: list[Row] = []
        for user_id, connection_id, info in changes:
            if isinstance(info, ConnectionInfo):
                here.append((user_id, connection_id, info))
                rows.append((user_id, connection_id, _encoder.encode(info), info.last_heartbeat))
            else:
                rows.append((user_id, connection_id, b"", 0))
        ahead, behind = partial(self._indexing, here), partial(self._showing, here, now)
        around = Around(ahead, behind, now - self._ttl_ms, self._node_ttl_ms)
        written = await self._tables.write(self._node.id, rows, announce=announce, around=around)
        if written.gone:
            await self._take_out(changes, written, {user_id for user_id, *_ in here}, now)
        return written.turned

    def _indexing(self, here: Sequence[_Here]) -> list[Command]:
        """先于连接表：死在中间的，索引里多一项，收拾者认得；少一项，就没有人收拾它。"""
        own, nodes = self._keys.node_connections(self._node.id), self._keys.nodes
        came = [f"{user_id}:{connection_id}" for user_id, connection_id, _ in here]
        return [
            *([("SADD", own, *came)] if came else []),
            # 登记节点：没有租约时写入的，也要有人收拾得到
            ("SADD", nodes, self._node.id),
            ("PEXPIRE", nodes, self._node_ttl_ms),
            ("PEXPIRE", own, self._node_ttl_ms),
        ]

    def _showing(self, here: Sequence[_Here], now: int) -> list[Command]:
        """全局的集合，后于连接表。"""
        online, commands = self._keys.online_users_set, list[Command]()
        if here:
            scores = [value for user, _, info in here for value in (info.last_heartbeat, user)]
            commands.append(("ZADD", online, "GT", *scores))
            commands.append(("ZREM", self._keys.left_users, *(user_id for user_id, *_ in here)))
        commands.append(("ZREMRANGEBYSCORE", online, "-inf", f"({now - self._ttl_ms}"))
        commands.append(("PEXPIRE", online, self._ttl_ms))
        return commands

    async def _take_out(
        self, changes: Sequence[Change], written: Written, seen: Set[int], now: int
    ) -> None:
        """没了的出索引；一条也没有了的人出全局的集合。"""
        keys, own = self._keys, self._node.id
        left: dict[int, FailureCause | None] = {}
        commands: list[Command] = []
        for at, (removed, node, rest) in written.gone.items():
            user_id, connection_id, cause = changes[at]
            member = f"{user_id}:{connection_id}"
            commands += [
                ("SREM", keys.node_connections(each), member) for each in {own, node or own}
            ]
            if rest == 0 and user_id not in seen:
                left[user_id] = cause if removed and isinstance(cause, FailureCause) else None
        await self._take_off(list(left), now, [*commands, *self._remembering(left, now)])

    def _remembering(self, left: Mapping[int, FailureCause | None], now: int) -> list[Command]:
        """最后一条连接没了：记下怎样没有的，直到他回来。"""
        key = self._keys.left_users
        marks = [
            value
            for user_id, cause in left.items()
            if cause is not None
            for value in (now * _LEFT_SCALE + _LEFT.index(cause), user_id)
        ]
        if not marks:
            return []
        return [
            ("ZADD", key, *marks),
            ("ZREMRANGEBYSCORE", key, "-inf", f"({(now - LEFT_MS) * _LEFT_SCALE}"),
            ("ZREMRANGEBYRANK", key, 0, -MAX_LEFT - 1),
            ("PEXPIRE", key, LEFT_MS),
        ]

    async def _take_off(self, users: Sequence[int], now: int, ahead: Sequence[Command]) -> None:
        """一条连接也没有了的移出全局集合；移的时候又来了的放回去。"""
        keys, online = self._keys, self._keys.online_users_set
        counting: list[Command] = [("HLEN", keys.online_user(user_id)) for user_id in users]
        leaving: list[Command] = [("ZREM", online, *users)] if users else []
        answers = await self._lean.execute_many([*ahead, *leaving, *counting])
        counts = answers[len(answers) - len(users) :]
        if back := [one for one, count in zip(users, counts, strict=True) if count]:
            scores = [value for one in back for value in (now, one)]
            await self._lean.execute_many(
                [("ZADD", online, "GT", *scores), ("ZREM", keys.left_users, *back)]
            )

    async def missing(self, connections: Sequence[ConnectionKey]) -> list[ConnectionKey]:
        """其中在 Redis 里不齐全的；只读。"""
        if not connections:
            return []
        keys = self._keys
        members = [f"{user_id}:{connection_id}" for user_id, connection_id in connections]
        online, indexed, *held = await self._lean.execute_many(
            [
                ("ZMSCORE", keys.online_users_set, *(user_id for user_id, _ in connections)),
                ("SMISMEMBER", keys.node_connections(self._node.id), *members),
                *(("HEXISTS", keys.online_user(user_id), i) for user_id, i in connections),
            ],
            tolerant=True,
        )
        for answer in (online, indexed):
            if isinstance(answer, Exception):
                raise answer
        # 别人写坏了的表：再写也写不成，不算不齐全（回答是错误，不是 0）
        return [
            connection
            for connection, *found in zip(connections, online, indexed, held, strict=True)
            if found[0] is None or found[1] == 0 or found[2] == 0
        ]

    async def indexed(self) -> AsyncIterator[list[ConnectionKey]]:
        """Redis 里记在本节点名下的连接，一页一页；可能重复。"""
        key, cursor = self._keys.node_connections(self._node.id), b"0"
        while True:
            cursor, members = await self._lean.execute("SSCAN", key, cursor, "COUNT", SCAN_COUNT)
            yield [one for member in members if (one := _connection(member)) is not None]
            if cursor == b"0":
                return

    # ── 读取 ────────────────────────────────────────────────────────────────

    async def connections(self, user_ids: Sequence[int]) -> list[list[ConnectionInfo]]:
        """各用户在活着的节点上的连接，次序与 ``user_ids`` 相同。"""
        rows = await self._lean.execute_many(
            [("HVALS", self._keys.online_user(user_id)) for user_id in user_ids],
            tolerant=True,  # 一个人的表坏了，只是看不见他
        )
        found = [
            [info for raw in row if (info := _decode(raw)) is not None]
            for row in (() if isinstance(row, Exception) else row for row in rows)
        ]
        alive = await self._tables.alive({info.node for infos in found for info in infos})
        return [[info for info in infos if info.node in alive] for infos in found]

    async def candidates(self, now: int) -> list[int]:
        """近期有过心跳的用户，user_id 升序；可能含死节点上的，要再用 ``connections`` 核实。"""
        since = now - self._ttl_ms
        key = self._keys.online_users_set
        members = await self._lean.execute("ZRANGEBYSCORE", key, since, "+inf")
        return sorted(int(member) for member in members if member.isdigit())

    # ── 节点 ────────────────────────────────────────────────────────────────

    async def renew_lease(self, lease_ms: int, now: int) -> bool:
        """续租；返回此前租约是否一直在（断过则别人可能已当本节点死了）。"""
        keys, node_id = self._keys, self._node.id
        before, added, *_ = await self._lean.execute_many(
            [
                ("SET", keys.node(node_id), now, "PX", lease_ms, "GET"),
                ("SADD", keys.nodes, node_id),
                ("PEXPIRE", keys.nodes, self._node_ttl_ms),
                ("PEXPIRE", keys.node_connections(node_id), self._node_ttl_ms),
            ]
        )
        return before is not None and added == 0

    async def drop_lease(self) -> None:
        await self._lean.execute("DEL", self._keys.node(self._node.id))

    async def dead_nodes(self) -> list[str]:
        """登记着而没有租约的节点。"""
        members = await self._lean.execute("SMEMBERS", self._keys.nodes)
        known = {raw.decode(errors="replace") for raw in members}
        return sorted(known - await self._tables.alive(known))

    async def reap(self, node_id: str) -> Reaped:
        """收拾一个死节点的一步；它有租约则什么也不做（``left`` 为 0）。

        几个节点同时来也无妨：移走一条连接是原子的，只归一个人；删掉登记的那一个才算收拾完它。
        先移走，后出索引：死在中间的再来一遍。
        """
        lean, keys = self._lean, self._keys
        if await lean.execute("EXISTS", keys.node(node_id)):
            return Reaped(0, 0, last=False, turned=[])
        index = keys.node_connections(node_id)
        members = await lean.execute("SRANDMEMBER", index, REAP_CHUNK)
        found = [one for member in members if (one := _connection(member)) is not None]
        written = await self._tables.write(node_id, [(*one, b"", 0) for one in found], reaping=True)
        gone = {found[at][0] for at, (_, _, rest) in written.gone.items() if rest == 0}
        await self._take_off(list(gone), now_ms(), [("SREM", index, *members)] if members else [])
        left = await lean.execute("SCARD", index)
        last = left == 0 and await lean.execute("SREM", keys.nodes, node_id) == 1
        removed = sum(one for one, *_ in written.gone.values())
        return Reaped(removed, left, last, written.turned)


async def count_online(client: RedisClient, keys: Keys) -> int:
    """全局在线集合里有几个人；死节点上的还没有收拾的也算。"""
    return int(await client.execute_command("ZCARD", keys.online_users_set))


class Whereabouts(NamedTuple):
    """一个人此刻在不在；不在的，最近一条连接怎样没有的说明了什么。"""

    online: bool
    left: FailureCause | None


async def whereabouts(
    lean: LeanConnection, keys: Keys, user_ids: Sequence[int]
) -> list[Whereabouts]:
    """各人的下落，次序不变；几百毫秒之前的。死节点上的还没有收拾的算在线。"""
    found: list[Whereabouts] = []
    for start in range(0, len(user_ids), SCAN_COUNT):
        some = user_ids[start : start + SCAN_COUNT]
        online, left = await lean.execute_many(
            [("ZMSCORE", keys.online_users_set, *some), ("ZMSCORE", keys.left_users, *some)]
        )
        found += [
            Whereabouts(at is not None, None if gone is None else _left(gone))
            for at, gone in zip(online, left, strict=True)
        ]
    return found


def _left(score: bytes) -> FailureCause | None:
    number = int(float(score)) % _LEFT_SCALE
    return _LEFT[number] if number < len(_LEFT) else None


class ReportBoard:
    """各进程的报告，一个进程一份；写的什么这里不问。"""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._key = keys.node_reports

    async def post(self, node_id: str, report: bytes) -> None:
        await self._client.execute_command("HSET", self._key, node_id, report)

    async def read(self) -> dict[bytes, bytes]:
        reports: dict[bytes, bytes] = await self._client.execute_command("HGETALL", self._key)
        return reports

    async def remove(self, *node_ids: bytes | str) -> None:
        await self._client.execute_command("HDEL", self._key, *node_ids)


def _connection(member: bytes) -> ConnectionKey | None:
    """索引里的一项；别人写进来、看不懂的是 None：它指不到任何连接，键自己会过期。"""
    user_id, _, connection_id = member.partition(b":")
    if not user_id.isdigit():
        return None
    return int(user_id), connection_id.decode(errors="replace")


def _decode(raw: bytes) -> ConnectionInfo | None:
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError:
        logger.warning("presence_entry_malformed")
        return None


# ── 座位 ─────────────────────────────────────────────────────────────────────

_claim_seat: Final = Script("seat_claim")


class SeatRules(NamedTuple):
    """``ttl_ms``：整张表多久没有人占或续，就当所有节点都死了。"""

    limit: int
    policy: DevicePolicy
    ttl_ms: int


class SeatStore:
    """一个节点眼里的座位表；错误同 ``LeanConnection.execute``。"""

    def __init__(
        self, lean: LeanConnection, keys: Keys, node: NodeIdentity, rules: SeatRules
    ) -> None:
        self._lean = lean
        self._keys = keys
        self.node = node
        self.rules = rules

    async def claim(self, user_id: int, connection_id: str, device_id: str) -> bytes | None:
        """占一个座位，返回它的值；满了则 None。常态一次往返，满了再加两次。"""
        key, rules = self._keys.user_slots(user_id), self.rules
        question: list[Argument] = [
            *(user_id, connection_id, self.node.id, device_id),
            *(rules.limit, rules.policy, rules.ttl_ms, self._keys.system_channel),
        ]
        verdict, *rest = await _claim_seat.run(self._lean, (key,), (*question, 0))
        if verdict < 0:
            asked = (*question, 1, *await self.dead(rest))
            verdict, *rest = await _claim_seat.run(self._lean, (key,), asked)
        return rest[0] if verdict > 0 else None

    async def dead(self, nodes: Sequence[bytes]) -> list[bytes]:
        leases = await self._lean.values([self._keys.node(n.decode()) for n in nodes])
        return [node for node, lease in zip(nodes, leases, strict=True) if lease is None]

    async def release(self, holders: Iterable[ConnectionKey]) -> None:
        slots = self._keys.user_slots
        await self._lean.execute_many(
            [("HDEL", slots(user_id), connection_id) for user_id, connection_id in holders]
        )

    async def renew(self, seats: Iterable[tuple[ConnectionKey, bytes]]) -> None:
        """把这些座位再写一遍：表可能快过期了，或随 Redis 的数据丢了。"""
        commands: list[tuple[Argument, ...]] = []
        for (user_id, connection_id), seat in seats:
            key = self._keys.user_slots(user_id)
            commands.append(("HSET", key, connection_id, seat))
            commands.append(("PEXPIRE", key, self.rules.ttl_ms))
        await self._lean.execute_many(commands)
