"""新来的人照着文档走的路，走在两个 Python 上：跑测试的这一个，与 3.13。"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.empty_environment import Environment, LockedEnvironment, interpreter

LOCK = Path(__file__).parents[3] / "requirements" / "runtime.txt"


@pytest.fixture(scope="session")
def on_3_13(product: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    python = interpreter("3.13")
    if python is None:
        pytest.skip("no Python 3.13")
    return LockedEnvironment(tmp_path_factory.mktemp("on-3-13"), python, LOCK, [product])


@pytest.fixture
def newcomer(request: pytest.FixtureRequest) -> Environment:
    """``full`` 或 ``on_3_13``。"""
    environment: Environment = request.getfixturevalue(request.param)
    return environment
