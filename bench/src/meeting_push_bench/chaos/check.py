"""检查者：历史（含终局）→ 判决。纯的，没有 I/O，没有时钟；同一份历史永远同一个判决。"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from .facts import Facts
from .history import AnyEvent
from .rules.arrival import arrival
from .rules.broadcasts import broadcasts
from .rules.confirmation import confirmation
from .rules.conservation import conservation
from .rules.drained import drained
from .rules.duplicates import duplicates
from .rules.foreign import foreign
from .rules.holes import holes
from .rules.idempotency import idempotency
from .rules.operations import operations
from .rules.order import order
from .rules.reports import reports
from .rules.survival import survival
from .violation import Violation
from .whereabouts import Whereabouts

Rule = Callable[[Facts], Iterator[Violation]]

RULES: Final[tuple[Rule, ...]] = (
    conservation,
    drained,
    foreign,
    order,
    duplicates,
    holes,
    arrival,
    broadcasts,
    confirmation,
    reports,
    idempotency,
    survival,
    operations,
)


class Verdict(Struct, frozen=True, kw_only=True):
    """``accounts``：各处有几个（消息，收件人），合起来是全部已接受的。"""

    accepted_pairs: int
    accounts: dict[str, int]
    violations: tuple[Violation, ...]

    @property
    def held(self) -> bool:
        return not self.violations

    def broken_rules(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for violation in self.violations:
            counts[violation.rule] = counts.get(violation.rule, 0) + 1
        return counts


def check(events: Sequence[AnyEvent]) -> Verdict:
    """``events`` 须是 ``read_history`` 给出的一份完整的历史。"""
    facts = Facts(events)
    where = Whereabouts(facts)
    return Verdict(
        accepted_pairs=sum(1 for _ in where.expected()),
        accounts=where.accounts(),
        violations=tuple(violation for rule in RULES for violation in rule(facts)),
    )
