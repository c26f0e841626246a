"""抹掉一个人：活的记录（谁、做到第几遍、轮到谁做），与各表里关于他的一批一批地去掉。

每一批自成一个短的事务：写锁不会久占。
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Row, and_, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ..person_id import NOBODY
from .database import Repository
from .event_outbox import FIELDS
from .id_list import among
from .operations_tables import alert_events, alert_notes, alerts, events_out
from .people import digest_of
from .tables import (
    broadcast_receipts,
    broadcast_states,
    broadcasts,
    erasures,
    idempotency_keys,
    inboxes,
    meeting_participants,
    meetings,
    message_recipients,
    messages,
    people,
    revocations,
    transcript_segments,
    users,
)

#: 他写的正文换成它：别的收件人看到的是一条抹掉了的。
TOMBSTONE: Final = '{"event":"message_erased"}'
#: 一个事务改这么多行。
BATCH: Final = 500
#: 没有索引可用时一步看这么多行。
WALK: Final = 5_000
#: 一步看这么多场会议的转录。
MEETINGS: Final = 100
#: 他从前的消息改记在它名下：谁也不是。
NOBODYS: Final = 0


@dataclass(frozen=True, slots=True)
class Erasure:
    """``name`` 为 None：没有账号，或前几遍已经做完。"""

    user_id: int
    name: str | None
    requested_at: int
    passes: int


@dataclass(frozen=True, slots=True)
class Written:
    """他写的一条。``theirs``：还记在他名下；不然是早先一遍抹掉了的，Redis 里再看一眼。"""

    message_id: str
    theirs: bool
    deliver_at: int | None


class ErasureRepository(Repository):
    async def begin(self, connection: AsyncConnection, user_id: int, now: int, due_at: int) -> bool:
        """账号当场没有了，活记下了；幂等。False：没有这个账号，也没有抹过。"""
        gone = delete(users).where(users.c.id == user_id).returning(users.c.username)
        name = await connection.scalar(gone)
        known = select(erasures.c.user_id).where(erasures.c.user_id == user_id)
        if await connection.scalar(known) is not None:
            return True
        await self._hide(connection, user_id)
        await connection.execute(
            insert(erasures),
            {
                "user_id": user_id,
                "name": name,
                "requested_at": now,
                "passes": 0,
                "next_at": due_at,
                "holder": "",
                "lease_until": 0,
            },
        )
        return name is not None

    async def _hide(self, connection: AsyncConnection, user_id: int) -> None:
        """他的 id 是一段字的：只留下散列（``PeopleRepository.numbers`` 认得）。"""
        row = people.c.id == user_id - NOBODY
        outer = await connection.scalar(select(people.c.outer_id).where(row))
        if outer is not None:
            values = {"outer_id": digest_of(outer), "created_by": None}
            await connection.execute(update(people).where(row).values(**values))

    async def take(self, me: str, now: int, until: int) -> Erasure | None:
        """到时的里面最早的一个，归 ``me`` 到 ``until``；没有则 None。"""
        e = erasures.c
        free = or_(e.lease_until <= now, e.holder == me)
        columns = (e.user_id, e.name, e.requested_at, e.passes)
        row = await self._database.row(
            select(*columns).where(e.next_at <= now, free).order_by(e.next_at).limit(1)
        )
        if row is None:
            return None
        mine = update(erasures).where(e.user_id == row.user_id, e.next_at <= now, free)
        taken = await self._database.change(mine.values(holder=me, lease_until=until))
        return Erasure(*row) if taken else None

    async def keep(self, user_id: int, me: str, until: int) -> bool:
        """False：它已归别人。"""
        e = erasures.c
        mine = update(erasures).where(e.user_id == user_id, e.holder == me)
        return bool(await self._database.change(mine.values(lease_until=until)))

    async def passed(self, done: Erasure, next_at: int | None, *, forget_name: bool) -> None:
        """又做完一遍。"""
        values: dict[str, object] = {
            "passes": done.passes + 1,
            "next_at": next_at,
            "lease_until": 0,
        }
        if forget_name:
            values["name"] = None
        mine = update(erasures).where(erasures.c.user_id == done.user_id)
        await self._database.change(mine.values(**values))


class PersonRows(Repository):
    """各表里关于一个人的；每个方法做一批，幂等。"""

    # ── 他收到的 ─────────────────────────────────────────────────────────────

    async def received(self, user_id: int) -> list[str]:
        """他收到的消息里的 ``BATCH`` 条。"""
        of = message_recipients.c
        statement = select(of.message_id).where(of.user_id == user_id).limit(BATCH)
        return [row.message_id for row in await self._database.rows(statement)]

    async def forget_received(self, user_id: int, message_ids: Sequence[str]) -> None:
        of = message_recipients.c
        his = and_(among(self._database, of.message_id, message_ids), of.user_id == user_id)
        await self._database.change(delete(message_recipients).where(his))

    async def forget_receipts(self, user_id: int) -> None:
        """广播的确认：没有按人的索引，按广播一批一批地去。"""
        of, last = broadcast_receipts.c, ""
        while True:
            page = select(broadcasts.c.message_id).where(broadcasts.c.message_id > last)
            page = page.order_by(broadcasts.c.message_id).limit(BATCH)
            ids = [row.message_id for row in await self._database.rows(page)]
            if not ids:
                return
            his = and_(among(self._database, of.message_id, ids), of.user_id == user_id)
            if await self._database.rows(select(of.message_id).where(his).limit(1)):
                await self._database.change(delete(broadcast_receipts).where(his))
            last = ids[-1]

    async def forget_inbox(self, user_id: int) -> None:
        """他对广播做过的，他的收件箱。"""
        async with self._database.transaction() as connection:
            for table in (broadcast_states, inboxes):
                await connection.execute(delete(table).where(table.c.user_id == user_id))

    # ── 他写的 ──────────────────────────────────────────────────────────────

    async def written(self, user_id: int, after: str, now: int) -> tuple[str | None, list[Written]]:
        """``after`` 之后的一步（``WALK`` 行）：走到了哪里（None：到底了），与其中他写的。"""
        of = messages.c
        ids = select(of.message_id).where(of.message_id > after).order_by(of.message_id)
        end = await self._database.scalar(ids.offset(WALK - 1).limit(1))
        erased = and_(of.sender_id == NOBODYS, of.data == TOMBSTONE, of.expires_at > now)
        statement = select(of.message_id, of.sender_id, of.deliver_at).where(
            of.message_id > after, or_(of.sender_id == user_id, erased)
        )
        if end is not None:
            statement = statement.where(of.message_id <= end)
        return end, [
            Written(row.message_id, row.sender_id == user_id, row.deliver_at)
            for row in await self._database.rows(statement)
        ]

    async def blank(self, user_id: int, message_ids: Sequence[str]) -> None:
        """正文没有了，还记在他名下：Redis 里的去掉之前不许找不到。"""
        await self._change_written(
            user_id,
            message_ids,
            title="",
            content="",
            data=TOMBSTONE,
            sender_name="",
            receipt=False,
        )

    async def disown(self, user_id: int, message_ids: Sequence[str]) -> None:
        await self._change_written(user_id, message_ids, sender_id=NOBODYS)

    async def _change_written(
        self, user_id: int, message_ids: Sequence[str], **values: object
    ) -> None:
        of = messages.c
        his = and_(among(self._database, of.message_id, message_ids), of.sender_id == user_id)
        await self._database.change(update(messages).where(his).values(**values))

    async def forget_idempotency(self, user_id: int) -> bool:
        """一批；True：还有。"""
        of = idempotency_keys.c
        keys = [
            row.key
            for row in await self._database.rows(
                select(of.key).where(of.sender_id == user_id).limit(BATCH)
            )
        ]
        if keys:
            his = and_(of.sender_id == user_id, among(self._database, of.key, keys))
            await self._database.change(delete(idempotency_keys).where(his))
        return len(keys) == BATCH

    # ── 会议 ────────────────────────────────────────────────────────────────

    async def meetings(self, after: str) -> dict[str, int]:
        """``after`` 之后的至多 ``MEETINGS`` 场会议，依次：会议 → 召开者。"""
        of = meetings.c
        statement = select(of.meeting_id, of.organizer_id).where(of.meeting_id > after)
        rows = await self._database.rows(statement.order_by(of.meeting_id).limit(MEETINGS))
        return {row.meeting_id: row.organizer_id for row in rows}

    async def attended(self, user_id: int, meeting_ids: Sequence[str]) -> dict[str, str]:
        """其中有他的：会议 → 他在那里的名字。"""
        of = meeting_participants.c
        statement = select(of.meeting_id, of.name).where(
            of.user_id == user_id, among(self._database, of.meeting_id, meeting_ids)
        )
        return {row.meeting_id: row.name for row in await self._database.rows(statement)}

    async def forget_speech(
        self, user_id: int, meeting_ids: Sequence[str], names: Sequence[str]
    ) -> int:
        """他送来的，与（``names`` 里的）识别器记在他名下的：号留着，话没有了。返回几段。"""
        of = transcript_segments.c
        his: ColumnElement[bool] = of.sender_id == user_id
        if names:
            his = or_(his, among(self._database, of.speaker, names))
        found = await self._database.rows(
            select(of.meeting_id, of.seq).where(
                among(self._database, of.meeting_id, meeting_ids), his
            )
        )
        for start in range(0, len(found), BATCH):
            await self._silence(found[start : start + BATCH])
        return len(found)

    async def _silence(self, rows: Sequence[Row[*tuple[Any, ...]]]) -> None:
        of = transcript_segments.c
        async with self._database.transaction() as connection:
            for meeting_id in {row.meeting_id for row in rows}:
                seqs = [row.seq for row in rows if row.meeting_id == meeting_id]
                these = and_(of.meeting_id == meeting_id, among(self._database, of.seq, seqs))
                await connection.execute(
                    update(transcript_segments)
                    .where(these)
                    .values(text="", speaker="", sender_id=NOBODYS)
                )

    async def leave_meetings(self, user_id: int, meeting_ids: Sequence[str]) -> None:
        """不再是参与者、召开者；他起的题目也没有了。"""
        part, of = meeting_participants.c, meetings.c
        mine = and_(among(self._database, of.meeting_id, meeting_ids), of.organizer_id == user_id)
        his = and_(among(self._database, part.meeting_id, meeting_ids), part.user_id == user_id)
        async with self._database.transaction() as connection:
            await connection.execute(
                update(meetings).where(mine).values(organizer_id=NOBODYS, title="")
            )
            await connection.execute(delete(meeting_participants).where(his))

    # ── 其余 ────────────────────────────────────────────────────────────────

    async def forget_events(self, user_id: int) -> None:
        """还没有出门的事件（死信也是）里他的号与名字；一项是一项，次序与个数不变。"""
        of, text, last = events_out.c, events_out.c["items"], 0
        while True:
            page = select(of.id, of.kind, text).where(of.id > last, text.contains(str(user_id)))
            rows = await self._database.rows(page.order_by(of.id).limit(BATCH))
            for number, kind, items in rows:
                rest = _without_person(kind, items, user_id)
                this = update(events_out).where(of.id == number)
                await self._database.change(this.values({text: rest}))
            if len(rows) < BATCH:
                return
            last = rows[-1][0]

    async def forget_marks(self, user_id: int, name: str | None) -> None:
        """告警上他说的、做的；吊销里他的会话与令牌（整个人的那一行留着）；谁是他带来的。"""
        as_whom = [str(user_id), *([name] if name else [])]
        note, event, alert = alert_notes.c, alert_events.c, alerts.c
        tokens = or_(revocations.c.session_id != "", revocations.c.token_id != "")
        async with self._database.transaction() as connection:
            for statement in (
                update(alert_notes).where(note.author.in_(as_whom)).values(author="", text=""),
                update(alert_events).where(event.by.in_(as_whom)).values(by="", text=""),
                update(alerts).where(alert.acknowledged_by.in_(as_whom)).values(acknowledged_by=""),
                delete(revocations).where(revocations.c.user_id == user_id, tokens),
                update(people).where(people.c.created_by == user_id).values(created_by=None),
            ):
                await connection.execute(statement)


def _without_person(kind: str, items: str, user_id: int) -> str:
    """各项里说到他的那一个值换掉，是他发的，连名字（``event_outbox.FIELDS``）。"""
    fields = FIELDS.get(kind, ())
    places = [at for at, name in enumerate(fields) if name in ("sender_id", "user_id")]
    named = [at for at, name in enumerate(fields) if name == "sender_name"]
    listed = msgspec.json.decode(items)
    for item in listed:
        if any(item[at] == user_id for at in places):
            for at in places:
                item[at] = NOBODYS
            for at in named:
                item[at] = ""
    return msgspec.json.encode(listed).decode()
