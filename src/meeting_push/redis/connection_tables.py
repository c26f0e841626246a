"""各用户的连接表：一批变化怎样写进去（``presence.lua``）。

全局的索引、集合在别的槽：由 ``presence.PresenceStore`` 说先后各写什么；一台 Redis 不管槽，
同一段脚本照同样的次序一起写，一批只是一条命令。
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from .keys import Keys
from .lean import Call, Groups, LeanConnection, Script
from .link import Argument, Command, ElsewhereError

_write: Final = Script("here", "guard", "presence")


class Turn(NamedTuple):
    """一个人上线了、下线了。"""

    user_id: int
    online: bool


#: (user_id, connection_id, JSON, 最后心跳)；JSON 空 = 这条连接没了。
Row = tuple[int, str, bytes, int]


class Around(NamedTuple):
    """各人的表之外要写的：先于、后于它们的命令；由脚本一起写时的两个参数见 ``presence.lua``。"""

    ahead: Callable[[], Sequence[Command]]
    behind: Callable[[], Sequence[Command]]
    since: int
    node_ttl_ms: int


class _Writing(NamedTuple):
    """``presence.lua`` 的前几个参数。"""

    prefix: str
    node_id: str
    ttl_ms: int
    verb: str
    announce: bool = False
    reaping: bool = False

    def head(self, known: Mapping[str, bool], around: Around | None) -> list[Argument]:
        """``known``：问过租约的节点，活着没有；``around``：连它一起写。"""
        answers = [value for node, alive in known.items() for value in (node, int(alive))]
        also = ("", 0) if around is None else (around.since, around.node_ttl_ms)
        told = (int(self.announce), int(self.reaping))
        return [*self[:3], *told, *also, len(known), self.verb, *answers]


class Written(NamedTuple):
    """``turned``：谁上线、下线了；``gone``：没了的第几行 → 移走几条，它的节点，他还剩几条。"""

    turned: list[Turn]
    gone: dict[int, tuple[int, str, int]]


class _Asking(NamedTuple):
    """没有写的是第几行，要问哪些节点，已问过的。"""

    skipped: list[int]
    nodes: set[str]
    known: Mapping[str, bool]


class ConnectionTables:
    """``ttl_ms``：用户的键活多久；错误同 ``LeanConnection.execute``。"""

    def __init__(self, lean: LeanConnection, keys: Keys, ttl_ms: int) -> None:
        self._lean = lean
        self._keys = keys
        self._ttl_ms = ttl_ms

    async def write(
        self,
        node_id: str,
        rows: Sequence[Row],
        *,
        announce: bool = False,
        reaping: bool = False,
        around: Around | None = None,
    ) -> Written:
        """写进各人的连接表；他有连接在别的节点上的，问过那些节点的租约再写。

        ``around``：同一次写出的；其余的参数见 ``presence.lua``。
        """
        writing = _Writing(
            self._keys.prefix,
            node_id,
            self._ttl_ms,
            self._lean.publishing,
            announce,
            reaping,
        )
        written = Written([], {})
        asking = await self._write(writing, rows, range(len(rows)), written, around)
        while asking.skipped:
            living = await self.alive(asking.nodes)
            known = {**asking.known, **{node: node in living for node in asking.nodes}}
            asking = await self._write(writing, rows, asking.skipped, written, known=known)
        return written

    async def _write(
        self,
        writing: _Writing,
        rows: Sequence[Row],
        places: Sequence[int],
        written: Written,
        around: Around | None = None,
        known: Mapping[str, bool] = MappingProxyType({}),
        *,
        slots: bool = False,
    ) -> _Asking:
        """``rows`` 里的这几行；``slots``：一个槽一次。"""
        groups = self._groups(rows, places, slots)
        whole = len(groups) == 1 and not groups[0][1]  # 一台 Redis
        head = writing.head(known, around if whole else None)
        ahead, behind = ((), ()) if whole or around is None else (around.ahead(), around.behind())
        calls: list[Call] = []
        for own, keys in groups:
            calls.append((keys, [*head, *(value for at in own for value in rows[at])]))
        answers = await self._lean.execute_many(
            [*ahead, *(_write.call(*one) for one in calls), *behind], tolerant=True
        )
        done = len(ahead) + len(calls)
        for answer in chain(answers[: len(ahead)], answers[done:]):
            if isinstance(answer, Exception):
                raise answer
        replies = await _write.completed(self._lean, calls, answers[len(ahead) : done])
        asking = _Asking([], set(), known)
        moving: list[int] = []
        for (own, _), reply in zip(groups, replies, strict=True):
            if isinstance(reply, ElsewhereError):
                moving += own
            else:
                _note(own, reply, written, asking)
        if moving:
            more = await self._write(writing, rows, moving, written, known=known, slots=True)
            asking.skipped.extend(more.skipped)
            asking.nodes.update(more.nodes)
        return asking

    def _groups(self, rows: Sequence[Row], places: Sequence[int], slots: bool) -> Groups:
        if slots:
            return self._lean.slot_by_slot(places, lambda at: self._his(rows[at][0]))
        online_user = self._keys.online_user
        groups = self._lean.at_once(len(places), lambda n: online_user(rows[places[n]][0]))
        return [([places[n] for n in some], keys) for some, keys in groups]

    def _his(self, user_id: int) -> tuple[str, str]:
        return self._keys.online_user(user_id), self._keys.connection_count(user_id)

    async def alive(self, nodes: set[str]) -> set[str]:
        """其中有租约的。"""
        if not nodes:
            return set()
        ordered = list(nodes)
        leases = await self._lean.values([self._keys.node(node) for node in ordered])
        return {node for node, lease in zip(ordered, leases, strict=True) if lease is not None}


def _note(own: Sequence[int], reply: Sequence[Any], written: Written, asking: _Asking) -> None:
    """一次调用的回答，见 ``presence.lua``；``own``：它的各组是第几行。"""
    turned, skipped, nodes, gone = reply
    written.turned.extend(_turns(turned))
    asking.skipped.extend(own[at] for at in skipped)
    asking.nodes.update(node.decode(errors="replace") for node in nodes)
    for at, removed, node, rest in zip(*[iter(gone)] * 4, strict=True):
        written.gone[own[at]] = (removed, node.decode(errors="replace"), rest)


def _turns(flat: Sequence[Any]) -> list[Turn]:
    return [
        Turn(int(user_id), bool(online))
        for user_id, online in zip(flat[::2], flat[1::2], strict=True)
    ]
