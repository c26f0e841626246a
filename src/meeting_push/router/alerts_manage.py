"""告警的 REST：清单、始末、处理、规则、试一试渠道；Alertmanager 交来的。都只给管理员。

不用 ``from __future__ import annotations``：见 ``message_manage.py``。
"""

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

import msgspec
from fastapi import APIRouter, Depends, Header, status
from msgspec import Meta, Struct
from pydantic import BaseModel, Field
from ulid import ULID

from ..model import Principal
from ..monitoring.alerts.book import ALERTMANAGER, SOURCE
from ..monitoring.alerts.desk import AlertDesk, Listed, Story
from ..monitoring.alerts.model import Alert, AlertState, Severity, Text
from ..monitoring.alerts.rule import Rule, condition
from ..storage.alerts import Which
from .contract_route import contract_router
from .json_body import JsonBody
from .message_manage import Limit, MessageCursor, MessageIdPath

MAX_SILENCE_S: Final = 30 * 86_400
MAX_TEXT_CHARS: Final = 4_000
MAX_ALERTS: Final = 1_000
#: 别人的说法里相当于 critical 的；不认识的是 warning。
_CRITICAL: Final = frozenset({"critical", "page", "error", "fatal", "emergency"})

_decode: Final = msgspec.json.decode

_Name = Annotated[str, Meta(min_length=1, max_length=200)]
_Value = Annotated[str, Meta(max_length=4_096)]
_Words = Annotated[dict[_Name, _Value], Meta(max_length=64)]


class NoteOut(BaseModel):
    by: str
    at: int
    text: str


class AlertOut(BaseModel):
    """``summary`` 的语言随 ``Accept-Language``：中文或英文。"""

    alert_id: str
    rule: str
    severity: str
    state: str
    summary: str
    labels: dict[str, str]
    value: float
    threshold: float
    started_at: int
    resolved_at: int | None
    acknowledged_by: str | None
    acknowledged_at: int | None
    silenced_until: int | None
    runbook: str = Field(description="处置手册的页，相对 docs/；别处来的可能是网址")
    notes: list[NoteOut]

    @classmethod
    def of(cls, listed: Listed, language: str | None) -> Self:
        row = listed.row
        return cls(
            alert_id=row.alert_id,
            rule=row.rule,
            severity=row.severity,
            state="firing" if row.resolved_at is None else "resolved",
            summary=row.summary_zh if _wants_chinese(language) else row.summary_en,
            labels=_decode(row.labels),
            value=row.value,
            threshold=row.threshold,
            started_at=row.started_at,
            resolved_at=row.resolved_at,
            acknowledged_by=row.acknowledged_by,
            acknowledged_at=row.acknowledged_at,
            silenced_until=row.silenced_until,
            runbook=row.runbook,
            notes=[NoteOut(by=note.author, at=note.at, text=note.text) for note in listed.notes],
        )


class AlertsOut(BaseModel):
    items: list[AlertOut]
    next_cursor: str | None


class EventOut(BaseModel):
    """没有的是 null。"""

    at: int
    kind: str = Field(
        description="fired、resolved、acknowledged、silenced、note、notice、action",
    )
    by: str | None = Field(None, description="谁；自动处理的是做它的进程")
    channel: str | None = Field(None, description="通知的渠道")
    state: str | None = Field(
        None,
        description="fired：轻重；notice：firing、resolved、escalated；action：done、failed、refused",
    )
    text: str | None = Field(None, description="备注的话；通知为什么没有到；做了什么")
    ok: bool | None = Field(None, description="通知到了没有；处理成了没有")
    until: int | None = Field(None, description="静音到几时；不晚于 at 就是不再静音")


class StoryOut(AlertOut):
    timeline: list[EventOut] = Field(description="早的在前")
    figures: list[str] = Field(description="值得看的曲线，给 GET /stats/history")

    @classmethod
    def told(cls, story: Story, language: str | None) -> Self:
        return cls(
            **AlertOut.of(story.listed, language).__dict__,
            timeline=[EventOut(**event._asdict()) for event in story.timeline],
            figures=list(story.figures),
        )


class RuleOut(BaseModel):
    """``window_s`` 为 0：只看此刻。``expression`` 是 PromQL。"""

    rule: str
    enabled: bool
    severity: str
    comparison: str
    threshold: float
    unit: str
    window_s: int
    for_s: float
    summary: str
    runbook: str
    expression: str

    @classmethod
    def of(cls, rule: Rule, language: str | None) -> Self:
        return cls(
            rule=rule.rule_id,
            enabled=rule.enabled,
            severity=rule.severity.value,
            comparison=rule.comparison.value,
            threshold=rule.threshold,
            unit=rule.unit,
            window_s=rule.window_s,
            for_s=rule.for_s,
            summary=rule.summary.zh if _wants_chinese(language) else rule.summary.en,
            runbook=rule.page,
            expression=condition(rule),
        )


class RulesOut(BaseModel):
    items: list[RuleOut]
    next_cursor: None = None


class ForeignAlert(Struct):
    """Alertmanager 的一条；字段是它的名字，多出来的不理。"""

    status: Literal["firing", "resolved"]
    labels: _Words
    startsAt: Annotated[datetime, Meta(tz=True)]  # noqa: N815 — 别人的格式
    annotations: _Words = {}


class WebhookIn(Struct):
    """它的 webhook 第 4 版的正文里我们要的。"""

    alerts: Annotated[list[ForeignAlert], Meta(max_length=MAX_ALERTS)]


class TakenOut(BaseModel):
    firing: int
    resolved: int


Words = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS)]


class AcknowledgeIn(Struct, forbid_unknown_fields=True):
    text: Words | None = None


