"""一条连接怎样结束的：异常的是既不是 1000、1001，也不是我们有意的。"""

from __future__ import annotations

import pytest

from meeting_push.protocol.codes import CloseCode, Ending, ended_by_peer, ended_by_us


@pytest.mark.parametrize(
    ("code", "ending", "abnormal"),
    [
        (None, Ending.NORMAL, False),
        (1000, Ending.NORMAL, False),
        (1001, Ending.GOING_AWAY, False),
        (1005, Ending.NORMAL, False),
        (1006, Ending.ABRUPT, True),
        (1011, Ending.ABNORMAL, True),
        (3000, Ending.ABNORMAL, True),
    ],
)
def test_the_peer_goes(code: int | None, ending: Ending, abnormal: bool) -> None:
    assert ended_by_peer(code) is ending
    assert ending.is_abnormal is abnormal


@pytest.mark.parametrize("code", CloseCode)
def test_we_close(code: CloseCode) -> None:
    on_purpose = code in {1000, 4000, 4004} or code >= 4500
    assert ended_by_us(code).is_abnormal is not on_purpose


def test_a_heartbeat_that_did_not_come_is_named() -> None:
    assert ended_by_us(CloseCode.HEARTBEAT_TIMEOUT) is Ending.HEARTBEAT_TIMEOUT
