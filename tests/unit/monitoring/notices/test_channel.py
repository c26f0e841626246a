"""渠道安静的时段：跨过午夜，当地的钟，夏令时；攒着的在结束时说。"""

from __future__ import annotations

from datetime import datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meeting_push.monitoring.alerts.model import Severity
from meeting_push.monitoring.notices.channel import QuietHours

SHANGHAI = ZoneInfo("Asia/Shanghai")
NIGHT = QuietHours(time(22), time(7), SHANGHAI, Severity.CRITICAL)
NOON_HOURS = QuietHours(time(12), time(14), SHANGHAI, Severity.WARNING)


def at(hour: int, minute: int = 0, zone: ZoneInfo = SHANGHAI) -> int:
    return int(datetime(2026, 3, 10, hour, minute, tzinfo=zone).timestamp() * 1000)


@pytest.mark.parametrize(
    ("quiet", "hour", "held"),
    [
        (NIGHT, 21, False),
        (NIGHT, 22, True),
        (NIGHT, 0, True),
        (NIGHT, 6, True),
        (NIGHT, 7, False),
        (NOON_HOURS, 11, False),
        (NOON_HOURS, 12, True),
        (NOON_HOURS, 14, False),
    ],
)
def test_it_is_quiet_from_start_to_end(quiet: QuietHours, hour: int, held: bool) -> None:
    assert quiet.hold(Severity.INFO, at(hour)) is held


def test_what_is_grave_enough_is_told_at_night() -> None:
    assert not NIGHT.hold(Severity.CRITICAL, at(3))
    assert NIGHT.hold(Severity.WARNING, at(3))


@pytest.mark.parametrize(("hour", "hours"), [(22, 9), (0, 7), (6, 1), (7, 24), (8, 23)])
def test_it_says_how_long_until_the_end(hour: int, hours: int) -> None:
    assert NIGHT.left_s(at(hour)) == hours * 3600


def test_a_night_in_which_the_clocks_go_forward_is_an_hour_shorter() -> None:
    paris = ZoneInfo("Europe/Paris")
    quiet = QuietHours(time(22), time(7), paris, Severity.CRITICAL)
    start = int(datetime(2026, 3, 28, 22, tzinfo=paris).timestamp() * 1000)
    assert quiet.left_s(start) == 8 * 3600


@given(st.integers(0, 4_000_000_000_000), st.sampled_from(["Asia/Shanghai", "Europe/Paris"]))
def test_after_what_is_left_it_is_no_longer_quiet(now_ms: int, zone: str) -> None:
    quiet = QuietHours(time(22), time(7), ZoneInfo(zone), Severity.CRITICAL)
    if quiet.hold(Severity.INFO, now_ms):
        assert not quiet.hold(Severity.INFO, now_ms + int(quiet.left_s(now_ms) * 1000) + 1)
