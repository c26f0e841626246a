"""会议：召开、邀请、查看、结束；会议 WebSocket 的记录台。"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ulid import ULID

from ..accept.drafts import MEETING_ENDED, check_title
from ..accept.message_service import MessageService
from ..clock import Clock, now_ms
from ..contracts import UserDirectory
from ..errors import (
    ForbiddenError,
    MeetingEndedError,
    MeetingPushError,
    NotFoundError,
    PayloadTooLargeError,
    UnknownParticipantsError,
    UnknownRecipientsError,
)
from ..logs import logger
from ..meeting_model import Meeting, MeetingPosition, MeetingView, Participant, Segment, Utterance
from ..model import RECORDER_ROLE, Draft, Principal
from ..people.people import INTEGERS, People
from ..person_id import PersonId
from ..protocol.frames import encode
from ..redis.meeting_bus import MeetingBus
from ..redis.redis_service import courtesy
from ..settings import MeetingSettings
from ..storage.database import Database, SqlConnection
from ..storage.meetings import MeetingRepository, TranscriptRepository
from ..storage.rows import Page
from .frames import Ended, Removed

ENDED_TITLE = "会议已结束"


@dataclass(frozen=True, slots=True)
class MeetingStores:
    """会议要用的存储。"""

    database: Database
    meetings: MeetingRepository
    transcripts: TranscriptRepository
    directory: UserDirectory


class MeetingService:
    """看得见的人：参与者与管理员；别人看到的与不存在一样（``NotFoundError``）。"""

    def __init__(
        self,
        stores: MeetingStores,
        *,
        rules: MeetingSettings,
        messages: MessageService,
        bus: MeetingBus,
        people: People = INTEGERS,
        clock: Clock = now_ms,
    ) -> None:
        self._people = people
        self._stores = stores
        self._rules = rules
        self._messages = messages
        self._bus = bus
        self._clock = clock

    async def create(
        self, organizer: Principal, title: str, participant_ids: Sequence[PersonId]
    ) -> MeetingView:
        """召开；召开者自己总在参与者里。

        :raises InvalidInputError: 标题或参与者不合规；什么也没有保存
        """
        check_title(title, self._rules.max_title_chars)
        listed = await self._numbers(organizer, participant_ids)
        others = await self._known(u for u in listed if u != organizer.user_id)
        people = [Participant(organizer.user_id, organizer.name), *others]
        self._check_size(len(people))
        now = self._clock()
        meeting_id = str(ULID.from_timestamp(now / 1000))
        meeting = Meeting(meeting_id, title, organizer.user_id, now, None, 0)
        async with self._stores.database.transaction() as connection:
            await self._stores.meetings.insert(connection, meeting)
            await self._stores.meetings.add_participants(connection, meeting_id, people, now)
        return MeetingView(meeting, tuple(sorted(people, key=lambda p: p.user_id)))

    async def invite(
        self, meeting_id: str, inviter: Principal, participant_ids: Sequence[PersonId]
    ) -> MeetingView:
        """邀请；已在其中的不变。只有召开者与管理员可以。

        :raises MeetingEndedError: 会议已结束
        """
        await self._require_organizer(meeting_id, inviter)
        people = await self._known(await self._numbers(inviter, participant_ids))
        async with self._stores.database.transaction() as connection:
            await self._add(connection, meeting_id, people)
        return await self.get(meeting_id, inviter)

    async def _add(
        self, connection: SqlConnection, meeting_id: str, people: Sequence[Participant]
    ) -> None:
        meetings = self._stores.meetings
        meeting = await meetings.lock(connection, meeting_id)
        if meeting is None or meeting.ended_at is not None:
            raise MeetingEndedError("the meeting has ended")
        present = await meetings.participant_ids(connection, meeting_id)
        self._check_size(len({*present, *(p.user_id for p in people)}))
        await meetings.add_participants(connection, meeting_id, people, self._clock())

    async def leave(self, meeting_id: str, principal: Principal, user_id: int) -> None:
        """自己离开；召开者与管理员可以请别人离开。不在其中也无妨；结束了的也可以离开。

        此后他看不到这场会议，连接以 4501 关闭，也不再得到它的通知。

        :raises NotFoundError: 没有这场会议，或不该让他知道它存在
        :raises ForbiddenError: 请的是别人而他不是召开者；或是召开者自己（他可以结束会议）
        """
        view = await self.get(meeting_id, principal)
        organizer_id = view.meeting.organizer_id
        if principal.user_id not in (user_id, organizer_id) and not principal.is_admin:
            raise ForbiddenError("only the organizer or an administrator may do this")
        if user_id == organizer_id:
            raise ForbiddenError("the organizer stays: the meeting can be ended")
        async with self._stores.database.transaction() as connection:
            await self._stores.meetings.lock(connection, meeting_id)
            await self._stores.meetings.remove_participant(connection, meeting_id, user_id)
        await self._announce(meeting_id, Removed(user_id=user_id))

    async def end(self, meeting_id: str, ender: Principal) -> MeetingView:
        """结束；只有召开者与管理员可以。重复调用无害，通知只有一次。

        结束与给参与者的通知在同一个事务里：死在任何一刻，要么都没有，要么都有（DLV-1）。
        """
        await self._require_organizer(meeting_id, ender)
        async with self._stores.database.transaction() as connection:
            ended = await self._stores.meetings.end(connection, meeting_id, self._clock())
            if ended is not None:
                ids = await self._stores.meetings.participant_ids(connection, meeting_id)
                outgoing = await self._messages.send_within(
                    connection, ender.sender, _notification(ended, ids)
                )
        if ended is not None:
            self._messages.dispatch(outgoing)
            assert ended.ended_at is not None
            await self._announce(meeting_id, Ended(seq=ended.seq, ended_at=ended.ended_at))
        return await self.get(meeting_id, ender)

    async def _announce(self, meeting_id: str, frame: Ended | Removed) -> None:
        """告诉各节点；丢了也无妨，它们会与记录核对。"""
        try:
            await courtesy(self._bus.publish(meeting_id, [encode(frame)]))
        except MeetingPushError as error:
            log = logger.bind(code=error.code, cause=error.cause, meeting_id=meeting_id)
            log.warning("meeting_news_unannounced")

    # ── 查看 ────────────────────────────────────────────────────────────────

    async def get(self, meeting_id: str, viewer: Principal) -> MeetingView:
        """:raises NotFoundError: 不存在，或不该让此人知道它存在"""
        meeting = await self._stores.meetings.get(meeting_id)
        people = await self._stores.meetings.participants(meeting_id)
        if meeting is None or not (viewer.is_admin or _among(viewer, people)):
            raise NotFoundError("no such meeting")
        return MeetingView(meeting, tuple(people))

    async def page(
        self, viewer: Principal, *, ended: bool | None, cursor: str | None, limit: int
    ) -> Page[Meeting, str]:
        """他参加的会议，新的在前。"""
        return await self._stores.meetings.page(
            viewer.user_id, ended=ended, cursor=cursor, limit=limit
        )

    async def transcript(
        self, meeting_id: str, viewer: Principal, after_seq: int, limit: int
    ) -> list[Segment]:
        """``after_seq`` 之后的 ``limit`` 段。"""
        await self.get(meeting_id, viewer)
        return await self._stores.transcripts.page(meeting_id, after_seq, limit)

    # ── 规矩 ────────────────────────────────────────────────────────────────

    async def _require_organizer(self, meeting_id: str, principal: Principal) -> None:
        view = await self.get(meeting_id, principal)
        if not (principal.is_admin or view.meeting.organizer_id == principal.user_id):
            raise ForbiddenError("only the organizer or an administrator may do this")

    async def _numbers(self, user: Principal, listed: Sequence[PersonId]) -> Sequence[int]:
        try:
            return await self._people.numbers(listed, self._people.bringer(user))
        except UnknownRecipientsError as error:
            raise UnknownParticipantsError(error.user_ids) from None

    async def _known(self, user_ids: Iterable[int]) -> list[Participant]:
        """去重，核实存在。

        名字要等本人进来时自己带来：谁的 id 都能列，却不该由此问出名字（A17）。
        """
        wanted = sorted(set(user_ids))
        self._check_size(len(wanted))
        known = await self._stores.directory.existing_ids(wanted)
        if len(known) < len(wanted):
            unknown = await self._people.persons(u for u in wanted if u not in known)
            raise UnknownParticipantsError(list(unknown.values()))
        return [Participant(user_id, "") for user_id in wanted]

    def _check_size(self, participants: int) -> None:
        limit = self._rules.max_participants
        if participants > limit:
            raise PayloadTooLargeError(f"participant_ids: more than {limit} participants")


def _among(viewer: Principal, people: Sequence[Participant]) -> bool:
    return any(person.user_id == viewer.user_id for person in people)


def _notification(meeting: Meeting, participant_ids: Sequence[int]) -> Draft:
    return Draft(
        recipient_ids=tuple(participant_ids),
        title=ENDED_TITLE,
        content=meeting.title,
        message_type="notification",
        data={
            "event": MEETING_ENDED,
            "meeting_id": meeting.meeting_id,
            "ended_at": meeting.ended_at,
            "seq": meeting.seq,
        },
    )


#: 同时占用的数据库连接；池是与用户消息共用的，会议再忙也得给它留着（ISO-1）。
MAX_STATEMENTS: Final = 4


class MeetingDesk:
    """会议 WebSocket 的记录台（SQL）。

    都可能抛出 ``DatabaseUnavailableError``；读取可以放心重来。
    """

    def __init__(
        self,
        meetings: MeetingRepository,
        transcripts: TranscriptRepository,
        people: People = INTEGERS,
        clock: Clock = now_ms,
    ) -> None:
        #: 号 → 对外的 id。
        self.shown = people.persons
        self._meetings = meetings
        self._transcripts = transcripts
        self._clock = clock
        self._turns = asyncio.Semaphore(MAX_STATEMENTS)

    async def admit(self, meeting_id: str, principal: Principal) -> MeetingView:
        """让他进来：参与者，或角色 ``recorder``。已结束的会议也进得来（取完转录就送客）。

        :raises ForbiddenError: 不是，或没有这场会议（两者不加区分）
        """
        async with self._turns:
            meeting = await self._meetings.get(meeting_id)
            people = await self._meetings.participants(meeting_id)
        known = next((p for p in people if p.user_id == principal.user_id), None)
        if meeting is None or (known is None and principal.role != RECORDER_ROLE):
            raise ForbiddenError("not a participant of this meeting")
        if known is not None and principal.name and principal.name != known.name:
            people = await self._rename(meeting_id, people, principal)
        return MeetingView(meeting, tuple(people))

    async def _rename(
        self, meeting_id: str, people: Sequence[Participant], principal: Principal
    ) -> list[Participant]:
        """令牌里的名字比记下的新。"""
        renamed = Participant(principal.user_id, principal.name)
        async with self._turns:
            await self._meetings.rename(meeting_id, renamed)
        return [renamed if p.user_id == renamed.user_id else p for p in people]

    async def append(self, meeting_id: str, utterances: Sequence[Utterance]) -> list[Segment]:
        """存下若干段，返回带号的；一个事务，次序不变，号相连，从不留洞。

        超时或取消时结果不定，不可原样重来（会存两份）。

        :raises MeetingEndedError: 会议已结束；什么也没有保存
        """
        async with self._turns:
            return await self._transcripts.append(meeting_id, utterances, self._clock())

    async def read(self, meeting_id: str, after_seq: int, limit: int) -> list[Segment]:
        """号大于 ``after_seq`` 的前 ``limit`` 段，按号升序。"""
        async with self._turns:
            return await self._transcripts.page(meeting_id, after_seq, limit)

    async def member_ids(self, meeting_id: str) -> set[int]:
        """此刻的参与者。"""
        async with self._turns:
            return {p.user_id for p in await self._meetings.participants(meeting_id)}

    async def positions(self, meeting_ids: Sequence[str]) -> dict[str, MeetingPosition]:
        """各会议的记录走到了哪里；不存在的略去。"""
        async with self._turns:
            return await self._meetings.positions(meeting_ids)
