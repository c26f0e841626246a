"""草稿的规矩：什么样的消息可以被接受。纯函数，出错即拒绝整条。"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, get_args

import msgspec

from ..errors import InvalidInputError, PayloadTooLargeError
from ..model import MAX_PRIORITY, MIN_PRIORITY, Draft, MessageType
from ..settings import Settings

MESSAGE_TYPES: Final = frozenset(get_args(MessageType))
MAX_USER_ID: Final = 2**63 - 1
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
        recipients = tuple(dict.fromkeys(draft.recipient_ids))
        self._check_recipients(recipients)
        self.check_message(draft, now)
        return replace(draft, recipient_ids=recipients)

    def check_message(self, draft: Draft, now: int) -> None:
        """同 ``check``，不看收件人（广播没有）。"""
        self._check_text(draft)
        self._check_data(draft)
        self._check_times(draft, now)
        if draft.message_type not in MESSAGE_TYPES:
            raise InvalidInputError("message_type: must be message, notification or system")
        if not MIN_PRIORITY <= draft.priority <= MAX_PRIORITY:
            raise InvalidInputError("priority: must be from 0 to 9")

    def _check_recipients(self, recipients: tuple[int, ...]) -> None:
        if not recipients:
            raise InvalidInputError("recipient_ids: must not be empty")
        if len(recipients) > self.max_recipients:
            raise PayloadTooLargeError(f"recipient_ids: more than {self.max_recipients} recipients")
        if not all(1 <= user_id <= MAX_USER_ID for user_id in recipients):
            raise InvalidInputError("recipient_ids: must be positive integers below 2^63")

    def _check_text(self, draft: Draft) -> None:
        if not draft.title.strip():
            raise InvalidInputError("title: must not be empty")
        if len(draft.title) > self.max_title_chars:
            raise InvalidInputError(f"title: longer than {self.max_title_chars} characters")
        for field, text in (("title", draft.title), ("content", draft.content)):
            check_text(field, text)
        if len(draft.content.encode()) > self.max_content_bytes:
            raise PayloadTooLargeError(f"content: larger than {self.max_content_bytes} bytes")

    def _check_data(self, draft: Draft) -> None:
        if draft.data is None:
            return
        try:
            encoded = msgspec.json.encode(draft.data)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
            raise InvalidInputError("data: can not be encoded as JSON") from None
        if len(encoded) > self.max_data_bytes:
            raise PayloadTooLargeError(f"data: larger than {self.max_data_bytes} bytes")
        if b"\\u0000" in encoded:
            raise InvalidInputError("data: must not contain NUL")

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
