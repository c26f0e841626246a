"""没有人动它，进程不会自己退出；还没就绪的（启动时依赖不在）可以。"""

from __future__ import annotations

from collections.abc import Iterator

from ..facts import Facts
from ..history import Died
from ..violation import Violation

RULE = "survival"


def survival(facts: Facts) -> Iterator[Violation]:
    for index, event in enumerate(facts.events):
        if isinstance(event, Died) and event.ready:
            detail = f"{event.target} ended by itself with {event.exit_code}"
            yield Violation(rule=RULE, detail=detail, index=index)
