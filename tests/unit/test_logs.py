"""SEC-2：不论哪个库、哪一级，写出去的每一行都没有令牌。"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import pytest
from _pytest.logging import LogCaptureHandler
from loguru import logger

from meeting_push.logs import RepeatedWarning, configure_logging, redact
from meeting_push.settings import load_settings
from tests.support.eventually import eventually

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


@pytest.fixture(autouse=True)
def our_logging_ends_with_the_test() -> Iterator[None]:
    """别的测试的标准库日志（测试里的服务器打印请求头）不再流进 loguru。"""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(params=[False, True], ids=["text", "json"])
def configured(request: pytest.FixtureRequest) -> Iterator[None]:
    configure_logging(load_settings(log_json=request.param, log_level="DEBUG").process)
    yield
    logger.remove()


@pytest.mark.usefixtures("configured")
def test_sec_2_neither_messages_nor_fields_nor_exceptions_leak(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger.bind(url=f"/x?token={TOKEN}").info("event")
    logging.getLogger("uvicorn.error").warning("WebSocket /ws?token=%s [accepted]", TOKEN)
    try:
        raise ValueError(f"bad header: bearer {TOKEN}")
    except ValueError:
        logger.exception("failed")
    written = capsys.readouterr().err
    assert "event" in written
    assert "[accepted]" in written
    assert "bad header" in written
    assert TOKEN not in written


# ── 伪造与终端（A13） ─────────────────────────────────────────────────────────

#: 换行、ESC、C1 的 CSI、双向控制、行分隔符、孤立代理项。
HOSTILE = "x\n2026-01-01T00:00:00.000Z ERROR   forged\r\x1b[31m\x9b2J\u202e\u2028\udc80\x00"
FORGED = "2026-01-01T00:00:00.000Z"


def from_our_logger() -> None:
    logger.bind(username=HOSTILE).warning("event")


def from_a_message() -> None:
    logger.warning(HOSTILE)


def from_a_library() -> None:
    logging.getLogger("uvicorn.error").warning("bad path %s", HOSTILE)


def from_an_exception() -> None:
    try:
        try:
            raise KeyError(HOSTILE)
        except KeyError as error:
            raise ValueError(HOSTILE) from error
    except ValueError:
        logger.exception("failed")


def from_a_library_exception() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("uvicorn.error").exception("broken")


def from_a_repeated_warning() -> None:
    RepeatedWarning("event").say(exception=ValueError(HOSTILE), command=HOSTILE)


SOURCES = [
    from_our_logger,
    from_a_message,
    from_a_library,
    from_an_exception,
    from_a_library_exception,
    from_a_repeated_warning,
]


def _stop_capturing() -> None:
    """pytest 把标准库的日志放进报告，孤立代理项过不了几个测试进程之间的管道。"""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, LogCaptureHandler):
            root.removeHandler(handler)


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_a13_nobody_forges_a_line_or_reaches_the_terminal(
    source: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A13: 一条记录一行（回溯缩进），没有一个控制符。"""
    _stop_capturing()
    source()
    written = capsys.readouterr().err
    lines = written.split("\n")
    assert all(line.isprintable() for line in lines)
    assert FORGED in written
    assert not [line for line in lines if line.startswith(FORGED)]


@pytest.mark.usefixtures("configured")
def test_a13_json_still_says_exactly_what_was_given(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """A13: 转义不改变意思；文本里字段的值加引号，造不出另一个字段。"""
    logger.bind(username='a b="1" c=2\n\U000e0001').warning("event")
    [line] = capsys.readouterr().err.splitlines()
    if line.startswith("{"):
        assert json.loads(line)["record"]["extra"]["username"] == 'a b="1" c=2\n\U000e0001'
    else:
        assert line.endswith(r'username="a b=\"1\" c=2\n\U000e0001"')


@pytest.mark.parametrize("source", [from_a_repeated_warning], ids=["repeated warning"])
def test_a13_nor_where_the_application_writes_the_log(source: Callable[[], None]) -> None:
    """A13: 内嵌时格式是应用的，字段与异常在交给它之前就干净了。"""
    lines: list[str] = []
    sink = logger.add(
        lambda text: lines.append(str(text)),
        format="{message} {extra[command]}\n{exception}",
        diagnose=False,
    )
    source()
    logger.remove(sink)
    assert all(line.isprintable() for text in lines for line in text.split("\n"))
    assert not [line for text in lines for line in text.split("\n") if line.startswith(FORGED)]


# ── 灌满（A14） ──────────────────────────────────────────────────────────────


def an_event(number: int) -> None:
    logger.bind(number=number).warning("event")


def a_success(number: int) -> None:
    logger.bind(number=number).info("event")


def a_library_warning(number: int) -> None:
    logging.getLogger("uvicorn.error").warning("strange request %s", number)


def a_library_warning_without_a_template(number: int) -> None:
    logging.getLogger("websockets").warning(f"strange request {number}")


KINDS = [an_event, a_success, a_library_warning, a_library_warning_without_a_template]


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("say", KINDS, ids=lambda say: say.__name__)
def test_a14_one_kind_of_event_is_at_most_twenty_lines_a_minute(
    say: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A14: 不论是谁记的、经过哪里。"""
    for number in range(5_000):
        say(number)
    logger.info("another kind")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 20 + 1
    assert "another kind" in lines[-1]


@pytest.mark.usefixtures("configured")
def test_a14_tracebacks_are_fewer_still(capsys: pytest.CaptureFixture[str]) -> None:
    """A14: 一种意外，一分钟三份回溯。"""
    for _ in range(1_000):
        logger.opt(exception=ValueError("broken")).error("request_failed")
    assert capsys.readouterr().err.count("ValueError: broken") <= 3 * 2  # JSON 里各有两处


@pytest.mark.usefixtures("configured")
async def test_a14_what_was_not_said_is_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A14: 窗口的末尾补一行，说出没有记下的次数。"""
    monkeypatch.setattr("meeting_push.logs.EVERY_S", 0.2)
    for number in range(1_000):
        an_event(number)

    def counted() -> str:
        return next((line for line in capsys.readouterr().err.splitlines() if "980" in line), "")

    assert "event" in await eventually(counted)


@pytest.mark.parametrize("level", ["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"])
def test_a17_every_level_can_be_chosen(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A17: ``LOG_LEVEL=TRACE`` 起不来。"""
    configure_logging(load_settings(log_level=level).process)
    logging.getLogger("some").error("heard")
    logger.remove()
    assert "heard" in capsys.readouterr().err
