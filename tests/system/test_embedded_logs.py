"""内嵌进不设置日志的应用：字段都在，令牌不在。loguru 缺省只写 ``{message}``，还印出变量的值。"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final

import pytest

TOKEN: Final = "opaque-token-of-a-customer"

_APPLICATION: Final = """
import asyncio, logging, sys
import loguru
from meeting_push.logs import carry, logger
from meeting_push.supervision import Tasks

class Propagate(logging.Handler):  # loguru 的文档里的
    def emit(self, record):
        logging.getLogger(record.name).handle(record)

sink, token = sys.argv[1:]
if sink == "stdlib":
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    loguru.logger.remove()
    loguru.logger.add(Propagate(), format="{message}")
if sink == "json":
    loguru.logger.remove()
    loguru.logger.add(sys.stderr, serialize=True)

async def verify(token):
    kept = {"given": token}
    raise RuntimeError("can not read " + "token=" + kept["given"])

async def main():
    carry(request_id="r-1")
    logger.bind(user_id=7, reason="too slow").warning("ws_session_broken")
    tasks = Tasks()
    tasks.spawn(verify(token), "verifying")
    await tasks.wait(5)
    await asyncio.sleep(0)

async def alone():
    try:
        await verify(token)
    except RuntimeError:
        loguru.logger.exception("the application's own")

asyncio.run(alone() if sink == "alone" else main())
"""


def written(sink: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _APPLICATION, sink, TOKEN],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stderr


@pytest.mark.parametrize("sink", ["default", "stdlib", "json"])
def test_sec_2_embedded_no_field_is_lost_and_no_value_of_a_variable_is_printed(sink: str) -> None:
    text = written(sink)
    lines = [json.loads(line)["text"] for line in text.splitlines()] if sink == "json" else [text]
    said = "".join(lines)
    assert 'ws_session_broken user_id=7 reason="too slow" request_id=r-1' in said
    assert "task_died task=verifying request_id=r-1" in said
    assert "RuntimeError: can not read token=***" in said
    assert "in verify" in said
    assert TOKEN not in text


def test_what_an_application_says_itself_shows_that_the_token_was_there_to_be_printed() -> None:
    assert TOKEN in written("alone")
