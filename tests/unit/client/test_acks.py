"""确认的账：服务器认下才算。"""

from __future__ import annotations

from meeting_push.client.ledger import AckQueue


def taken(queue: AckQueue) -> tuple[int, list[str]]:
    batch = queue.take()
    assert batch is not None
    return batch


def test_a_batch_has_at_most_a_thousand_ids() -> None:
    queue = AckQueue(str(n) for n in range(1_500))
    assert [len(taken(queue)[1]), len(taken(queue)[1])] == [1_000, 500]
    assert queue.take() is None


def test_what_the_server_did_not_confirm_comes_first_on_the_next_connection() -> None:
    queue = AckQueue()
    queue.add("a")
    confirmed, _ = taken(queue)
    queue.add("b")
    taken(queue)
    queue.add("c")
    queue.confirmed(confirmed)
    queue.reopen()
    assert taken(queue)[1] == ["b", "c"]


def test_an_id_waiting_twice_is_sent_once() -> None:
    queue = AckQueue()
    queue.add("a")
    queue.add("a")
    assert taken(queue)[1] == ["a"]


def test_a_server_that_never_answers_costs_bounded_memory() -> None:
    queue = AckQueue()
    for number in range(1_000):
        queue.add(str(number))
        queue.take()
    assert len(queue.unconfirmed()) == 256
