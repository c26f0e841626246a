"""故障里管理员照样看得到系统：没有“内部错误”，也没有一问不答；依赖不在时的 503 是回答。"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..facts import Facts
from ..history import Looked
from ..violation import Violation

RULE: Final = "operations"
#: 最长的故障、几次 Redis 与 SQL 的时限、忙着的机器，加起来也到不了。
PATIENCE_MS: Final = 25_000
_ANSWERS: Final = frozenset({0, 200, 404, 429, 503})


def operations(facts: Facts) -> Iterator[Violation]:
    for index, event in enumerate(facts.events):
        if isinstance(event, Looked):
            if event.status not in _ANSWERS:
                detail = f"{event.path} was answered {event.status}"
                yield Violation(rule=RULE, detail=detail, index=index)
            elif facts.stillness.moving(event.at - event.took_ms, event.at) > PATIENCE_MS:
                detail = f"{event.path} took {event.took_ms} ms"
                yield Violation(rule=RULE, detail=detail, index=index)
