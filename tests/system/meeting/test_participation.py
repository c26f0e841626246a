"""A17：列出别人的 id 问不出名字，被列进来的人走得了。"""

from __future__ import annotations

from tests.support.house import House
from tests.support.meetings import attend, end, hold, live, recorder
from tests.support.people import Person, api_of
from tests.support.server_process import ServerProcess


async def leave(server: ServerProcess, who: Person, meeting_id: str, user_id: int) -> int:
    async with api_of(server.base_url, who) as api:
        answer = await api.delete(f"/meetings/{meeting_id}/participants/{user_id}")
    return answer.status_code


async def look(server: ServerProcess, who: Person, meeting_id: str) -> dict[int, str] | None:
    """参与者的名字；看不见这场会议则 None。"""
    async with api_of(server.base_url, who) as api:
        answer = await api.get(f"/meetings/{meeting_id}")
    if answer.status_code == 404:
        return None
    return {one["user_id"]: one["name"] for one in answer.json()["participants"]}


async def test_a17_listing_ids_tells_no_names(house: House, alice: Person, bob: Person) -> None:
    """A17: neither when the meeting is made nor by inviting."""
    meeting_id = await hold(house.near, alice, bob)
    assert await look(house.near, alice, meeting_id) == {alice.user_id: "alice", bob.user_id: ""}


async def test_a17_a_name_is_known_when_its_owner_came_in(
    house: House, alice: Person, bob: Person
) -> None:
    """A17: he shows himself."""
    meeting_id = await hold(house.near, alice, bob)
    async with live(house.near, alice, meeting_id) as a, attend(house.far, bob, meeting_id) as b:
        assert (await a.read_type("join"))["name"] == "bob"
        assert {p["name"] for p in b.welcome["participants"]} == {"alice", "bob"}
    assert await look(house.near, alice, meeting_id) == {alice.user_id: "alice", bob.user_id: "bob"}


async def test_a17_whoever_was_put_in_can_leave(house: House, alice: Person, bob: Person) -> None:
    """A17: the meeting is gone for him, on every node, and its end tells him nothing."""
    meeting_id = await hold(house.near, alice, bob)
    async with live(house.far, bob, meeting_id) as b:
        assert await leave(house.near, bob, meeting_id, bob.user_id) == 204
        assert await b.closed() == 4501
    assert await look(house.near, bob, meeting_id) is None
    assert await look(house.near, alice, meeting_id) == {alice.user_id: "alice"}
    await end(house.near, alice, meeting_id)
    async with api_of(house.near.base_url, bob) as api:
        items = (await api.get("/messages", params={"limit": 200})).json()["items"]
    assert meeting_id not in [(item["data"] or {}).get("meeting_id") for item in items]


async def test_a17_one_can_leave_a_meeting_that_is_over(
    house: House, alice: Person, bob: Person
) -> None:
    """A17: out of his list."""
    meeting_id = await hold(house.near, alice, bob)
    await end(house.near, alice, meeting_id)
    assert await leave(house.near, bob, meeting_id, bob.user_id) == 204
    assert await look(house.near, bob, meeting_id) is None


async def test_a17_the_organizer_may_show_somebody_out_and_nobody_else_may(
    house: House, alice: Person, bob: Person, carol: Person
) -> None:
    """A17: a participant can not remove another, nobody removes the organizer."""
    meeting_id = await hold(house.near, alice, bob, carol)
    assert await leave(house.near, bob, meeting_id, carol.user_id) == 403
    assert await leave(house.near, bob, meeting_id, alice.user_id) == 403
    assert await leave(house.near, alice, meeting_id, alice.user_id) == 403
    assert await leave(house.near, alice, meeting_id, carol.user_id) == 204
    assert await leave(house.near, carol, meeting_id, carol.user_id) == 404


async def test_the_recogniser_stays_when_somebody_leaves(
    house: House, alice: Person, bob: Person
) -> None:
    meeting_id = await hold(house.near, alice, bob)
    async with live(house.near, recorder(), meeting_id) as machine:
        assert await leave(house.near, bob, meeting_id, bob.user_id) == 204
        await machine.say("还在")
        assert (await machine.segments(1))[0]["text"] == "还在"
