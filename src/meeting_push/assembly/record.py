"""记录（SQL）：消息在这里被接受，Redis 里的都能从这里重建。"""

from __future__ import annotations

import contextlib

from ..accept.drafts import Everybody, ForeignDirectory, KnownUsers
from ..accept.message_service import MessageStores
from ..contracts import UserDirectory
from ..meeting.service import MeetingStores
from ..settings import Settings
from ..storage.accounts import UserRepository
from ..storage.broadcasts import BroadcastRepository
from ..storage.database import Database
from ..storage.fleet import GenerationRepository
from ..storage.inbox import InboxRepository
from ..storage.meetings import MeetingRepository, TranscriptRepository
from ..storage.messages import IdempotencyRepository, MessageRepository
from ..storage.outcomes import OutcomeRepository, UndeliveredRepository
from ..storage.recipients import DeliveryReports, RecipientRepository


class Record:
    """``directory`` 是应用自己的用户表。没有给：账号归我们时用我们的，否则谁都存在。"""

    def __init__(self, settings: Settings, directory: UserDirectory | None) -> None:
        database = self.database = Database(settings.sql_url, settings.database_timeout_s)
        users = UserRepository(database)
        self.stores = MessageStores(
            database=database,
            messages=MessageRepository(database),
            inbox=InboxRepository(database),
            idempotency=IdempotencyRepository(database),
            directory=_directory(settings, directory, users),
        )
        self.recipients = RecipientRepository(database)
        self.reports = DeliveryReports(database)
        self.outcomes = OutcomeRepository(database)
        self.undelivered = UndeliveredRepository(database)
        self.generations = GenerationRepository(database)
        self.broadcasts = BroadcastRepository(database)
        self.meeting_stores = MeetingStores(
            database=database,
            meetings=MeetingRepository(database),
            transcripts=TranscriptRepository(database),
            directory=self.stores.directory,
        )

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        await self.database.migrate()
        stack.push_async_callback(self.database.dispose)


def _directory(
    settings: Settings, given: UserDirectory | None, users: UserRepository
) -> UserDirectory:
    if given is not None:
        return KnownUsers(ForeignDirectory(given))
    return KnownUsers(users) if settings.owns_accounts else Everybody()
