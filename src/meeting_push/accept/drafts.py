"""草稿：什么样的可以被接受，谁可以发，发给谁，然后成为消息。

草稿的规矩：什么样的消息可以被接受。纯函数，出错即拒绝整条。

谁可以发什么：REST 上的人与管理员；应用自己在进程里发的不问。

认识的用户：记住最近确认过存在的 id，热的收件人不必每次问 SQL。

通过了检查的草稿 → 消息：得到号、时刻与有效期；数着收下了多少。
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, TypeVar, get_args

import msgspec
from msgspec.structs import replace

from ..clock import Clock, now_ms
from ..contracts import UserDirectory
from ..errors import (
    ForbiddenError,
    InvalidInputError,
    PayloadTooLargeError,
)
from ..model import (
    MAX_PRIORITY,
    MIN_PRIORITY,
    AppData,
    Draft,
    KeyPrincipal,
    Message,
    MessageKind,
    MessageType,
    Outgoing,
    Principal,
    Sender,
)
from ..person_id import PersonId
from ..protocol.json_text import accepted_data
from ..settings import MessageSettings

MESSAGE_TYPES: Final = frozenset(get_args(MessageType))
#: 重复的收件人只算一次，但列得再长就不去数了。
_MAX_REPEATS: Final = 4
#: 最远能排到一年后；也挡住会溢出 BIGINT 的时刻。
MAX_DELAY_MS: Final = 366 * 86_400_000
MAX_IDEMPOTENCY_KEY_CHARS: Final = 128


@dataclass(frozen=True, slots=True)
class DraftRules:
    """各项上限在设置里；``*_bytes`` 按 UTF-8 计。"""

    limits: MessageSettings

    def check_counts(self, recipients: Iterable[Sequence[PersonId]]) -> None:
        """列得太长的不去认是谁。

        :raises PayloadTooLargeError: 有一列太长
        """
        if max(map(len, recipients), default=0) > self.limits.max_recipients * _MAX_REPEATS:
            raise self._too_many()

    def check(self, draft: Draft, now: int) -> Draft:
        """返回收件人已去重（保持次序）的草稿；收件人是号。

        :raises PayloadTooLargeError: 正文、data 或收件人数目过大
        :raises InvalidInputError: 其它不合规之处，消息指出字段
        """
        recipients = draft.recipient_ids
        if len(recipients) > 1:
            self.check_counts([recipients])
            recipients = tuple(dict.fromkeys(recipients))
        self._check_recipients(recipients)
        checked = self.check_message(draft, now)
        if len(recipients) == len(draft.recipient_ids):
            return checked
        return replace(checked, recipient_ids=recipients)

    def check_message(self, draft: Draft, now: int) -> Draft:
        """同 ``check``，不看收件人（广播没有）；``data`` 换成规范的原文。"""
        check_title(draft.title, self.limits.max_title_chars)
        check_text("content", draft.content)
        if size_of(draft.content) > self.limits.max_content_bytes:
            raise PayloadTooLargeError(
                f"content: larger than {self.limits.max_content_bytes} bytes"
            )
        if draft.expires_in_s is not None or draft.deliver_at is not None:
            self._check_times(draft, now)
        if draft.message_type not in MESSAGE_TYPES:
            raise InvalidInputError("message_type: must be message, notification or system")
        if not MIN_PRIORITY <= draft.priority <= MAX_PRIORITY:
            raise InvalidInputError("priority: must be from 0 to 9")
        if draft.data is None:
            return draft
        return replace(draft, data=accepted_data(draft.data, self.limits.max_data_bytes))

    def _check_recipients(self, recipients: tuple[PersonId, ...]) -> None:
        if not recipients:
            raise InvalidInputError("recipient_ids: must not be empty")
        if len(recipients) > self.limits.max_recipients:
            raise self._too_many()

    def _too_many(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(
            f"recipient_ids: more than {self.limits.max_recipients} recipients"
        )

    def _check_times(self, draft: Draft, now: int) -> None:
        if draft.expires_in_s is not None and not 1 <= draft.expires_in_s <= self.limits.ttl_s:
            raise InvalidInputError(f"expires_in_s: must be from 1 to {self.limits.ttl_s}")
        if draft.deliver_at is not None and not 0 <= draft.deliver_at <= now + MAX_DELAY_MS:
            raise InvalidInputError("deliver_at: must be milliseconds at most one year ahead")


def check_title(title: str, max_chars: int) -> None:
    """:raises InvalidInputError: 空的、太长，或库里存不下"""
    if not title.strip():
        raise InvalidInputError("title: must not be empty")
    if len(title) > max_chars:
        raise InvalidInputError(f"title: longer than {max_chars} characters")
    check_text("title", title)


def check_text(field: str, text: str) -> None:
    """孤立代理项编不成 UTF-8，NUL 存不进 PostgreSQL。"""
    if "\x00" in text:
        raise InvalidInputError(f"{field}: must not contain NUL")
    try:
        size_of(text)
    except UnicodeEncodeError:
        raise InvalidInputError(f"{field}: is not valid Unicode") from None


def size_of(text: str) -> int:
    """UTF-8 的字节数。

    :raises UnicodeEncodeError: 有孤立代理项
    """
    return len(text) if text.isascii() else len(text.encode())


def check_idempotency_key(key: str | None) -> str | None:
    """:raises InvalidInputError: 不是 1 到 128 个可见字符"""
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY_CHARS or not key.isprintable():
        raise InvalidInputError("Idempotency-Key: must be 1 to 128 printable characters")
    return key


#: 我们自己的通知在 ``data.event`` 里说的；别人发的不许是它的样子（A17）。
MEETING_ENDED: Final = "meeting_ended"
#: 写它的人抹掉了（``storage.erasures.TOMBSTONE``）。
MESSAGE_ERASED: Final = "message_erased"
_OURS: Final = frozenset({MEETING_ENDED, MESSAGE_ERASED})


class _Event(msgspec.Struct):
    event: Any = None


_event: Final = msgspec.json.Decoder(_Event)


def check_send_rights(sender: Principal, drafts: Sequence[Draft]) -> None:
    is_key = isinstance(sender, KeyPrincipal)
    for draft in drafts:
        if is_key or draft.sender is not None:
            _check_behalf(draft, is_key=is_key)
    odd = [each for each in drafts if each.message_type == "system" or each.data is not None]
    if not odd or sender.is_admin:
        return
    if not is_key and any(draft.message_type == "system" for draft in odd):
        raise ForbiddenError("message_type system: administrators and API keys only")
    if any(draft.data is not None and _event_of(draft.data) in _OURS for draft in odd):
        raise ForbiddenError("data.event: this event is the system's own")
        raise ForbiddenError("data.event: this event is the system's own")


def _check_behalf(draft: Draft, *, is_key: bool) -> None:
    if draft.sender is None:
        nobody = True
    elif is_key:
        check_text("sender.name", draft.sender.name)
        nobody = draft.sender.id is None
    else:
        details = [{"field": "sender", "message": "only with an API key"}]
        raise InvalidInputError("the request is invalid", details=details)
    if is_key and nobody and draft.receipt:
        raise InvalidInputError("receipt: goes to sender.id, which this API key did not give")


def _event_of(data: AppData) -> str | None:
    """畸形的由 ``DraftRules`` 说。"""
    if isinstance(data, msgspec.Raw):
        try:
            found = _event.decode(data).event
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
    else:
        found = data.get("event")
    return found if isinstance(found, str) else None


#: 停用了而没有人说（``forget``）的用户至多再收到这么久的消息。
KEEP_MS: Final = 60_000
MAX_KNOWN: Final = 500_000


class KnownUsers:
    """包在任何 ``UserDirectory`` 外面；只记“存在”，不记“不存在”：新用户立即可收。

    ``gone``：抹掉了的，不论名册怎样说都不在。
    """

    def __init__(
        self, directory: UserDirectory, clock: Clock = now_ms, gone: Set[int] = frozenset()
    ) -> None:
        self._directory = directory
        self._gone = gone
        self._clock = clock
        self._until: dict[int, int] = {}
        self._forgotten = 0

    def forget(self, user_id: int) -> None:
        """他停用了、没有了：再来的重新问；正在问的不算数。"""
        self._until.pop(user_id, None)
        self._forgotten += 1

    async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
        now, until, forgotten = self._clock(), self._until, self._forgotten
        known = {user_id for user_id in user_ids if until.get(user_id, 0) > now}
        if len(known) == len(user_ids):
            return known
        found = await self._directory.existing_ids([u for u in user_ids if u not in known])
        if self._gone:
            found = found - self._gone
        if forgotten != self._forgotten:
            return known | found
        if len(until) + len(found) > MAX_KNOWN:
            until.clear()
        until.update(dict.fromkeys(found, now + KEEP_MS))
        return known | found


_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(high + low for high in _CROCKFORD for low in _CROCKFORD)
_TEN_BITS: Final = 1023


def _base32(value: int, pairs: int) -> str:
    """每十位两个字符，高位在前。"""
    return "".join([_PAIRS[value >> 10 * at & _TEN_BITS] for at in reversed(range(pairs))])


class _MessageIds:
    """ULID，48 位毫秒、80 位随机：同一毫秒里的依次加一，字典序就是收下的次序。

    随机的高一半一毫秒里不变，低一半从 39 位以内起，所以加不到头。几个线程可以同时要。
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._at = -1
        self._head = ""
        self._low = 0

    def new(self, now: int) -> str:
        with self._lock:
            if now != self._at:
                chance = int.from_bytes(os.urandom(10))
                self._head = _base32(now, 5) + _base32(chance >> 40, 4)
                self._at, self._low = now, chance & (1 << 39) - 1
            else:
                self._low += 1
            low, pairs = self._low, _PAIRS
            high, middle = low >> 30, low >> 20 & _TEN_BITS
            more = low >> 10 & _TEN_BITS
            return self._head + pairs[high] + pairs[middle] + pairs[more] + pairs[low & _TEN_BITS]


