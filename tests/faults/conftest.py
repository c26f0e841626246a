"""故障演练共用的：一个模块一支舰队。"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .fleet import Fleet, running_fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """api、两个网关、工人；每个测试离开之前把弄坏的修好（``with fleet.mended()``）。"""
    try:
        with running_fleet(tmp_path_factory.mktemp("fleet")) as running:
            yield running
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
