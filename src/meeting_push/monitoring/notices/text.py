"""一份通知怎样写成字：纯文本、markdown、短信里的几个变量。

每种渠道有自己的字节上限。说不下时先少说细节：开头一行总有状态与规则的 id，然后一条一条地写，写到
装不下为止，最后说还有几条、去哪里看。截断从不切开一个字。

词有两种语言；``firing``、``resolved`` 与规则的 id 两种里都是原样的，搜得到。
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final

from ...logs import plain
from ..alerts.model import Alert, AlertState, Notice, Severity
from .channel import Language

#: （规则的 id，值）→ 带单位的字，``0.953`` → ``95.3 %``；由规则的单位定。
ShowFigure = Callable[[str, float], str]

_ELLIPSIS: Final = "…"
#: 标题与短信里至多列出这么多条规则，其余只说个数；正文的开头列出全部。
_NAMED_RULES: Final = 3


@dataclass(frozen=True, slots=True)
class _Words:
    states: dict[AlertState, str]
    severities: dict[Severity, str]
    test: str
    escalation: str
    value: str
    threshold: str
    since: str
    resolved_at: str
    labels: str
    runbook: str
    ops: str
    #: 说不下的还有几条。
    more: str
    comma: str


_WORDS: Final[dict[Language, _Words]] = {
    "zh": _Words(
        states={AlertState.FIRING: "触发 firing", AlertState.RESOLVED: "恢复 resolved"},
        severities={
            Severity.INFO: "提示",
            Severity.WARNING: "警告",
            Severity.CRITICAL: "严重",
        },
        test="【测试】",
        escalation="【升级：无人认领】",
        value="当前",
        threshold="阈值",
        since="始于",
        resolved_at="恢复于",
        labels="标签",
        runbook="处置",
        ops="运维页",
        more="另有 {count} 条，见运维页",
        comma="，",
    ),
    "en": _Words(
        states={AlertState.FIRING: "firing", AlertState.RESOLVED: "resolved"},
        severities={
            Severity.INFO: "info",
            Severity.WARNING: "warning",
            Severity.CRITICAL: "critical",
        },
        test="[TEST] ",
        escalation="[ESCALATED: nobody acknowledged] ",
        value="value",
        threshold="threshold",
        since="since",
        resolved_at="resolved at",
        labels="labels",
        runbook="runbook",
        ops="operations",
        more="{count} more, see operations",
        comma=", ",
    ),
}


def cut(text: str, most_bytes: int) -> str:
    """至多 ``most_bytes`` 字节的 UTF-8，不切开字；切了就以 ``…`` 结尾（装得下的话）。"""
    if len(text.encode()) <= most_bytes:
        return text
    room = most_bytes - len(_ELLIPSIS.encode())
    if room < 0:
        return text.encode()[: max(0, most_bytes)].decode(errors="ignore")
    return text.encode()[:room].decode(errors="ignore") + _ELLIPSIS


def bare_figure(_rule: str, value: float) -> str:
    return f"{value:.6g}"


@dataclass(frozen=True, slots=True)
class NoticeWriter:
    """怎样写：不同的渠道共用一个。"""

    #: 我们自己的页面在哪里，``https://push.example``；空则只写路径。
    site: str = ""
    show: ShowFigure = bare_figure
    #: None 是本机的。
    zone: tzinfo | None = None

    def title(self, notice: Notice, language: Language, most_bytes: int = 200) -> str:
        """一行：测试、升级、状态、规则。"""
        words = _WORDS[language]
        return cut(_marks(notice, words) + _digest(notice, words, _NAMED_RULES), most_bytes)

    def plain(self, notice: Notice, language: Language, most_bytes: int) -> str:
        words = _WORDS[language]
        head = _marks(notice, words) + _digest(notice, words, None)
        blocks = [self._plain_block(alert, language) for alert in _in_order(notice.alerts)]
        return _fitted(head, blocks, self._ops(words, "{name}: {url}"), words, most_bytes)

    def markdown(self, notice: Notice, language: Language, most_bytes: int) -> str:
        words = _WORDS[language]
        head = f"### {_marks(notice, words)}{_digest(notice, words, None)}"
        blocks = [self._markdown_block(alert, language) for alert in _in_order(notice.alerts)]
        ops = self._ops(words, "[{name}]({url})" if self.site else "{name}: {url}")
        return _fitted(head, blocks, ops, words, most_bytes)

    def facts(self, notice: Notice, language: Language) -> dict[str, str]:
        """短信模板的变量。"""
        words = _WORDS[language]
        first = next(iter(_in_order(notice.alerts)))
        return {
            "state": words.states[_worst_state(notice.alerts)],
            "rules": _rules(notice.alerts, _NAMED_RULES),
            "severity": words.severities[first.severity],
            "count": str(len(notice.alerts)),
            "summary": _summary(first, language),
            "value": self.show(first.rule, first.value),
            "threshold": self.show(first.rule, first.threshold),
            "since": self.moment(first.started_at),
        }

    def moment(self, at_ms: int) -> str:
        """当地时间，带着与 UTC 的差。"""
        local = datetime.fromtimestamp(at_ms // 1000, UTC).astimezone(self.zone)
        return f"{local:%Y-%m-%d %H:%M:%S %z}"

    def runbook(self, alert: Alert) -> str:
        """处置手册的页：仓库里的路径；别处来的告警给的是地址，照它的。"""
        return plain(alert.runbook) if "://" in alert.runbook else f"docs/{alert.runbook}"

    def ops_url(self) -> str:
        return f"{self.site}/ops"

    def _ops(self, words: _Words, form: str) -> str:
        return form.format(name=words.ops, url=self.ops_url())

    def _figures(self, alert: Alert, words: _Words) -> str:
        value, threshold = (self.show(alert.rule, n) for n in (alert.value, alert.threshold))
        return f"{words.value} {value}{words.comma}{words.threshold} {threshold}"

    def _times(self, alert: Alert, words: _Words) -> str:
        since = f"{words.since} {self.moment(alert.started_at)}"
        if alert.resolved_at is None:
            return since
        return f"{since}{words.comma}{words.resolved_at} {self.moment(alert.resolved_at)}"

    def _lines(self, alert: Alert, words: _Words) -> list[str]:
        lines = [self._figures(alert, words), self._times(alert, words)]
        if alert.labels:
            labels = ", ".join(f"{name}={plain(one)}" for name, one in alert.labels.items())
            lines.append(f"{words.labels} {labels}")
        if alert.runbook:
            lines.append(f"{words.runbook} {self.runbook(alert)}")
        return lines

    def _plain_block(self, alert: Alert, language: Language) -> str:
        words = _WORDS[language]
        first = f"[{words.severities[alert.severity]}] {words.states[alert.state]} {alert.rule}"
        summary = _summary(alert, language)
        return "\n  ".join([f"{first}: {summary}", *self._lines(alert, words)])

    def _markdown_block(self, alert: Alert, language: Language) -> str:
        words = _WORDS[language]
        first = f"**{words.severities[alert.severity]} {words.states[alert.state]} {alert.rule}**"
        summary = _summary(alert, language)
        lines = [f"{first} {summary}", *(f"> {line}" for line in self._lines(alert, words))]
        return "\n\n".join(_harmless(line) for line in lines)


def _summary(alert: Alert, language: Language) -> str:
    return plain(alert.summary.zh if language == "zh" else alert.summary.en)


def _harmless(line: str) -> str:
    """别人取的名字（节点、标签的值）里不该冒出标签与链接。"""
    return line.replace("<", "&lt;").replace("](", "] (")


def _in_order(alerts: Iterable[Alert]) -> list[Alert]:
    """还在触发的在前，重的在前，早的在前。"""
    return sorted(
        alerts,
        key=lambda one: (one.state is AlertState.RESOLVED, -one.severity.rank, one.started_at),
    )


def _worst_state(alerts: Sequence[Alert]) -> AlertState:
    firing = any(alert.state is AlertState.FIRING for alert in alerts)
    return AlertState.FIRING if firing else AlertState.RESOLVED


def _marks(notice: Notice, words: _Words) -> str:
    marks = words.test if notice.is_test else ""
    return marks + (words.escalation if notice.is_escalation else "")


def _digest(notice: Notice, words: _Words, most_rules: int | None) -> str:
    """``触发 firing: redis_slow ×2, clock_skew；恢复 resolved: node_lost``。"""
    parts = []
    for state in AlertState:
        alerts = [alert for alert in _in_order(notice.alerts) if alert.state is state]
        if alerts:
            parts.append(f"{words.states[state]}: {_rules(alerts, most_rules)}")
    return "; ".join(parts)


def _rules(alerts: Iterable[Alert], most: int | None) -> str:
    counted = list(Counter(alert.rule for alert in alerts).items())
    named = [rule if count == 1 else f"{rule} ×{count}" for rule, count in counted[:most]]
    left = len(counted) - len(named)
    return ", ".join(named) + (f" +{left}" if left else "")


def _fitted(head: str, blocks: Sequence[str], ops: str, words: _Words, most_bytes: int) -> str:
    """开头、能写几条写几条、剩下几条、去哪里看。"""
    whole = "\n\n".join([head, *blocks, ops])
    if len(whole.encode()) <= most_bytes:
        return whole
    tail = "\n\n" + words.more.format(count=len(blocks)) + "\n\n" + ops
    room = most_bytes - len(head.encode()) - len(tail.encode())
    if room < 0:
        return cut(head, most_bytes)
    kept = 0
    for block in blocks:
        room -= len(block.encode()) + 2
        if room < 0:
            break
        kept += 1
    more = words.more.format(count=len(blocks) - kept)
    return "\n\n".join([head, *blocks[:kept], more, ops])
