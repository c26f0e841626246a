"""精简连接：配对、取消、断线、重连、沉默、错误的种类。"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from meeting_push.errors import ConfigurationError, RedisCommandError, RedisUnavailableError
from meeting_push.redis.dial import RedisAddress
from meeting_push.redis.lean import LeanConnection
from meeting_push.redis.link import GroupExistsError, NoGroupError
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, find_embedded_redis, find_redis7


@pytest.fixture
async def lean(redis_server: RedisServer) -> AsyncIterator[LeanConnection]:
    connection = LeanConnection(RedisAddress.parse(redis_server.url))
    await connection.connect()
    yield connection
    await connection.close()


async def connected(server: RedisServer, timeout_s: float = 5.0) -> LeanConnection:
    connection = LeanConnection(RedisAddress.parse(server.url), timeout_s=timeout_s)
    await connection.connect()
    return connection


async def test_replies_come_back_in_the_order_of_the_commands(lean: LeanConnection) -> None:
    replies = await asyncio.gather(*(lean.execute("ECHO", n) for n in range(500)))
    assert replies == [b"%d" % n for n in range(500)]


async def test_execute_many_returns_all_replies_at_once(lean: LeanConnection) -> None:
    many = lean.execute_many([("ECHO", n) for n in range(3)])
    after = lean.execute("ECHO", "after")
    assert await many == [b"0", b"1", b"2"]
    assert await after == b"after"


async def test_execute_many_of_nothing_is_nothing(lean: LeanConnection) -> None:
    assert await lean.execute_many([]) == []


async def test_execute_many_raises_the_first_error_and_stays_in_step(
    lean: LeanConnection,
) -> None:
    with pytest.raises(RedisCommandError, match="unknown command"):
        await lean.execute_many([("ECHO", 1), ("NONSENSE",), ("ECHO",), ("ECHO", 2)])
    assert await lean.execute("ECHO", "next") == b"next"


async def test_a_cancelled_caller_does_not_shift_the_replies(lean: LeanConnection) -> None:
    async def echo(text: str) -> object:
        return await lean.execute("ECHO", text)

    first, second = asyncio.create_task(echo("first")), asyncio.create_task(echo("second"))
    await asyncio.sleep(0)  # 两条命令都已发出
    first.cancel()
    assert await second == b"second"
    assert await lean.execute("ECHO", "third") == b"third"


async def test_a_cancelled_batch_does_not_shift_the_replies(lean: LeanConnection) -> None:
    batch = lean.execute_many([("ECHO", n) for n in range(3)])
    batch.cancel()
    assert await lean.execute("ECHO", "next") == b"next"


async def test_a_wrong_type_is_a_permanent_error(lean: LeanConnection, key_prefix: str) -> None:
    await lean.execute("SET", key_prefix, "text")
    with pytest.raises(RedisCommandError, match="WRONGTYPE") as caught:
        await lean.execute("LPUSH", key_prefix, "x")
    assert not caught.value.temporary


async def test_a_group_that_exists_is_an_error_of_its_own(
    lean: LeanConnection, key_prefix: str
) -> None:
    create = ("XGROUP", "CREATE", key_prefix, "g", "0", "MKSTREAM")
    await lean.execute(*create)
    with pytest.raises(GroupExistsError):
        await lean.execute(*create)


@pytest.mark.parametrize("stream_exists", [False, True])
@pytest.mark.parametrize(
    "command",
    [
        ("XINFO", "CONSUMERS", "KEY", "g"),
        ("XPENDING", "KEY", "g"),
        ("XREADGROUP", "GROUP", "g", "me", "STREAMS", "KEY", ">"),
        ("EVAL", "return redis.call('XPENDING', KEYS[1], 'g')", 1, "KEY"),
    ],
    ids=lambda command: str(command[0]),
)
async def test_a_group_that_is_missing_is_an_error_of_its_own(
    lean: LeanConnection, key_prefix: str, command: tuple[str | int, ...], stream_exists: bool
) -> None:
    if stream_exists:
        await lean.execute("XADD", key_prefix, "*", "v", 1)
    with pytest.raises(NoGroupError):
        await lean.execute(*(key_prefix if one == "KEY" else one for one in command))


async def test_an_error_never_echoes_the_arguments(lean: LeanConnection) -> None:
    with pytest.raises(RedisCommandError) as caught:
        await lean.execute("NONSENSE", "secret-content")
    assert "secret-content" not in str(caught.value)


@pytest.mark.parametrize("find", [find_redis7, find_embedded_redis])
async def test_out_of_memory_is_temporary_even_inside_a_script(
    find: Callable[[], Path | None], tmp_path: Path
) -> None:
    binary = find()
    if binary is None:
        pytest.skip("no such redis-server here")
    server = RedisServer(binary, tmp_path).start()
    lean = await connected(server)
    try:
        await lean.execute("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(RedisUnavailableError, match="OOM"):
            await lean.execute("SET", "x", "y")
        with pytest.raises(RedisUnavailableError, match="OOM"):
            await lean.execute("EVAL", "return redis.call('SET', KEYS[1], 'x')", 1, "x")
    finally:
        await lean.close()
        server.stop()


async def test_a_demoted_master_is_left_and_dialled_again(
    private_redis_server: RedisServer,
) -> None:
    lean = await connected(private_redis_server)
    await lean.execute("REPLICAOF", "127.0.0.1", free_port())
    with pytest.raises(RedisUnavailableError, match="READONLY"):
        await lean.execute("SET", "x", "y")
    await eventually(lambda: lean.reconnects >= 1)
    await lean.close()


async def test_connect_to_nobody_is_unavailable() -> None:
    lean = LeanConnection(RedisAddress(host="127.0.0.1", port=free_port()))
    with pytest.raises(RedisUnavailableError):
        await lean.connect()
    with pytest.raises(RedisUnavailableError):
        lean.execute("PING")


async def test_a_wrong_password_is_a_configuration_error(private_redis_server: RedisServer) -> None:
    admin = await connected(private_redis_server)
    await admin.execute("CONFIG", "SET", "requirepass", "right")
    for password in (":wrong@", ""):
        url = private_redis_server.url.replace("//", f"//{password}")
        with pytest.raises(ConfigurationError, match="refused the credentials"):
            await LeanConnection(RedisAddress.parse(url)).connect()
    await admin.close()


async def test_password_database_and_name_are_used(private_redis_server: RedisServer) -> None:
    admin = await connected(private_redis_server)
    await admin.execute("ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all")
    url = private_redis_server.url.replace("//", "//ann:pw@").replace("/0", "/3")
    lean = LeanConnection(RedisAddress.parse(url), name="tester")
    await lean.connect()
    listed = (await admin.execute("CLIENT", "LIST")).decode()
    [line] = [line for line in listed.splitlines() if "name=tester" in line]
    assert " db=3 " in line
    assert "user=ann" in line
    await lean.close()
    await admin.close()


async def test_a_lost_connection_fails_what_is_in_flight_then_comes_back(
    private_redis_server: RedisServer,
) -> None:
    lean = await connected(private_redis_server)
    private_redis_server.pause()
    single, batch = lean.execute("PING"), lean.execute_many([("PING",)] * 3)
    private_redis_server.kill()
    for future in (single, batch):
        with pytest.raises(RedisUnavailableError):
            await future
    with pytest.raises(RedisUnavailableError):
        lean.execute("PING")
    private_redis_server.start()
    await eventually(lambda: lean.connected)
    assert await lean.execute("PING") == b"PONG"
    await lean.close()


async def test_a_redis_that_hangs_is_found_out(private_redis_server: RedisServer) -> None:
    lean = await connected(private_redis_server, timeout_s=0.1)
    private_redis_server.pause()
    with pytest.raises(RedisUnavailableError):
        await asyncio.wait_for(lean.execute("PING"), 2)
    private_redis_server.resume()
    await eventually(lambda: lean.connected)
    await lean.close()


async def test_an_idle_connection_is_not_taken_for_a_hung_one(
    private_redis_server: RedisServer,
) -> None:
    lean = await connected(private_redis_server, timeout_s=0.02)
    for _ in range(10):
        await asyncio.sleep(0.02)  # 被测的就是时间：空闲了几个超时
        assert await lean.execute("PING") == b"PONG"
    assert lean.reconnects == 0
    await lean.close()


async def test_connect_to_a_hung_redis_gives_up(private_redis_server: RedisServer) -> None:
    private_redis_server.pause()
    lean = LeanConnection(RedisAddress.parse(private_redis_server.url), timeout_s=0.1)
    with pytest.raises(RedisUnavailableError):
        await asyncio.wait_for(lean.connect(), 2)
    private_redis_server.resume()


async def test_close_fails_what_is_in_flight(private_redis_server: RedisServer) -> None:
    lean = await connected(private_redis_server)
    private_redis_server.pause()
    future = lean.execute("PING")
    await lean.close()
    with pytest.raises(RedisUnavailableError):
        await future
    await lean.close()
    private_redis_server.resume()


async def test_close_during_an_outage_stops_reconnecting(
    private_redis_server: RedisServer,
) -> None:
    lean = await connected(private_redis_server)
    private_redis_server.kill()
    await eventually(lambda: not lean.connected)
    await lean.close()
    private_redis_server.start()
    assert [t for t in asyncio.all_tasks() if t.get_name().startswith("reconnect:")] == []
    assert not lean.connected


async def test_commands_of_one_tick_are_one_write(lean: LeanConnection) -> None:
    """Redis 的统计为证：一次读到的都在一个读事件里，100 条命令不会是 100 次。"""

    async def reads() -> int:
        info = (await lean.execute("INFO", "stats")).decode()
        rows = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        return int(rows["total_reads_processed"])

    before = await reads()
    await asyncio.gather(*(lean.execute("PING") for _ in range(100)))
    assert await reads() - before < 50  # 其它测试的连接也可能在读


async def test_a_replica_is_not_dialled_a_thousand_times_a_minute(
    private_redis_server: RedisServer,
) -> None:
    """B2：连得上而写不进（READONLY）：成功以写得进为准，退避不因连上而从头。"""
    lean = await connected(private_redis_server)
    await lean.execute("REPLICAOF", "127.0.0.1", "1")
    causes = set()
    until = asyncio.get_running_loop().time() + 3
    while asyncio.get_running_loop().time() < until:
        try:
            await lean.execute("SET", "x", 1)
        except RedisUnavailableError as error:
            causes.add(error.cause)
        await asyncio.sleep(0.01)
    assert lean.reconnects <= 15  # 0.1 在这里有上百次
    assert causes == {"readonly"}
    await lean.close()