_message_ids: Final = _MessageIds()


def message_from(
    sender: Sender,
    draft: Draft,
    now: int,
    *,
    default_ttl_s: int,
    key_id: int | None = None,
    sender_number: int | None = None,
) -> Message:
    """``sender_number``：发送者的 id 若是一段字，他的号。"""
    ttl_s = draft.expires_in_s if draft.expires_in_s is not None else default_ttl_s
    return Message(
        message_id=_message_ids.new(now),
        message_type=draft.message_type,
        priority=draft.priority,
        title=draft.title,
        content=draft.content,
        sender=draft.sender or sender,
        timestamp=now,
        # 有效期从该送达的时刻算起：预约在明天的消息不应今晚就过期
        expires_at=max(now, draft.deliver_at or 0) + ttl_s * 1000,
        deliver_at=draft.deliver_at,
        data=draft.data,
        receipt=draft.receipt,
        key_id=key_id,
        sender_number=sender_number,
    )


#: 收得下的各种；热路上不必每条再造。
KINDS: Final = {
    (message_type, priority): MessageKind(message_type, priority)
    for message_type in get_args(MessageType)
    for priority in range(MIN_PRIORITY, MAX_PRIORITY + 1)
}


class AcceptTally:
    """一个进程收下了多少，按种类，只增；应用自己的事务里的、广播不在内。"""

    def __init__(self) -> None:
        self.messages: Counter[MessageKind] = Counter()
        self.recipients: Counter[MessageKind] = Counter()
        #: 到时之前撤回了的收件人。
        self.cancelled = 0
        #: 等投递赶上它的发送者，晚收了一点的请求。
        self.paced = 0

    def note(self, accepted: Iterable[Outgoing]) -> None:
        messages, recipients = self.messages, self.recipients
        for one in accepted:
            kind = KINDS[one.message.message_type, one.message.priority]
            messages[kind] += 1
            recipients[kind] += len(one.recipient_ids)


#: 一段几条；检查或成形约一两毫秒。
SLICE_DRAFTS: Final = 50


Item = TypeVar("Item")
Made = TypeVar("Made")


async def in_slices(work: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
    """逐个做，段与段之间让别人一次：一千条的一批不占住事件循环。"""
    made = [work(item) for item in items[:SLICE_DRAFTS]]
    for start in range(SLICE_DRAFTS, len(items), SLICE_DRAFTS):
        await asyncio.sleep(0)
        made += [work(item) for item in items[start : start + SLICE_DRAFTS]]
    return made
