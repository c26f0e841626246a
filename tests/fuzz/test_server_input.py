"""真实的服务器、两种 edge：任何 case 之后，它活着、没有回溯、没有留下 socket 与任务。"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from meeting_push_bench.fuzz.cases import run_case
from meeting_push_bench.fuzz.plan import QUICK, SETTINGS
from meeting_push_bench.fuzz.run import fuzz_edge
from meeting_push_bench.progress import Steps
from meeting_push_bench.server_under_test import EDGES, ServerUnderTest, own_server

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module", params=EDGES)
def server(request: pytest.FixtureRequest) -> Iterator[ServerUnderTest]:
    with own_server(request.param, **SETTINGS) as process:
        yield process


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32), number=st.integers(0, 2**32))
def test_a_case_ends_as_promised(server: ServerUnderTest, seed: int, number: int) -> None:
    asyncio.run(run_case(server.target, seed, number))


def test_floods_hurt_neither_the_server_nor_the_witness(server: ServerUnderTest) -> None:
    steps = Steps(Console(quiet=True))
    assert fuzz_edge("", server, QUICK, steps).findings == []