class SilenceIn(Struct, forbid_unknown_fields=True):
    for_s: Annotated[int, Meta(ge=0, le=MAX_SILENCE_S, description="0：不再静音")]


class NoteIn(Struct, forbid_unknown_fields=True):
    text: Words


class TestNoticeIn(Struct, forbid_unknown_fields=True):
    channel: Annotated[str, Meta(min_length=1, max_length=200)]


Language = Annotated[str | None, Header(alias="accept-language", include_in_schema=False)]


def alert_router(desk: AlertDesk, require_admin: Callable[..., object]) -> APIRouter:
    """``/alerts…``；前缀由调用者加。"""
    router = contract_router("/alerts", tags=["alerts"])
    Admin = Annotated[Principal, Depends(require_admin)]  # noqa: N806 — 它是类型
    admin_only: dict[str, Any] = {"dependencies": [Depends(require_admin)]}

    @router.get("", summary="告警，新的在前", **admin_only)
    async def list_alerts(
        state: Which = "all",
        cursor: MessageCursor = None,
        limit: Limit = 50,
        language: Language = None,
    ) -> AlertsOut:
        found, next_cursor = await desk.page(state, cursor, limit)
        return AlertsOut(
            items=[AlertOut.of(one, language) for one in found], next_cursor=next_cursor
        )

    @router.get("/rules", summary="此刻生效的规则", **admin_only)
    async def list_rules(language: Language = None) -> RulesOut:
        return RulesOut(items=[RuleOut.of(rule, language) for rule in desk.rules.values()])

    @router.get("/{alert_id}", summary="一条告警的始末", **admin_only)
    async def read_alert(alert_id: MessageIdPath, language: Language = None) -> StoryOut:
        return StoryOut.told(await desk.story(alert_id), language)

    @router.post("/{alert_id}/acknowledge", summary="认领")
    async def acknowledge(
        alert_id: MessageIdPath,
        body: Annotated[AcknowledgeIn, Depends(JsonBody(AcknowledgeIn))],
        admin: Admin,
        language: Language = None,
    ) -> AlertOut:
        """先认领的算数；不再升级。"""
        return AlertOut.of(await desk.acknowledge(alert_id, _name(admin), body.text), language)

    @router.post("/{alert_id}/silence", summary="静音")
    async def silence(
        alert_id: MessageIdPath,
        body: Annotated[SilenceIn, Depends(JsonBody(SilenceIn))],
        admin: Admin,
        language: Language = None,
    ) -> AlertOut:
        """这么久之内不通知；同一条规则、同一组标签再触发的也是。"""
        return AlertOut.of(await desk.silence(alert_id, _name(admin), body.for_s), language)

    @router.post("/{alert_id}/notes", summary="备注")
    async def add_note(
        alert_id: MessageIdPath,
        body: Annotated[NoteIn, Depends(JsonBody(NoteIn))],
        admin: Admin,
        language: Language = None,
    ) -> AlertOut:
        return AlertOut.of(await desk.note(alert_id, _name(admin), body.text), language)

    @router.post(
        "/test",
        summary="向一个渠道发一份标明是试的通知",
        status_code=status.HTTP_204_NO_CONTENT,
        **admin_only,
    )
    async def test(body: Annotated[TestNoticeIn, Depends(JsonBody(TestNoticeIn))]) -> None:
        """404：没有这个渠道。"""
        await desk.test(body.channel)

    @router.post("/alertmanager", summary="Alertmanager 的 webhook", **admin_only)
    async def alertmanager(
        body: Annotated[WebhookIn, Depends(JsonBody(WebhookIn, admins_too=True))],
    ) -> TakenOut:
        """记为告警；同一条再来一遍无害。"""
        firing, resolved = (
            [one for one in body.alerts if one.status == state] for state in ("firing", "resolved")
        )
        await desk.take_in(_alerts_of(firing, desk.rules), _alerts_of(resolved, desk.rules))
        return TakenOut(firing=len(firing), resolved=len(resolved))

    return router


def _name(admin: Principal) -> str:
    return (admin.name or str(admin.user_id))[:256]


def _wants_chinese(language: str | None) -> bool:
    return (language or "").strip().lower().startswith("zh")


# ── Alertmanager 的 JSON → 我们的告警 ────────────────────────────────────────


def _alerts_of(foreign: list[ForeignAlert], rules: Mapping[str, Rule]) -> Iterator[Alert]:
    """要一条才造一条。"""
    return (_alert_of(one, rules) for one in foreign)


def _alert_of(foreign: ForeignAlert, rules: Mapping[str, Rule]) -> Alert:
    labels = dict(foreign.labels)
    name = labels.pop("alertname", "unnamed")[:200]
    severity = labels.pop("severity", "")
    said, rule = foreign.annotations, rules.get(name)
    english = said.get("summary") or said.get("description") or name
    return Alert(
        alert_id=str(ULID()),
        rule=name,
        severity=_severity(severity),
        state=AlertState(foreign.status),
        summary=Text(said.get("summary_zh", english), english),
        labels={**labels, SOURCE: ALERTMANAGER},
        value=_number(said.get("value", "")),
        threshold=_number(said.get("threshold", "")),
        started_at=max(0, int(foreign.startsAt.timestamp() * 1_000)),
        runbook=said.get("runbook") or said.get("runbook_url") or (rule.page if rule else ""),
    )


def _severity(text: str) -> Severity:
    if text.lower() in _CRITICAL:
        return Severity.CRITICAL
    return Severity.INFO if text.lower() in {"info", "none"} else Severity.WARNING


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        return 0.0
    return found if math.isfinite(found) else 0.0
