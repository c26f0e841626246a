"""信：真的 SMTP 会话；一个收件人被拒绝，别人照收，也说得出是谁。"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from meeting_push.errors import ChannelFailedError
from meeting_push.monitoring.notices.mail import Mail
from meeting_push.monitoring.notices.text import NoticeWriter
from tests.support.certificate import self_signed
from tests.support.notice_receivers import SmtpReceiver, smtp_receiver
from tests.support.notices import channel, notice


def mail(there: SmtpReceiver, to: str = "ops@example.org", timeout_s: float = 5.0) -> Mail:
    url = f"mailto://me:pass@127.0.0.1:{there.port}?to={to}&from=push@example.org"
    return Mail(channel(url), NoticeWriter(site="https://push.example"), timeout_s=timeout_s)


async def test_a_letter_is_delivered() -> None:
    async with smtp_receiver() as there:
        assert await mail(there, "ops@example.org,boss@example.org").send(notice()) == ()
    (letter,) = there.letters
    assert (letter.sender, letter.to) == (
        "push@example.org",
        ["ops@example.org", "boss@example.org"],
    )
    assert letter.message["Subject"] == "[meeting-push] 触发 firing: redis_slow"
    assert letter.message["Auto-Submitted"] == "auto-generated"
    assert "Redis 往返慢" in letter.text
    assert "https://push.example/ops" in letter.text
    assert base64.b64decode(there.login or "") == b"\0me\0pass"


async def test_one_refused_recipient_loses_none_of_the_others() -> None:
    async with smtp_receiver() as there:
        there.refuse = {"gone@example.org"}
        refused = await mail(there, "ops@example.org,gone@example.org,b@example.org").send(notice())
    assert refused == ("gone@example.org (550)",)
    assert [letter.to for letter in there.letters] == [["ops@example.org", "b@example.org"]]


async def test_when_everybody_is_refused_it_failed() -> None:
    async with smtp_receiver() as there:
        there.refuse = {"ops@example.org"}
        with pytest.raises(ChannelFailedError, match="550") as caught:
            await mail(there).send(notice())
    assert not caught.value.temporary


@pytest.mark.parametrize(("reply", "temporary"), [("451 later", True), ("554 spam", False)])
async def test_a_letter_that_is_not_taken_failed(reply: str, temporary: bool) -> None:
    async with smtp_receiver() as there:
        there.data_reply = reply
        with pytest.raises(ChannelFailedError, match=reply[:3]) as caught:
            await mail(there).send(notice())
    assert caught.value.temporary is temporary


async def test_a_server_that_hangs_is_left_in_time() -> None:
    async with smtp_receiver() as there:
        there.hang = True
        with pytest.raises(ChannelFailedError, match="SMTP"):
            await asyncio.wait_for(mail(there, timeout_s=0.1).send(notice()), 5)


async def test_nobody_there_is_a_failure() -> None:
    async with smtp_receiver() as there:
        pass
    with pytest.raises(ChannelFailedError, match="SMTP"):
        await mail(there).send(notice())


async def test_being_cancelled_does_not_wait_for_the_server() -> None:
    async with smtp_receiver() as there:
        there.hang = True
        sending = asyncio.create_task(mail(there, timeout_s=30).send(notice()))
        await asyncio.wait_for(there.connected.wait(), 5)
        sending.cancel()
        await asyncio.wait([sending], timeout=5)
        assert sending.cancelled()


async def test_mailtos_is_encrypted_before_the_password_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with smtp_receiver() as there:
        there.tls, trusted = self_signed(tmp_path)
        url = f"mailtos://me:pass@127.0.0.1:{there.port}?to=ops@example.org"
        sender = Mail(channel(url), NoticeWriter())
        with pytest.raises(ChannelFailedError, match="SSLCertVerificationError"):
            await sender.send(notice())
        assert there.login is None
        there.encrypted = False
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        await sender.send(notice())
    assert there.encrypted
    assert len(there.letters) == 1


async def test_mailtos_to_a_server_without_tls_fails_and_says_no_password() -> None:
    async with smtp_receiver() as there:
        url = f"mailtos://me:pass@127.0.0.1:{there.port}?to=ops@example.org"
        with pytest.raises(ChannelFailedError, match="SMTP"):
            await Mail(channel(url), NoticeWriter()).send(notice())
    assert there.login is None
