"""A4：满了的信箱先挤谁。"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from meeting_push.mailbox_model import Origin
from meeting_push.outcome.mailbox_evictor import Held, choose

POSTS = st.lists(st.builds(Origin, st.integers(1, 5), st.integers(0, 9)), max_size=40)


def naive(held: Sequence[Held], origins: Mapping[int, Origin], excess: int) -> list[str]:
    """模型：一条一条地挤，每次数一遍。"""
    left = [(i, seq, *origins[seq]) for i, seq in held if seq in origins]
    gone: list[str] = []
    while left and len(gone) < excess:
        counts = Counter(sender for _, _, sender, _ in left)
        most = max(counts.values())
        largest = [one for one in left if counts[one[2]] == most]
        next_one = min(largest, key=lambda one: (one[3], one[1]))
        left.remove(next_one)
        gone.append(next_one[0])
    return gone


@given(posts=POSTS, unknown=st.sets(st.integers(1, 40)), excess=st.integers(-2, 45))
def test_a4_who_is_evicted_is_the_one_the_rule_names(
    posts: list[Origin], unknown: set[int], excess: int
) -> None:
    held = [(f"m{seq}", seq) for seq in range(1, len(posts) + 1)]
    origins = {seq: posts[seq - 1] for _, seq in held if seq not in unknown}
    assert choose(held, origins, excess) == naive(held, origins, excess)


@given(posts=POSTS, cap=st.integers(1, 10))
def test_a4_whether_evicted_one_by_one_or_at_once_a_small_sender_loses_nothing(
    posts: list[Origin], cap: int
) -> None:
    """占得不到“上限 ÷ 发送者数”的，有人比他多就一条也不走。"""
    held = [(str(seq), seq) for seq in range(len(posts))]
    gone = set(choose(held, dict(enumerate(posts)), len(posts) - cap))
    counts = Counter(one.sender_id for one in posts)
    small = {sender for sender, count in counts.items() if count < cap / len(counts)}
    assert not [i for i, seq in held if i in gone and posts[seq].sender_id in small]


def test_a4_the_order_of_leaving_is_least_urgent_then_oldest() -> None:
    held = [("urgent", 1), ("old", 2), ("new", 3)]
    origins = {1: Origin(1, 5), 2: Origin(1, 0), 3: Origin(1, 0)}
    assert choose(held, origins, 3) == ["old", "new", "urgent"]


def test_a4_equals_compare_what_each_would_lose() -> None:
    held = [("a", 1), ("b", 2)]
    assert choose(held, {1: Origin(1, 3), 2: Origin(2, 0)}, 1) == ["b"]
    assert choose(held, {1: Origin(1, 0), 2: Origin(2, 0)}, 1) == ["a"]
