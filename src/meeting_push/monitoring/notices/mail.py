"""``mailto://``、``mailtos://``：一封信，一次真的 SMTP 会话。

用标准库的 smtplib（放在线程里），不用 Apprise 的：它给每个收件人各发一封，只说成或不成，
几个收件人里被拒绝了一个就不知道是谁，重试会让别人再收一遍。

``//用户:密码@服务器[:端口]?to=a@x,b@y``；另有 ``from``（发件人）、``smtp``（服务器不是 ``@`` 后面
的那个域时）。
``mailtos`` 先 STARTTLS（587），端口 465 则一开始就是 TLS；``mailto`` 是明文（25），密码也是。
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import smtplib
import socket
from email.message import EmailMessage
from email.utils import format_datetime, localtime
from ssl import create_default_context
from typing import Final

from ...errors import ChannelFailedError, ConfigurationError
from ..alerts.model import Notice
from .channel import TIMEOUT_S, Address, Channel
from .text import NoticeWriter

_MAILBOX: Final = re.compile(r"[^@\s,<>\"]+@[^@\s,<>\"]+\Z", re.ASCII)
_KNOWN: Final = frozenset({"to", "from", "smtp"})
_TLS_PORT: Final = 465
_BODY_BYTES: Final = 200_000
#: 整次会话的上限；``TIMEOUT_S`` 是其中每一步的。
_WHOLE: Final = 3


class Mail:
    def __init__(
        self, channel: Channel, writer: NoticeWriter, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        address = channel.address
        for name in sorted(address.names - _KNOWN):
            raise ConfigurationError(f"{address}: unknown parameter {name!r}")
        self._to = _mailboxes(address)
        self._from = _sender(address)
        self._address = address
        self._language = channel.language
        self._writer = writer
        self._timeout_s = timeout_s

    async def send(self, notice: Notice) -> tuple[str, ...]:
        talk = _Talk(self._address, self._timeout_s)
        letter = self._letter(notice)
        try:
            async with asyncio.timeout(self._timeout_s * _WHOLE):
                refused = await asyncio.to_thread(talk.deliver, letter, self._from, self._to)
        except TimeoutError:
            raise ChannelFailedError("SMTP: no answer in time") from None
        except smtplib.SMTPRecipientsRefused as error:
            code, _ = next(iter(error.recipients.values()))
            raise ChannelFailedError(
                f"SMTP {code}: every recipient refused", temporary=code < 500
            ) from None
        except smtplib.SMTPResponseException as error:
            said = self._address.scrub(_text(error.smtp_error))
            raise ChannelFailedError(
                f"SMTP {error.smtp_code}: {said}", temporary=error.smtp_code < 500
            ) from None
        except (OSError, smtplib.SMTPException) as error:
            raise ChannelFailedError(f"SMTP: {type(error).__name__}") from None
        finally:
            talk.abort()  # 被取消了，线程也不再等
        return tuple(f"{box} ({code})" for box, (code, _) in refused.items())

    def _letter(self, notice: Notice) -> EmailMessage:
        letter = EmailMessage()
        letter["Subject"] = "[meeting-push] " + self._writer.title(notice, self._language)
        letter["From"] = self._from
        letter["To"] = ", ".join(self._to)
        letter["Date"] = format_datetime(localtime())
        letter["Message-ID"] = f"<{notice.notice_id}@meeting-push>"  # 重试的是同一封
        letter["Auto-Submitted"] = "auto-generated"
        letter.set_content(self._writer.plain(notice, self._language, _BODY_BYTES))
        return letter


class _Talk:
    """一次会话，在线程里；``abort`` 让线程醒来。"""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._smtp: smtplib.SMTP | None = None
        self._aborted = False

    def deliver(
        self, letter: EmailMessage, sender: str, to: tuple[str, ...]
    ) -> dict[str, tuple[int, bytes]]:
        """返回被拒绝的收件人；全被拒绝则抛出。"""
        try:
            with self._open() as smtp:
                if self._address.password:
                    smtp.login(self._address.user, self._address.password)
                return smtp.send_message(letter, sender, to)
        finally:
            if self._smtp is not None:
                self._smtp.close()  # 连上了而 TLS 没有谈成的

    def _open(self) -> smtplib.SMTP:
        host = self._address.get("smtp") or self._address.host
        if self._address.scheme == "mailto":
            return self._kept(smtplib.SMTP(timeout=self._timeout_s), host, 25)
        if self._address.port == _TLS_PORT:
            context = create_default_context()
            implicit = smtplib.SMTP_SSL(timeout=self._timeout_s, context=context)
            return self._kept(implicit, host, _TLS_PORT)
        smtp = self._kept(smtplib.SMTP(timeout=self._timeout_s), host, 587)
        smtp.starttls(context=create_default_context())
        return smtp

    def _kept(self, smtp: smtplib.SMTP, host: str, port: int) -> smtplib.SMTP:
        self._smtp = smtp
        # 证书按 _host 查：smtplib 只在构造函数里记它
        smtp._host = host  # type: ignore[attr-defined]
        smtp.connect(host, self._address.port or port)
        if self._aborted:
            smtp.close()
        return smtp

    def abort(self) -> None:
        self._aborted = True
        if self._smtp is not None and self._smtp.sock is not None:
            with contextlib.suppress(OSError):
                self._smtp.sock.shutdown(socket.SHUT_RDWR)


def _mailboxes(address: Address) -> tuple[str, ...]:
    boxes = tuple(address.items("to"))
    if not address.host:
        raise ConfigurationError(f"{address}: has no server")
    if not boxes:
        raise ConfigurationError(f"{address}: has no to=")
    for box in boxes:
        if _MAILBOX.match(box) is None:
            raise ConfigurationError(f"{address}: to= {box!r} is no mail address")
    return boxes


def _sender(address: Address) -> str:
    user = address.user or "meeting-push"
    sender = address.get("from") or (user if "@" in user else f"{user}@{address.host}")
    if _MAILBOX.match(sender) is None:
        raise ConfigurationError(f"{address}: from= is no mail address")
    return sender


def _text(said: bytes | str) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said
