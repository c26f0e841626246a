"""一分钟一行：谁来写、写几遍、不知道的、SQL 不在、钟跳了；老了的合起来，太老的没有了。"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import pytest

from meeting_push.errors import DatabaseUnavailableError, InvalidInputError, UnavailableError
from meeting_push.monitoring.alerts.evaluation import History, Reading
from meeting_push.monitoring.figures import FIGURES, Seen, watched
from meeting_push.monitoring.latency import LatencyHistogram
from meeting_push.monitoring.report import Figures, NodeReport
from meeting_push.monitoring.rollup import (
    COARSE_S,
    DAY_MS,
    FINE_S,
    MAX_POINTS,
    MAX_WAITING,
    HistoryReader,
    MinuteRoll,
    StatsHistory,
)
from meeting_push.storage.database import Database
from meeting_push.storage.stats_history import HistoryRow, StatsHistoryRepository
from tests.support.postgres_server import PostgresServer
from tests.support.proxy_thread import ProxyThread, proxy_thread

#: 整分钟，也是整十分钟。
NOW: Final = 1_800_000_000_000
MINUTE: Final = 60_000


@dataclass
class Fleet:
    """大家的数；钟由测试拨，单调的另走。"""

    now: int = NOW
    at: float = 0.0
    whole: bool = True
    leads: bool = True
    gauges: list[Figures] = field(default_factory=lambda: [{}])
    totals: list[Figures] = field(default_factory=lambda: [{}])
    latency: list[dict[str, LatencyHistogram]] = field(default_factory=lambda: [{}])

    def __post_init__(self) -> None:
        self.history = History(watched(FIGURES.values()))

    def seen(self) -> Seen:
        reports = [
            NodeReport(
                node_id=f"node-{number}",
                role="all",
                version="0",
                started_at=0,
                reported_at=self.now,
                gauges=gauges,
                totals=totals,
                per_s={},
                latency=latency,
            )
            for number, (gauges, totals, latency) in enumerate(
                zip(self.gauges, self.totals, self.latency, strict=True)
            )
        ]
        readings = {one.node_id: Reading(one.gauges, one.totals) for one in reports}
        self.history.take(self.at, readings, partial=not self.whole)
        return Seen(reports, self.history, self.at, self.whole, [] if self.leads else None)

    def later(self, seconds: float) -> None:
        self.now += int(seconds * 1_000)
        self.at += seconds

    async def agreed(self) -> int:
        return self.now


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def row_of(fleet: Fleet, roll: MinuteRoll) -> HistoryRow:
    """到下一分钟头上的一行。"""
    fleet.later(60)
    row = roll.saw(fleet.seen(), fleet.now)
    assert row is not None
    return row


def test_a_counter_becomes_a_rate_of_the_whole_fleet(fleet: Fleet) -> None:
    roll = MinuteRoll(FIGURES)
    fleet.gauges, fleet.latency = [{}, {}], [{}, {}]
    fleet.totals = [{"frames_pushed": {"": 100.0}}, {"frames_pushed": {"": 50.0}}]
    assert roll.saw(fleet.seen(), fleet.now) is None
    fleet.totals = [{"frames_pushed": {"": 220.0}}, {"frames_pushed": {"": 110.0}}]
    row = row_of(fleet, roll)
    assert (row.step_s, row.at) == (FINE_S, NOW)
    assert row.figures["pushed_per_s"] == 3
    assert row.figures["nodes"] == 2


def test_a_gauge_is_the_mean_of_its_minute_and_a_ceiling_its_largest(fleet: Fleet) -> None:
    roll = MinuteRoll(FIGURES)
    for sockets, lag_s in ((10.0, 0.5), (20.0, 0.25)):
        fleet.gauges = [
            {"sockets": {"": sockets}, "event_loop_lag_max_seconds": {"": lag_s}},
        ]
        roll.saw(fleet.seen(), fleet.now)
        fleet.later(5)
    row = row_of(fleet, roll)
    assert (row.figures["sockets"], row.figures["loop_lag_ms"]) == (15, 500)


def test_the_queues_are_added_and_not_once_for_each_process_that_sees_them(fleet: Fleet) -> None:
    roll = MinuteRoll(FIGURES)
    lengths = {"message_delivery_queue": 7.0, "bulk_message_queue": 2.0, "dead_letter_queue": 9.0}
    fleet.gauges = [{"queue_length": lengths}, {"queue_length": lengths}]
    fleet.totals, fleet.latency = [{}, {}], [{}, {}]
    roll.saw(fleet.seen(), fleet.now)
    assert row_of(fleet, roll).figures["queue_length"] == 9


def test_percentiles_are_of_the_merged_histograms(fleet: Fleet) -> None:
    roll = MinuteRoll(FIGURES)
    fast, slow = LatencyHistogram(), LatencyHistogram()
    for _ in range(98):
        fast.record(4)
    for _ in range(2):
        slow.record(100)
    fleet.gauges, fleet.totals = [{}, {}], [{}, {}]
    fleet.latency = [{"push": fast}, {"push": slow}]
    roll.saw(fleet.seen(), fleet.now)
    figures = row_of(fleet, roll).figures
    assert [figures[f"push_p{percent}_ms"] for percent in (50, 95, 99)] == [4, 4, 100]
    assert "ack_p95_ms" not in figures


def test_nothing_of_nothing_is_not_a_ratio(fleet: Fleet) -> None:
    roll = MinuteRoll(FIGURES)
    totals = {"abnormal_disconnects": {"": 0.0}, "disconnects": {"1000": 5.0}}
    fleet.totals = [totals]
    roll.saw(fleet.seen(), fleet.now)
    figures = row_of(fleet, roll).figures
    assert "abnormal_closes_ratio" not in figures
    assert figures["closes_per_s"] == 0


def test_the_round_trip_to_what_is_away_is_not_known(fleet: Fleet) -> None:
    roll = MinuteRoll(FIGURES)
    fleet.gauges = [{"redis_up": {"": 0.0}, "redis_last_round_trip_seconds": {"": 0.002}}]
    roll.saw(fleet.seen(), fleet.now)
    assert "redis_round_trip_ms" not in row_of(fleet, roll).figures


def test_with_the_others_out_of_sight_the_fleet_is_not_known(fleet: Fleet) -> None:
    """Redis 不在：不能把自己的当作大家的；看得见了，速率按隔了多久算。"""
    roll = MinuteRoll(FIGURES)
    fleet.gauges = [{"sockets": {"": 5.0}}] * 2
    fleet.totals, fleet.latency = [{"acks": {"": 0.0}}] * 2, [{}] * 2
    roll.saw(fleet.seen(), fleet.now)
    assert row_of(fleet, roll).figures["sockets"] == 10
    fleet.whole = False
    fleet.gauges, fleet.totals, fleet.latency = (
        [{"sockets": {"": 5.0}}],
        [{"acks": {"": 0.0}}],
        [{}],
    )
    roll.saw(fleet.seen(), fleet.now)
    row_of(fleet, roll)
    assert row_of(fleet, roll).figures == {}
    fleet.whole = True
    fleet.gauges, fleet.latency = [{"sockets": {"": 5.0}}] * 2, [{}] * 2
    fleet.totals = [{"acks": {"": 180.0}}] * 2
    assert row_of(fleet, roll).figures["acked_per_s"] == 2


def test_alone_it_is_the_fleet_also_without_redis(fleet: Fleet) -> None:
    roll = MinuteRoll(FIGURES)
    fleet.gauges = [{"sockets": {"": 5.0}}]
    roll.saw(fleet.seen(), fleet.now)
    fleet.whole = False
    row_of(fleet, roll)
    assert row_of(fleet, roll).figures["sockets"] == 5


# ── SQL ─────────────────────────────────────────────────────────────────────


def writer(fleet: Fleet, database: Database) -> StatsHistory:
    records = StatsHistoryRepository(database)
    return StatsHistory(records, clock=lambda: fleet.now, agreed=fleet.agreed)


async def minutes(writer: StatsHistory, fleet: Fleet, count: int) -> None:
    for _ in range(count):
        fleet.later(60)
        writer.saw(fleet.seen())


async def kept(database: Database, step_s: int = FINE_S) -> Sequence[HistoryRow]:
    return await StatsHistoryRepository(database).between(step_s, 0, 2 * NOW)


async def test_a_minute_is_written_once_whoever_leads(database: Database, fleet: Fleet) -> None:
    first, second = (writer(fleet, database) for _ in range(2))
    for one in (first, second):
        one.saw(fleet.seen())
    fleet.later(60)
    for one in (first, second):
        one.saw(fleet.seen())
        await one.step()
    assert [row.at for row in await kept(database)] == [NOW]


async def test_who_does_not_lead_writes_nothing(database: Database, fleet: Fleet) -> None:
    one = writer(fleet, database)
    fleet.leads = False
    one.saw(fleet.seen())
    await minutes(one, fleet, 2)
    await one.step()
    assert await kept(database) == []


async def test_a_successor_writes_the_minute_it_watched(database: Database, fleet: Fleet) -> None:
    one = writer(fleet, database)
    fleet.leads = False
    for sockets in (10.0, 20.0):
        fleet.gauges = [{"sockets": {"": sockets}}]
        one.saw(fleet.seen())
        fleet.later(20)
    fleet.leads = True
    fleet.later(20)
    one.saw(fleet.seen())
    await one.step()
    (row,) = await kept(database)
    assert row.figures["sockets"] == 15


async def test_a_clock_that_goes_back_does_not_write_over_what_was(
    database: Database, fleet: Fleet
) -> None:
    one = writer(fleet, database)
    fleet.gauges = [{"sockets": {"": 1.0}}]
    one.saw(fleet.seen())
    await minutes(one, fleet, 2)
    await one.step()
    before = await kept(database)
    fleet.now = NOW
    fleet.gauges = [{"sockets": {"": 2.0}}]
    await minutes(one, fleet, 3)
    await one.step()
    after = await kept(database)
    assert after[:2] == before
    assert [row.at for row in after] == sorted({row.at for row in after})


@pytest.fixture
def sql_line(postgres_server: PostgresServer) -> Iterator[ProxyThread]:
    with proxy_thread(f"{postgres_server.directory}/.s.PGSQL.5432") as line:
        yield line


@pytest.fixture
async def far_database(sql_line: ProxyThread, postgres_url: str) -> AsyncIterator[Database]:
    name = urlsplit(postgres_url).path
    database = Database(f"postgresql://postgres@127.0.0.1:{sql_line.port}{name}?ssl=disable", 2)
    yield database
    await database.dispose()


async def test_without_sql_the_minutes_wait_and_follow(
    far_database: Database, sql_line: ProxyThread, fleet: Fleet
) -> None:
    one = writer(fleet, far_database)
    one.saw(fleet.seen())
    sql_line.refuse()
    await minutes(one, fleet, 70)
    with pytest.raises(DatabaseUnavailableError):
        await one.step()
    sql_line.release()
    await one.step()
    assert len(await kept(far_database)) == 70


async def test_what_waits_is_bounded_and_what_is_lost_is_counted(
    database: Database, fleet: Fleet
) -> None:
    one = writer(fleet, database)
    one.saw(fleet.seen())
    await minutes(one, fleet, MAX_WAITING + 3)
    await one.step()
    assert len(await kept(database)) == MAX_WAITING
    counts = {sample.name: sample.value for sample in one.samples()}
    assert counts["stats_history_rows_dropped"] == 3
    assert counts["stats_history_rows_written"] == MAX_WAITING


async def fill(database: Database, start: int, count: int, step_s: int = FINE_S) -> None:
    rows = [
        HistoryRow(
            step_s, start + number * step_s * 1_000, {"sockets": number, "push_p99_ms": number}
        )
        for number in range(count)
    ]
    await StatsHistoryRepository(database).keep(rows)


async def tidied(database: Database, fleet: Fleet) -> None:
    one = writer(fleet, database)
    one.saw(fleet.seen())
    await one.step()


async def test_after_two_days_ten_minutes_are_one_row(database: Database, fleet: Fleet) -> None:
    old = NOW - 2 * DAY_MS - 10 * MINUTE
    await fill(database, old, 12)
    await tidied(database, fleet)
    (coarse,) = await kept(database, COARSE_S)
    assert (coarse.at, coarse.figures) == (old, {"sockets": 4.5, "push_p99_ms": 9})
    assert [row.at for row in await kept(database)] == [old + 10 * MINUTE, old + 11 * MINUTE]


async def test_tidying_goes_by_small_steps(database: Database, fleet: Fleet) -> None:
    await fill(database, NOW - 3 * DAY_MS, 200)
    await tidied(database, fleet)
    assert len(await kept(database, COARSE_S)) == 6
    await tidied(database, fleet)
    assert len(await kept(database, COARSE_S)) == 12


async def test_after_thirty_days_nothing_is_left(database: Database, fleet: Fleet) -> None:
    await fill(database, NOW - 30 * DAY_MS - 20 * MINUTE, 3, COARSE_S)
    await fill(database, NOW + 2 * DAY_MS, 1)  # 钟错过的时候记的
    await tidied(database, fleet)
    assert [row.at for row in await kept(database, COARSE_S)] == [NOW - 30 * DAY_MS]
    assert await kept(database) == []


async def test_nothing_is_removed_while_nobody_knows_the_time(
    database: Database, fleet: Fleet
) -> None:
    await fill(database, NOW - 40 * DAY_MS, 3, COARSE_S)

    async def unknown() -> int:
        raise UnavailableError("the clocks disagree")

    records = StatsHistoryRepository(database)
    one = StatsHistory(records, clock=lambda: fleet.now, agreed=unknown)
    one.saw(fleet.seen())
    await one.step()
    assert len(await kept(database, COARSE_S)) == 3


# ── 读 ──────────────────────────────────────────────────────────────────────


def reader(database: Database) -> HistoryReader:
    return HistoryReader(StatsHistoryRepository(database), lambda: NOW)


async def test_a_hole_is_null(database: Database) -> None:
    await fill(database, NOW - 5 * MINUTE, 2)
    found = await reader(database).read(["sockets", "nodes"], NOW - 5 * MINUTE)
    assert found.step_s == FINE_S
    assert found.at == [NOW - left * MINUTE for left in (5, 4, 3, 2, 1)]
    assert found.figures == {"sockets": [0, 1, None, None, None], "nodes": [None] * 5}


async def test_without_names_it_is_all_of_them_for_an_hour(database: Database) -> None:
    found = await reader(database).read([])
    assert found.figures.keys() == FIGURES.keys()
    assert len(found.at) == 60


@pytest.mark.parametrize(
    ("days", "step_s"), [(1, 60), (2, 120), (3, 600), (30, 1_800), (90, 1_800)]
)
async def test_however_long_it_is_few_points(database: Database, days: int, step_s: int) -> None:
    found = await reader(database).read(["sockets"], NOW - days * DAY_MS, NOW)
    assert found.step_s == step_s
    assert len(found.at) <= MAX_POINTS


async def test_fine_and_coarse_rows_meet_in_one_curve(database: Database) -> None:
    await fill(database, NOW - 3 * DAY_MS, 1, COARSE_S)
    await fill(database, NOW - 10 * MINUTE, 10)
    found = await reader(database).read(["sockets", "push_p99_ms"], NOW - 3 * DAY_MS)
    assert (found.figures["sockets"][0], found.figures["sockets"][-1]) == (0, 4.5)
    assert found.figures["push_p99_ms"][-1] == 9


@pytest.mark.parametrize(
    ("names", "since", "until"),
    [(["nonsense"], None, None), ([], NOW, NOW - 1), ([], NOW + DAY_MS, None)],
)
async def test_nonsense_is_refused(
    sqlite_url: str, names: list[str], since: int | None, until: int | None
) -> None:
    database = Database(sqlite_url)
    try:
        with pytest.raises(InvalidInputError):
            await reader(database).read(names, since, until)
    finally:
        await database.dispose()
