"""满了的信箱先挤谁（ADR 0010）：占得最多的发送者的；他的里面最不急的，再最早的。"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

from ..model import Origin

#: 信箱里的一条：(message_id, seq)。
Held = tuple[str, int]


def choose(held: Sequence[Held], origins: Mapping[int, Origin], excess: int) -> list[str]:
    """该走的至多 ``excess`` 条的 message_id，按走的次序；O(n log n)。

    占得一样多的发送者，比各自该走的那一条。

    :param origins: seq → 谁发的、多急；没有的那几条不选，也不算在谁的份里
    """
    if excess <= 0:
        return []
    shares: defaultdict[int, deque[tuple[int, int, str]]] = defaultdict(deque)
    known = ((*origins[seq], seq, i) for i, seq in held if seq in origins)
    for sender, priority, seq, message_id in sorted(known):
        shares[sender].append((priority, seq, message_id))
    # 堆顶：占得最多的；一样多则他该走的那一条最不急、最早（seq 各不相同，比不到后面）
    largest = [(-len(share), *share[0][:2], sender) for sender, share in shares.items()]
    heapq.heapify(largest)
    chosen: list[str] = []
    while largest and len(chosen) < excess:
        sender = largest[0][-1]
        share = shares[sender]
        chosen.append(share.popleft()[-1])
        if share:
            heapq.heapreplace(largest, (-len(share), *share[0][:2], sender))
        else:
            heapq.heappop(largest)
    return chosen
