"""一次混乱的报告：终端里的表，违反与证据，JSON。"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from rich.table import Table

from ..report import Heading
from .check import Verdict
from .evidence import evidence
from .facts import Facts, Pair, Pushed
from .history import (
    Acked,
    Answered,
    AnyEvent,
    Began,
    Cried,
    Died,
    Faulted,
    Gapped,
    Observed,
    Opened,
    Recovered,
    Resynced,
    Settled,
    Switched,
)
from .plan import ChaosPlan
from .violation import Violation

#: 每条规则至多展示这么多条违反的证据；数目总是给全的。
SHOWN_PER_RULE: Final = 3


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """历史里的数目：混乱确实发生过，检查者确实有东西可看。"""

    duration_s: float
    posts: int
    attempts: int
    unanswered: int
    accepted_messages: int
    connections: int
    resumed: int
    resyncs: int
    gaps: int
    frames: int
    redelivered: int
    #: 补发给连着的设备的，别的设备那时已确认过。
    caught_up: int
    acks: int
    broadcasts: int
    observations: int
    settled: int
    faults: dict[str, int]
    died: int
    #: 换了几次主；其中有证据说得出换上来的有什么的；设备在旧的 epoch 里见过、换上来的却没有的
    #: （消息，收件人）；换了 epoch 的各人，合计；对账者从 SQL 放回了几条；其中设备见过、又以新的
    #: seq 来的。
    switches: int
    proven: int
    lacked: int
    renewed_epochs: int
    redriven: int
    reissued: int
    recovery_p50_ms: int | None
    recovery_p95_ms: int | None
    recovery_max_ms: int | None


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    violation: Violation
    evidence: list[str]


class ChaosReport(Heading, frozen=True, kw_only=True):
    plan: ChaosPlan
    drained: bool
    figures: Figures
    accepted_pairs: int
    accounts: dict[str, int]
    broken_rules: dict[str, int]
    shown: list[Shown]


def make_report(heading: Heading, events: Sequence[AnyEvent], verdict: Verdict) -> ChaosReport:
    began, facts = events[0], Facts(events)
    assert isinstance(began, Began), "a history begins with Began"
    return ChaosReport(
        **msgspec.structs.asdict(heading),
        plan=began.plan,
        drained=facts.ended.drained,
        figures=figures_of(facts),
        accepted_pairs=verdict.accepted_pairs,
        accounts=verdict.accounts,
        broken_rules=verdict.broken_rules(),
        shown=[
            Shown(violation=violation, evidence=evidence(events, violation))
            for violation in _worth_showing(verdict)
        ],
    )


def figures_of(facts: Facts) -> Figures:
    events = facts.events
    counts = Counter(type(event) for event in events)
    answers = [event for event in events if isinstance(event, Answered)]
    recoveries = sorted(event.after_ms for event in events if isinstance(event, Recovered))
    return Figures(
        duration_s=round((events[-1].at - events[0].at) / 1000, 1),
        posts=len(facts.intended),
        attempts=len(answers),
        unanswered=sum(1 for answer in answers if answer.status == 0),
        accepted_messages=len(facts.accepted),
        connections=counts[Opened],
        resumed=sum(1 for opened in facts.opened.values() if opened.resumed),
        resyncs=counts[Resynced],
        gaps=counts[Gapped],
        frames=len(facts.pushed),
        redelivered=_redelivered(facts),
        caught_up=sum(1 for pushed in facts.pushed if _caught_up(facts, pushed)),
        acks=counts[Acked],
        broadcasts=counts[Cried],
        observations=counts[Observed],
        settled=sum(len(e.message_ids) for e in events if isinstance(e, Settled)),
        faults=dict(Counter(event.kind for event in events if isinstance(event, Faulted))),
        died=counts[Died],
        switches=counts[Switched],
        proven=sum(each.kept is not None for each in facts.losses.switches),
        lacked=len({(p.user_id, p.push.message_id) for p in facts.pushed if _lacked(facts, p)}),
        renewed_epochs=len(facts.losses.renewed),
        redriven=facts.ended.redriven,
        reissued=_reissued(facts),
        recovery_p50_ms=_percentile(recoveries, 50),
        recovery_p95_ms=_percentile(recoveries, 95),
        recovery_max_ms=recoveries[-1] if recoveries else None,
    )


def _redelivered(facts: Facts) -> int:
    """同一台设备第二次以上收到同一条的次数。"""
    seen: set[tuple[str, str]] = set()
    for pushed in facts.pushed:
        seen.add((facts.dialled[pushed.connection][1].device, pushed.push.message_id))
    return len(facts.pushed) - len(seen)


def _reissued(facts: Facts) -> int:
    """Redis 丢了而从 SQL 再来的里，看得见的那些。"""
    seqs: defaultdict[Pair, set[int]] = defaultdict(set)
    for pushed in facts.pushed:
        seqs[pushed.user_id, pushed.push.message_id].add(pushed.push.seq)
    return sum(len(each) > 1 for each in seqs.values())


def _lacked(facts: Facts, pushed: Pushed) -> bool:
    gone = facts.losses.abandoned.get((pushed.user_id, pushed.epoch))
    return gone is not None and 0 < gone.kept < pushed.push.seq


def _caught_up(facts: Facts, pushed: Pushed) -> bool:
    ack = facts.first_ack.get((pushed.user_id, pushed.push.message_id))
    if pushed.live or ack is None:
        return False
    return facts.dialled[pushed.connection][0] < ack.at_index < pushed.at_index


def _percentile(ordered: Sequence[int], percent: float) -> int | None:
    if not ordered:
        return None
    return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]


def _worth_showing(verdict: Verdict) -> Iterator[Violation]:
    shown: Counter[str] = Counter()
    for violation in verdict.violations:
        shown[violation.rule] += 1
        if shown[violation.rule] <= SHOWN_PER_RULE:
            yield violation


def table(report: ChaosReport) -> Table:
    verdict = "held" if not report.broken_rules else "BROKEN"
    shown = Table("", "", title=f"meeting-push bench chaos, seed {report.plan.seed}: {verdict}")
    shown.columns[1].justify = "right"
    for name, value in _rows(report):
        shown.add_row(name, f"{value:,}" if isinstance(value, int | float) else str(value))
    return shown


def _rows(report: ChaosReport) -> Iterator[tuple[str, object]]:
    figures = msgspec.to_builtins(report.figures)
    faults = figures.pop("faults")
    for name, value in figures.items():
        yield name.replace("_", " "), "-" if value is None else value
    for kind, count in sorted(faults.items()):
        yield f"  {kind.replace('_', ' ')}", count
    yield "accepted (message, recipient) pairs", report.accepted_pairs
    for place, count in report.accounts.items():
        yield f"  = {place}", count
    yield "drained", "yes" if report.drained else "NO"
    yield "violations", sum(report.broken_rules.values())
    for rule, count in report.broken_rules.items():
        yield f"  {rule}", count
