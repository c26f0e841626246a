"""内嵌进不设置日志的应用：字段都在，令牌不在；自己的进程：一行一个平的对象。

loguru 缺省只写 ``{message}``，还印出变量的值。
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support.eventually import wait_until
from tests.support.server_process import ServerProcess

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


def test_a_server_of_ours_writes_one_flat_object_a_line(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, settings={"log_json": True}) as server:
        headers = {"x-request-id": "r-1", "authorization": "Bearer nonsense"}
        httpx.get(f"{server.base_url}/api/v1/messages", headers=headers, trust_env=False)
        wait_until(lambda: "rest_auth_failed" in server.output, 10)
        said = [json.loads(line) for line in server.output.splitlines()]
    assert not [value for one in said for value in one.values() if isinstance(value, dict | list)]
    of_request = [one for one in said if one.get("request_id") == "r-1"]
    assert "rest_auth_failed" in {one["event"] for one in of_request}
    [serving] = [one for one in said if one["event"] == "serving"]
    assert {one["node"] for one in of_request} == {serving["node"]}
    assert serving["role"] == "all"
