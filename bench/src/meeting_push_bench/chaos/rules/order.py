"""DLV-3：一条连接上，同一优先级以 seq 为序，实时、补发、续传都一样。

看的是每个 seq 在这条连接上的第一次；重试是再来一次，由 ``duplicates`` 管。
"""

from __future__ import annotations

from collections.abc import Iterator

from ..facts import Facts
from ..violation import Violation

RULE = "order"


def order(facts: Facts) -> Iterator[Violation]:
    seen: dict[tuple[int, str], set[int]] = {}
    newest: dict[tuple[int, str, int], int] = {}
    for pushed in facts.pushed:
        if facts.unsure(pushed):
            continue
        push, place = pushed.push, (pushed.connection, pushed.epoch)
        earlier = seen.setdefault(place, set())
        if push.seq in earlier:
            continue
        earlier.add(push.seq)
        lane = (*place, push.priority)
        last = newest.get(lane, 0)
        if push.seq > last:
            newest[lane] = push.seq
            continue
        detail = f"seq {push.seq} after seq {last}, both of priority {push.priority}"
        yield pushed.breaks(RULE, detail)
