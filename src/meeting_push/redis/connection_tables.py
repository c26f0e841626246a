"""各用户的连接表：一批变化怎样写进去（``presence.lua``）。

只碰各用户自己的键；全局的索引归 ``presence.PresenceStore``。
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from .keys import Keys
from .lean import Call, LeanConnection, Script
from .link import Argument, Command

_write: Final = Script("guard", "presence")


class Turn(NamedTuple):
    """一个人上线了、下线了。"""

    user_id: int
    online: bool


#: (user_id, connection_id, JSON)；空 = 这条连接没了。
Row = tuple[int, str, bytes]


class _Writing(NamedTuple):
    """``presence.lua`` 的前几个参数。"""

    prefix: str
    node_id: str
    ttl_ms: int
    announce: bool = False
    reaping: bool = False

    def head(self, known: Mapping[str, bool]) -> list[Argument]:
        """``known``：问过租约的节点，活着没有。"""
        answers = [value for node, alive in known.items() for value in (node, int(alive))]
        return [*self[:3], int(self.announce), int(self.reaping), len(known), *answers]


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
        ahead: Sequence[Command] = (),
        behind: Sequence[Command] = (),
    ) -> Written:
        """写进各人的连接表；他有连接在别的节点上的，问过那些节点的租约再写。

        ``ahead``、``behind``：先于、后于它们的，同一次写出；其余的参数见 ``presence.lua``。
        """
        writing = _Writing(self._keys.prefix, node_id, self._ttl_ms, announce, reaping)
        written = Written([], {})
        asking = await self._write(writing, rows, range(len(rows)), written, ahead, behind)
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
        ahead: Sequence[Command] = (),
        behind: Sequence[Command] = (),
        known: Mapping[str, bool] = MappingProxyType({}),
    ) -> _Asking:
        """``rows`` 里的这几行。"""
        head = writing.head(known)
        some = [rows[at] for at in places]
        groups = self._lean.together(len(some), lambda at: self._his(some[at][0]))
        calls: list[Call] = []
        for own, keys in groups:
            calls.append((keys, [*head, *(value for at in own for value in some[at])]))
        answers = await self._lean.execute_many(
            [*ahead, *(_write.call(*one) for one in calls), *behind], tolerant=True
        )
        done = len(ahead) + len(calls)
        for answer in chain(answers[: len(ahead)], answers[done:]):
            if isinstance(answer, Exception):
                raise answer
        replies = await _write.completed(self._lean, calls, answers[len(ahead) : done])
        asking = _Asking([], set(), known)
        for (own, _), (turned, skipped, nodes, gone) in zip(groups, replies, strict=True):
            written.turned.extend(_turns(turned))
            asking.skipped.extend(places[own[at]] for at in skipped)
            asking.nodes.update(node.decode(errors="replace") for node in nodes)
            for at, removed, node, rest in zip(*[iter(gone)] * 4, strict=True):
                written.gone[places[own[at]]] = (removed, node.decode(errors="replace"), rest)
        return asking

    def _his(self, user_id: int) -> tuple[str, str]:
        return self._keys.online_user(user_id), self._keys.connection_count(user_id)

    async def alive(self, nodes: set[str]) -> set[str]:
        """其中有租约的。"""
        if not nodes:
            return set()
        ordered = list(nodes)
        leases = await self._lean.values([self._keys.node(node) for node in ordered])
        return {node for node, lease in zip(ordered, leases, strict=True) if lease is not None}


def _turns(flat: Sequence[Any]) -> list[Turn]:
    return [
        Turn(int(user_id), bool(online))
        for user_id, online in zip(flat[::2], flat[1::2], strict=True)
    ]
