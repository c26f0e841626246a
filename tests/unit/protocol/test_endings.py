"""一条连接怎样结束的：异常的是既不是 1000、1001，也不是我们有意的。"""

from __future__ import annotations

import pytest

from meeting_push.model import FailureCause
from meeting_push.protocol.codes import (
    CloseCode,
    Ending,
    cause_of_leaving,
    ended_by_peer,
    ended_by_us,
)


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


# ── 说明了他为什么收不到 ───────────────────────────────────────────────────────


@pytest.mark.parametrize("ending", [None, Ending.ABRUPT])
def test_who_vanished_has_lost_his_network(ending: Ending | None) -> None:
    assert cause_of_leaving(ending, None) is FailureCause.NETWORK


@pytest.mark.parametrize("ending", [Ending.NORMAL, Ending.GOING_AWAY])
def test_who_said_goodbye_tells_nothing(ending: Ending) -> None:
    assert cause_of_leaving(ending, CloseCode.NORMAL) is None


def test_a_client_that_failed_is_the_client() -> None:
    assert cause_of_leaving(Ending.ABNORMAL, CloseCode.NORMAL) is FailureCause.CLIENT


@pytest.mark.parametrize(
    ("codes", "cause"),
    [
        ({4003}, FailureCause.NETWORK),
        ({4004, 4500, 4501, 4502}, FailureCause.AUTHENTICATION),
        ({1002, 1007, 1009, 4001, 4005, 4504}, FailureCause.CLIENT),
        ({1000, 4000, 4006, 4007, 4503, 4505}, None),
    ],
)
def test_our_code_tells(codes: set[int], cause: FailureCause | None) -> None:
    found = {code for code in CloseCode if cause_of_leaving(ended_by_us(code), code) is cause}
    assert found == codes
