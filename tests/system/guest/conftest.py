"""照抄文档的测试用的：造好的轮子，装着它的空环境。"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.support.empty_environment import EmptyEnvironment, build_wheel

ROOT: Final = Path(__file__).parents[3]


@pytest.fixture(scope="package")
def full(tmp_path_factory: pytest.TempPathFactory) -> EmptyEnvironment:
    product = build_wheel(ROOT, tmp_path_factory.mktemp("product"))
    return EmptyEnvironment(tmp_path_factory.mktemp("full"), "meeting-push[server]", [product])
