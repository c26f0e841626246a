"""产品说的与它记下的一致：``GET /messages/{id}/delivery`` = SQL，人数加得起来。"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..facts import Facts
from ..final_state import Report
from ..violation import Violation
from ..whereabouts import Whereabouts

RULE = "reports"


def reports(facts: Facts) -> Iterator[Violation]:
    where = Whereabouts(facts)
    for report in facts.final.reports:
        detail = _difference(where, report)
        if detail is not None:
            yield Violation(rule=RULE, detail=detail, message_id=report.message_id)


def _difference(where: Whereabouts, report: Report) -> str | None:
    counts = Counter(status for _, status, _ in report.states)
    told = (report.pending, report.delivered, report.failed, report.expired)
    if told != tuple(
        counts[name] for name in ("pending", "delivered", "failed", "expired")
    ) or report.total != len(report.states):
        return f"the counts {told} of {report.total} are not those of its recipients"
    for user_id, status, delivered_at in report.states:
        row = where.row((user_id, report.message_id))
        if row is None or (row.status, row.delivered_at) != (status, delivered_at):
            return f"user {user_id} is reported {status}, recorded {row and row.status}"
    if {user_id for user_id, _, _ in report.states} != where.recipients_of(report.message_id):
        return "the report does not name every recipient"
    return None
