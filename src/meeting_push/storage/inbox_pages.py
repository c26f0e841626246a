"""收件箱的一页：他的消息与他认识我们以来的广播合在一起，新的在前。

语句造一次：每次造的要编译的键，还是一个个要等垃圾回收的环。
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Integer,
    Label,
    Select,
    Text,
    and_,
    bindparam,
    case,
    collate,
    exists,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    union_all,
)

from ..model import DeliveryStatus
from .rows import MESSAGE_COLUMNS
from .tables import broadcast_receipts, broadcast_states, broadcasts, message_recipients, messages

#: 一页的正文与 data 合计；再多的下一页。几十个人同时要最大的一页，也只是几十 MB。
MAX_PAGE_CHARS: Final = 256 * 1024
#: 发出去的一条说出头几个收件人。
FIRST_RECIPIENTS: Final = 3
#: 找一段字时看他最新的这么多条：没有索引，接受的一路不付它的钱。
SEARCHED: Final = 10_000

_r: Final = message_recipients.c
_m: Final = messages.c
_b: Final = broadcasts.c
_s: Final = broadcast_states.c
_USER: Final = bindparam("user_id", type_=BigInteger)
_NOW: Final = bindparam("now", type_=BigInteger)
_SIZE: Final = (func.length(_m.content) + func.coalesce(func.length(_m.data), 0)).label("size")


@dataclass(frozen=True, slots=True)
class InboxFilter:
    """都要满足；None 是不问。归档的与没有归档的从不在一页里。

    ``text``：标题或正文里有这一段；ASCII 字母不分大小写，别的照原样，两种数据库一样。
    """

    unread: bool = False
    archived: bool = False
    message_type: str | None = None
    min_priority: int | None = None
    text: str | None = None

    @property
    def values(self) -> dict[str, object]:
        text = None if self.text is None else folded(self.text)
        return {
            "message_type": self.message_type,
            "min_priority": self.min_priority,
            "sought": text,
        }

    @property
    def shape(self) -> InboxFilter:
        """语句的样子：值换成有没有。"""
        return replace(
            self,
            message_type=None if self.message_type is None else "",
            min_priority=None if self.min_priority is None else 0,
            text=None if self.text is None else "",
        )


#: 没有归档的，全部。
EVERYTHING: Final = InboxFilter()


def folded(text: str) -> str:
    """同 ``lower()`` 在 SQLite 上、在 PostgreSQL 的 "C" 排序规则下：只有 ASCII 字母变。"""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def due(at: ColumnElement[int | None]) -> ColumnElement[bool]:
    return or_(at.is_(None), at <= _NOW)


#: 他的一行，到时了。
OWN: Final = (_r.user_id == _USER, due(_r.deliver_at))
#: 也是他的：不早于他被认识之时的广播；要连上 ``messages`` 与 ``his_states``。
CAST: Final = (_b.message_id >= bindparam("since"), due(_m.deliver_at))
_HIS_STATE: Final = and_(_s.message_id == _b.message_id, _s.user_id == _USER)
_his_receipt: Final = (
    select(broadcast_receipts.c.user_id)
    .where(
        broadcast_receipts.c.message_id == _b.message_id,
        broadcast_receipts.c.user_id == _USER,
    )
    .correlate(broadcasts)
    .scalar_subquery()
)
_CAST_STATUS: Final = case(
    (_his_receipt.is_not(None), DeliveryStatus.DELIVERED.value),
    (_m.expires_at <= _NOW, DeliveryStatus.EXPIRED.value),
    else_=DeliveryStatus.PENDING.value,
)
_OWN_COLUMNS: Final = (
    *(_r.message_id, _r.status, _r.read_at, _r.archived_at),
    false().label("broadcast"),
)
_CAST_COLUMNS: Final = (
    *(_b.message_id, _CAST_STATUS.label("status"), _s.read_at, _s.archived_at),
    true().label("broadcast"),
)


def of_casts(*columns: Any) -> Select[Any]:
    """他的广播，连同他对它做过的。"""
    joined = broadcasts.join(messages, _m.message_id == _b.message_id)
    return select(*columns).select_from(joined.outerjoin(broadcast_states, _HIS_STATE)).where(*CAST)


def _measured(found: Select[Any]) -> CTE:
    """``found``（新的在前，有 ``size``）的前 ``limit`` 条，各带它前面共多少字（``before``）。"""
    heads = found.limit(bindparam("limit", type_=Integer)).cte()
    running = func.sum(heads.c.size).over(order_by=heads.c.message_id.desc())
    before = (running - heads.c.size).label("before")
    return select(heads, before, func.count().over().label("found")).cte()


@cache
def page_statement(shape: InboxFilter, *, after_cursor: bool, sqlite: bool) -> Select[Any]:
    """大的正文不读出来再丢：先在数据库里量好读到哪一条为止（A7）；第一条总在。"""
    both = _both(shape, after_cursor=after_cursor).subquery()
    found = select(both, _SIZE).join(messages, _m.message_id == both.c.message_id)
    if shape.text is not None:
        found = found.where(*_kinds(shape), _has_text(sqlite=sqlite))
        if after_cursor:
            found = found.where(both.c.message_id < bindparam("cursor"))
    measured = _measured(found.order_by(both.c.message_id.desc()))
    state = (measured.c.status, measured.c.read_at, measured.c.archived_at, measured.c.broadcast)
    return (
        select(*MESSAGE_COLUMNS, *state, measured.c.found)
        .join(measured, measured.c.message_id == _m.message_id)
        .where(measured.c.before < MAX_PAGE_CHARS)
        .order_by(measured.c.message_id.desc())
    )


@cache
def sent_statement(*, by_key: bool, after_cursor: bool) -> Select[Any]:
    """``account`` 发出去的一页；条件照部分索引的原样写，计划才用它。"""
    account = bindparam("account", type_=BigInteger)
    his = [_m.sender_id == account, _m.sender_id != literal_column("0"), _m.key_id.is_(None)]
    if by_key:
        his = [_m.key_id == account, _m.key_id.is_not(None)]
    if after_cursor:
        his.append(_m.message_id < bindparam("cursor"))
    found = select(_m.message_id, _SIZE).where(*his).order_by(_m.message_id.desc())
    measured = _measured(found)
    is_broadcast = exists().where(_b.message_id == _m.message_id).label("broadcast")
    first = [_recipient(n) for n in range(FIRST_RECIPIENTS)]
    return (
        select(*MESSAGE_COLUMNS, _m.recipient_count, is_broadcast, *first, measured.c.found)
        .join(measured, measured.c.message_id == _m.message_id)
        .where(measured.c.before < MAX_PAGE_CHARS)
        .order_by(measured.c.message_id.desc())
    )


def _recipient(at: int) -> Label[Any]:
    """它的第 ``at`` 个收件人；沿主键走几步，收件人再多也一样。"""
    found = select(_r.user_id).where(_r.message_id == _m.message_id).order_by(_r.user_id)
    one = found.offset(at).limit(1).correlate(messages).scalar_subquery()
    return one.label(f"recipient_{at}")


@cache
def one_statement() -> Select[Any]:
    """他的一条，不论归档没有。"""
    own = select(*_OWN_COLUMNS).where(*OWN, _r.message_id == bindparam("message_id"))
    cast = of_casts(*_CAST_COLUMNS).where(_b.message_id == bindparam("message_id"))
    state = union_all(own, cast).subquery()
    return select(*MESSAGE_COLUMNS, state).join(state, state.c.message_id == _m.message_id)


def _both(shape: InboxFilter, *, after_cursor: bool) -> Select[Any]:
    """两边各自至多一页，才合在一起：各沿自己的索引走。找一段字的，两边各取最新的那么多条。"""
    searching = shape.text is not None
    most: Any = literal(SEARCHED, Integer) if searching else bindparam("limit", type_=Integer)
    parts = []
    for one, key in ((_own(shape), _r.message_id), (_casts(shape), _b.message_id)):
        statement = one.where(key < bindparam("cursor")) if after_cursor and not searching else one
        parts.append(select(statement.order_by(key.desc()).limit(most).subquery()))
    both = union_all(*parts).subquery()
    if not searching:
        return select(both)
    return select(both).order_by(both.c.message_id.desc()).limit(literal(SEARCHED, Integer))


def _own(shape: InboxFilter) -> Select[Any]:
    """种类、优先级在 ``messages`` 里：沿他的索引一条条去问，够一页就停；十万条都不合约 0.25 秒。

    写成标量的子查询，不写成连接：少见的种类，PostgreSQL 会为它把所有人的消息从头到尾看一遍。
    """
    statement = select(*_OWN_COLUMNS).where(*OWN)
    if (kinds := _kinds(shape)) and shape.text is None:
        asked = select(and_(*kinds)).where(_m.message_id == _r.message_id)
        statement = statement.where(asked.correlate(message_recipients).scalar_subquery())
    return _in_state(statement, shape, _r.read_at, _r.archived_at)


def _casts(shape: InboxFilter) -> Select[Any]:
    statement = of_casts(*_CAST_COLUMNS)
    if shape.text is None:
        statement = statement.where(*_kinds(shape))
    return _in_state(statement, shape, _s.read_at, _s.archived_at)


def _in_state(statement: Select[Any], shape: InboxFilter, read: Any, archived: Any) -> Select[Any]:
    statement = statement.where(archived.is_not(None) if shape.archived else archived.is_(None))
    return statement.where(read.is_(None)) if shape.unread else statement


def _kinds(shape: InboxFilter) -> list[ColumnElement[bool]]:
    wanted = []
    if shape.message_type is not None:
        wanted.append(_m.message_type == bindparam("message_type"))
    if shape.min_priority is not None:
        wanted.append(_m.priority >= bindparam("min_priority"))
    return wanted


def _has_text(*, sqlite: bool) -> ColumnElement[bool]:
    sought = bindparam("sought", type_=Text)
    if sqlite:
        return or_(*(func.instr(func.lower(text), sought) > 0 for text in (_m.title, _m.content)))
    plain = (func.lower(collate(text, "C")) for text in (_m.title, _m.content))
    return or_(*(func.strpos(text, sought) > 0 for text in plain))
