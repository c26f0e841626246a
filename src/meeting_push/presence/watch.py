"""关注：谁在看谁的在线状态；跨节点靠每个用户一个 Pub/Sub 频道。

先订阅、后读取，所以读到之后的转变都会来；断线重订之后重读一遍。发布由写入在线状态的那段
Lua 做（``redis/lua/presence_user.lua``），只有真的转变才发布。一个节点上能被关注的人有限，每个
用户、每个地址只占得了其中的一份（A10）。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec

from ..contracts import ChannelRoute, Watcher
from ..errors import MeetingPushError, WatchLimitError
from ..logs import RepeatedWarning
from ..model import PresenceStatus
from ..people.people import INTEGERS
from ..person_id import PersonId
from ..protocol.frames import Presence, encode
from ..redis.keys import Keys
from ..redis.subscriber import Subscriber
from ..settings import PresenceSettings
from ..supervision import periodically, summoned
from .online_status_service import OnlineStatusService
from .watch_shares import Holder, WatchShares

#: 对同一个人，两次宣布至少隔这么久：反复切换状态不会淹没关注他的人，最后的样子总会到。
ANNOUNCE_GAP_MS: Final = 1_000


class Debounce:
    """离线要满 ``grace_ms`` 才宣布，期间回来就当没走过（LESSONS 8）；上线立刻宣布。

    状态为 None 即离线。
    """

    __slots__ = ("_announced_at", "_grace_ms", "announced", "current", "due")

    def __init__(self, state: PresenceStatus | None, grace_ms: int) -> None:
        self.announced = state
        self.current = state
        #: 何时宣布 ``current``；None 表示没有要宣布的。
        self.due: int | None = None
        self._grace_ms = grace_ms
        self._announced_at: int | None = None

    def note(self, state: PresenceStatus | None, now: int) -> None:
        """得知此刻的状态。"""
        if state == self.current:
            return
        self.current = state
        if state == self.announced:
            self.due = None
            return
        due = now + self._grace_ms if state is None else now
        if self._announced_at is not None:
            due = max(due, self._announced_at + ANNOUNCE_GAP_MS)
        self.due = due

    def announce(self, now: int) -> PresenceStatus | None:
        """到点了：返回要宣布的状态。"""
        self.announced = self.current
        self._announced_at = now
        self.due = None
        return self.announced


#: 一段写给多少个关注者（每个约 5 µs）：被几万人关注的人上线，不会让别人等。
SPREAD_CHUNK: Final = 500
READ_CHUNK: Final = 500


class _Told(msgspec.Struct, frozen=True, kw_only=True, tag="presence", tag_field="type"):
    """频道上的一次转变；是谁的，频道说了（里面的 user_id 是号）。"""

    online: bool
    status: PresenceStatus | None = None


_decoder: Final = msgspec.json.Decoder(_Told)


class _Watched:
    """一个被关注的人；``debounce`` 在第一次读到状态之后才有。"""

    __slots__ = ("debounce", "early", "holder", "opening", "person", "timer", "user_id", "watchers")

    def __init__(self, user_id: int, person: PersonId, holder: Holder) -> None:
        self.user_id = user_id
        #: 帧里的他。
        self.person = person
        #: 算在谁的份额里。
        self.holder = holder
        self.watchers: set[Watcher] = set()
        self.debounce: Debounce | None = None
        #: 读完之前就来的转变：比读到的新。
        self.early: list[PresenceStatus | None] = []
        self.opening: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def frame(self) -> bytes:
        state = self.debounce.announced if self.debounce is not None else None
        return encode(Presence(user_id=self.person, online=state is not None, status=state))


@dataclass(frozen=True, slots=True)
class WatchStatistics:
    """``statistics()`` 的快照：此刻多少人在关注、多少人被关注；其余只增。"""

    watchers: int
    watched: int
    announced: int
    malformed: int


class PresenceWatch:
    """实现 ``contracts.PresenceWatches``；``run`` 须由监督者一直运行。

    ``routes`` 是管理者查的那张表：每个被关注的人在里面有一项。
    """

    def __init__(
        self,
        subscriber: Subscriber,
        routes: MutableMapping[bytes, ChannelRoute],
        presence: OnlineStatusService,
        keys: Keys,
        settings: PresenceSettings,
        person: Callable[[int], PersonId] = INTEGERS.person,
    ) -> None:
        """:param person: 刚换成号的，换回对外的 id"""
        self._person = person
        self._subscriber = subscriber
        self._routes = routes
        self._presence = presence
        self._channel: Callable[[int], str] = keys.presence_channel
        self._grace_ms = int(settings.grace_s * 1000)
        self._max_each = settings.max_watched_per_connection
        self._shares = WatchShares(settings)
        self._watched: dict[int, _Watched] = {}
        self._by_watcher: dict[Watcher, set[int]] = {}
        self._lost = asyncio.Event()
        self._deferred = RepeatedWarning("presence_reread_deferred")
        self._announced = 0
        self._malformed = 0

    # ── PresenceWatches ─────────────────────────────────────────────────────

    async def watch(self, watcher: Watcher, user_ids: Sequence[int]) -> int:
        wanted = list(dict.fromkeys(user_ids))
        self._check_room(watcher, wanted)
        added = set(wanted) - self._by_watcher.get(watcher, set())
        entries = self._register(watcher, wanted)
        try:
            await _opened(entries)
        except MeetingPushError:
            self.unwatch(watcher, tuple(added))
            raise
        watcher.send_all([one.frame() for one in entries if watcher in one.watchers])
        return len(self._by_watcher.get(watcher, ()))

    def unwatch(self, watcher: Watcher, user_ids: Sequence[int]) -> int:
        mine = self._by_watcher.get(watcher, set())
        for user_id in mine.intersection(user_ids):
            self._leave(watcher, user_id)
        return len(mine)

    def forget(self, watcher: Watcher) -> None:
        for user_id in tuple(self._by_watcher.get(watcher, ())):
            self._leave(watcher, user_id)
        self._by_watcher.pop(watcher, None)

    def _check_room(self, watcher: Watcher, wanted: Sequence[int]) -> None:
        mine = self._by_watcher.get(watcher, set())
        if len(mine) + sum(user_id not in mine for user_id in wanted) > self._max_each:
            raise WatchLimitError(f"one connection watches at most {self._max_each} users")
        self._shares.check(watcher, sum(user_id not in self._watched for user_id in wanted))

    # ── 登记 ────────────────────────────────────────────────────────────────

    def _register(self, watcher: Watcher, wanted: Sequence[int]) -> list[_Watched]:
        fresh = [
            _Watched(user_id, self._person(user_id), self._shares.take(watcher))
            for user_id in wanted
            if user_id not in self._watched
        ]
        for one in fresh:
            self._watched[one.user_id] = one
            self._routes[self._channel(one.user_id).encode()] = partial(self._on_payload, one)
        if fresh:
            self._open(fresh)
        entries = [self._watched[user_id] for user_id in wanted]
        for one in entries:
            one.watchers.add(watcher)
        self._by_watcher.setdefault(watcher, set()).update(wanted)
        return entries

    def _open(self, fresh: Sequence[_Watched]) -> None:
        task = asyncio.create_task(self._begin(fresh), name="presence_watch")
        task.add_done_callback(_retrieve)
        for one in fresh:
            one.opening = task

    async def _begin(self, fresh: Sequence[_Watched]) -> None:
        try:
            subscribe, channel = self._subscriber.subscribe_channel, self._channel
            await asyncio.gather(*(subscribe(channel(one.user_id)) for one in fresh))
            states = await self._presence.statuses([one.user_id for one in fresh])
        except BaseException:
            for one in fresh:
                self._abandon(one)
            raise
        finally:
            self._unsubscribe_dropped(fresh)
        for one, state in zip(fresh, states, strict=True):
            one.debounce = Debounce(one.early[-1] if one.early else state, self._grace_ms)
            one.opening = None

    def _unsubscribe_dropped(self, fresh: Sequence[_Watched]) -> None:
        """读完之前就没人看了的：退订可能赶在了订阅的前面，再退一次。"""
        for one in fresh:
            if one.user_id not in self._watched:
                self._subscriber.unsubscribe_channel(self._channel(one.user_id))

    def _abandon(self, one: _Watched) -> None:
        for watcher in tuple(one.watchers):
            self._leave(watcher, one.user_id)

    def _leave(self, watcher: Watcher, user_id: int) -> None:
        mine, one = self._by_watcher[watcher], self._watched[user_id]
        mine.discard(user_id)
        if not mine:
            del self._by_watcher[watcher]
        one.watchers.discard(watcher)
        if not one.watchers:
            self._drop(one)
        elif one.holder == Holder.of(watcher):
            self._shares.give_back(one.holder)
            one.holder = self._shares.take(next(iter(one.watchers)))

    def _drop(self, one: _Watched) -> None:
        self._shares.give_back(one.holder)
        del self._watched[one.user_id]
        channel = self._channel(one.user_id)
        del self._routes[channel.encode()]
        self._subscriber.unsubscribe_channel(channel)
        if one.timer is not None:
            one.timer.cancel()

    # ── 转变 ────────────────────────────────────────────────────────────────

    def _on_payload(self, one: _Watched, payload: bytes) -> bool:
        try:
            frame = _decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._malformed += 1
            return True
        self._note(one, (frame.status or "active") if frame.online else None)
        return True

    def _note(self, one: _Watched, state: PresenceStatus | None) -> None:
        if one.debounce is None:
            one.early = [state]
            return
        one.debounce.note(state, _now())
        self._arm(one, one.debounce.due)

    def _arm(self, one: _Watched, due: int | None) -> None:
        if one.timer is not None:
            one.timer.cancel()
            one.timer = None
        if due is None:
            return
        wait_ms = due - _now()
        if wait_ms > 0:
            loop = asyncio.get_running_loop()
            one.timer = loop.call_later(wait_ms / 1000, self._announce, one)
        else:
            self._announce(one)

    def _announce(self, one: _Watched) -> None:
        assert one.debounce is not None, "nothing is due before the first read"
        one.timer = None
        one.debounce.announce(_now())
        self._announced += 1
        self._spread(one.frame(), list(one.watchers))

    def _spread(self, frame: bytes, watchers: list[Watcher]) -> None:
        for watcher in watchers[:SPREAD_CHUNK]:
            watcher.send_all((frame,))
        if rest := watchers[SPREAD_CHUNK:]:
            asyncio.get_running_loop().call_soon(self._spread, frame, rest)

    # ── 断线之后 ─────────────────────────────────────────────────────────────

    def resync(self) -> None:
        """断过又订上了：期间的转变没有收到，全部重读。"""
        self._lost.set()

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        await periodically(self._reread, partial(summoned, self._lost), self._deferred)

    async def _reread(self) -> None:
        everyone = list(self._watched.values())
        for start in range(0, len(everyone), READ_CHUNK):
            chunk = everyone[start : start + READ_CHUNK]
            states = await self._presence.statuses([one.user_id for one in chunk])
            for one, state in zip(chunk, states, strict=True):
                if one.watchers:
                    self._note(one, state)

    def statistics(self) -> WatchStatistics:
        return WatchStatistics(
            watchers=len(self._by_watcher),
            watched=len(self._watched),
            announced=self._announced,
            malformed=self._malformed,
        )


async def _opened(entries: Sequence[_Watched]) -> None:
    """等到各人的状态都读到了；别人先关注的可能还在读，一起等。"""
    opening = {one.opening for one in entries if one.opening is not None}
    await asyncio.gather(*map(asyncio.shield, opening))


def _now() -> int:
    """计时器的钟（毫秒）：墙上时间会跳。"""
    return int(asyncio.get_running_loop().time() * 1000)


def _retrieve(task: asyncio.Task[None]) -> None:
    """等它的人都走了，也不算“从未取走”的异常。"""
    if not task.cancelled():
        task.exception()
