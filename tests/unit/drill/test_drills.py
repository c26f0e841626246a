"""演练的清单：每条规则有演练，或说得出为什么没有；坏的用法在弄坏什么之前就拒绝。"""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console

from meeting_push.drill import DRILLS, WITHOUT
from meeting_push.drill.practice import Record, Step
from meeting_push.drill.runner import Given, run, table
from meeting_push.errors import ConfigurationError
from meeting_push.monitoring.alerts.rules import RULES
from tests.support.citations import DOCS

RUNBOOK = DOCS / "runbook"


def test_every_rule_has_a_drill_or_a_reason_why_not() -> None:
    practised = {drill.rule for drill in DRILLS.values()}
    assert practised | WITHOUT.keys() == RULES.keys()
    assert practised & WITHOUT.keys() == set()


@pytest.mark.parametrize("rule", RULES)
def test_the_page_of_a_rule_names_its_drills(rule: str) -> None:
    page = (RUNBOOK / f"{rule}.md").read_text()
    named = set(re.findall(r"meeting-push drill ([\w-]+)", page))
    assert named == {drill.name for drill in DRILLS.values() if drill.rule == rule}


async def refused(given: Given) -> str:
    with pytest.raises(ConfigurationError) as caught:
        await run(Console(file=StringIO()), given)
    return caught.value.message


async def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    assert "the nearest is redis-down" in await refused(Given("redis-dwn"))


@pytest.mark.parametrize("given", [Given(), Given("cpu", every=True)])
async def test_one_or_all_must_be_said(given: Given) -> None:
    assert "--all" in await refused(given)


async def test_a_given_system_is_not_broken_without_yes_really() -> None:
    said = await refused(Given("disconnects", url="http://there", token="t"))
    assert "--yes-really" in said


async def test_yes_really_needs_to_know_which_system() -> None:
    assert "--url" in await refused(Given("disconnects", really=True))


async def test_what_can_not_be_made_from_outside_is_refused_with_what_can() -> None:
    said = await refused(Given("node-kill", really=True, url="http://there", token="t"))
    assert "disconnects" in said
    assert "node-kill can not" in said


async def test_redis_down_there_needs_the_address_of_redis() -> None:
    given = Given("redis-down", really=True, url="http://there", token="t")
    assert "--redis-url" in await refused(given)


def test_a_step_that_was_not_seen_fails_the_drill_and_shows_in_the_table() -> None:
    drill = DRILLS["redis-down"]
    seen, missed = Step("fired", 30, 1.23), Step("notice", 10, None)
    record = Record(drill, [seen, missed], "not seen in time: notice")
    assert not record.passed
    *_, row = table([record])
    assert [cell.strip() for cell in row.split("|")][1:-1] == [
        *("`redis-down`", drill.does, "`redis_unavailable`"),
        *("1.2", "—", "—", "—", "—", "NO"),
    ]
