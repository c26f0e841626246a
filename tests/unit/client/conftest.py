"""SDK 测试的共用件。"""

from __future__ import annotations

import pytest

from meeting_push.client import ClientOptions
from tests.support.sdk import QUICK, unsigned_jwt


@pytest.fixture
def token() -> str:
    return unsigned_jwt(sub="1")


@pytest.fixture
def options() -> ClientOptions:
    return QUICK
