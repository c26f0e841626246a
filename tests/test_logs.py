"""SEC-2：不论哪个库、哪一级，写出去的每一行都没有令牌。"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from loguru import logger

from meeting_push.logs import configure_logging, redact
from meeting_push.settings import load_settings

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "text",
    [
        f"GET /ws/user/1/messages?token={TOKEN} HTTP/1.1",
        f"?ticket={TOKEN}&device_id=x",
        f"Sec-WebSocket-Protocol: meeting-push.v1, bearer.{TOKEN}",
        f"Authorization: Bearer {TOKEN}",
        f"loose {TOKEN} in a sentence",
        '?token=opaque-secret"',
        "password=opaque-secret",
        "BEARER opaque-secret",
    ],
)
def test_sec_2_a_token_is_redacted_wherever_it_stands(text: str) -> None:
    cleaned = redact(text)
    assert TOKEN not in cleaned
    assert "opaque-secret" not in cleaned


def test_what_is_not_secret_stays() -> None:
    assert redact("GET /api/v1/messages?cursor=01ABC took 3 ms") == (
        "GET /api/v1/messages?cursor=01ABC took 3 ms"
    )


@pytest.fixture(params=[False, True], ids=["text", "json"])
def configured(request: pytest.FixtureRequest) -> Iterator[None]:
    configure_logging(load_settings(log_json=request.param, log_level="DEBUG"))
    yield
    logger.remove()


@pytest.mark.usefixtures("configured")
def test_sec_2_neither_messages_nor_fields_nor_exceptions_leak(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger.bind(url=f"/x?token={TOKEN}").info("event")
    logging.getLogger("uvicorn.error").info("WebSocket /ws?token=%s [accepted]", TOKEN)
    try:
        raise ValueError(f"bad header: bearer {TOKEN}")
    except ValueError:
        logger.exception("failed")
    written = capsys.readouterr().err
    assert "event" in written
    assert "[accepted]" in written
    assert "bad header" in written
    assert TOKEN not in written
