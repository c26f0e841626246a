"""草稿的规矩：什么样的消息可以被接受。纯函数，出错即拒绝整条。"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, get_args

from ..errors import InvalidInputError, PayloadTooLargeError
from ..model import MAX_PRIORITY, MAX_USER_ID, MIN_PRIORITY, Draft, MessageType
from ..protocol.json_text import accepted_data
from ..settings import Settings

MESSAGE_TYPES: Final = frozenset(get_args(MessageType))
#: 重复的收件人只算一次，但列得再长就不去数了。
_MAX_REPEATS: Final = 4
#: 最远能排到一年后；也挡住会溢出 BIGINT 的时刻。
MAX_DELAY_MS: Final = 366 * 86_400_000


@dataclass(frozen=True, slots=True)
class DraftRules:
    """各项上限；``*_bytes`` 按 UTF-8 计。"""

    max_title_chars: int
    max_content_bytes: int
    max_data_bytes: int
    max_recipients: int
    max_ttl_s: int

    @classmethod
    def from_settings(cls, settings: Settings) -> DraftRules:
        return cls(
            settings.max_title_chars,
            settings.max_content_bytes,
            settings.max_data_bytes,
            settings.max_recipients,
            settings.message_ttl_s,
        )

    def check(self, draft: Draft, now: int) -> Draft:
        """返回收件人已去重（保持次序）的草稿。

        :raises PayloadTooLargeError: 正文、data 或收件人数目过大
        :raises InvalidInputError: 其它不合规之处，消息指出字段
        """
        if len(draft.recipient_ids) > self.max_recipients * _MAX_REPEATS:
            raise self._too_many()
        recipients = tuple(dict.fromkeys(draft.recipient_ids))
        self._check_recipients(recipients)
        checked = self.check_message(draft, now)
        if len(recipients) == len(draft.recipient_ids):
            return checked
        return replace(checked, recipient_ids=recipients)

    def check_message(self, draft: Draft, now: int) -> Draft:
        """同 ``check``，不看收件人（广播没有）；``data`` 换成规范的原文。"""
        self._check_text(draft)
        self._check_times(draft, now)
        if draft.message_type not in MESSAGE_TYPES:
            raise InvalidInputError("message_type: must be message, notification or system")
        if not MIN_PRIORITY <= draft.priority <= MAX_PRIORITY:
            raise InvalidInputError("priority: must be from 0 to 9")
        if draft.data is None:
            return draft
        return replace(draft, data=accepted_data(draft.data, self.max_data_bytes))

    def _check_recipients(self, recipients: tuple[int, ...]) -> None:
        if not recipients:
            raise InvalidInputError("recipient_ids: must not be empty")
        if len(recipients) > self.max_recipients:
            raise self._too_many()
        if min(recipients) < 1 or max(recipients) > MAX_USER_ID:
            raise InvalidInputError("recipient_ids: must be positive integers below 2^53")

    def _too_many(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(f"recipient_ids: more than {self.max_recipients} recipients")

    def _check_text(self, draft: Draft) -> None:
        if not draft.title.strip():
            raise InvalidInputError("title: must not be empty")
        if len(draft.title) > self.max_title_chars:
            raise InvalidInputError(f"title: longer than {self.max_title_chars} characters")
        for field, text in (("title", draft.title), ("content", draft.content)):
            check_text(field, text)
        if len(draft.content.encode()) > self.max_content_bytes:
            raise PayloadTooLargeError(f"content: larger than {self.max_content_bytes} bytes")

    def _check_times(self, draft: Draft, now: int) -> None:
        if draft.expires_in_s is not None and not 1 <= draft.expires_in_s <= self.max_ttl_s:
            raise InvalidInputError(f"expires_in_s: must be from 1 to {self.max_ttl_s}")
        if draft.deliver_at is not None and not 0 <= draft.deliver_at <= now + MAX_DELAY_MS:
            raise InvalidInputError("deliver_at: must be milliseconds at most one year ahead")


def check_text(field: str, text: str) -> None:
    """孤立代理项编不成 UTF-8，NUL 存不进 PostgreSQL。"""
    if "\x00" in text:
        raise InvalidInputError(f"{field}: must not contain NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(f"{field}: is not valid Unicode") from None
