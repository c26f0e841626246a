"""把一个角色跑成进程：信号、端口、多进程、内嵌 Redis、有次序的关机。

信号归我们：uvicorn 的会先用 1012 关掉所有 WebSocket（LESSONS 19）。写错的设置由我们来说。

循环垃圾回收：启动时就有的从此不看，整堆的回收很少做。一条连接是几十个活很久的对象，按缺省的设置，
一万条连接涌来时六分之一的 CPU 花在回收上；收一次整堆要停几百毫秒，人人都感觉得到。连接断开时自己
拆掉互指（``tests/unit/websocket/test_cycles.py``），所以循环垃圾几乎没有；留着回收，是防我们不知道的。
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from difflib import get_close_matches
from functools import partial
from typing import Any, Final, cast

import uvicorn
from dotenv import dotenv_values

from .app import MeetingPush, create_app
from .errors import ConfigurationError, UnavailableError
from .http.cors import Cors, CrossOrigin
from .http.doorway import DoorLimits, Doorway, Patience
from .http.listener import BACKLOG, Listener
from .http.patient_http import patient_http
from .http.request_ids import Identified
from .launcher import dying_with_us
from .limits.rate import TrustedProxies
from .log_outlet import configure_logging, introduce
from .logs import RepeatedWarning, logger
from .monitoring.edge_samples import door_samples
from .monitoring.snapshots import ServeFolder
from .process_temper import calm_allocator, calm_collector, open_descriptors
from .redis.embedded import EmbeddedRedis
from .router.contract_route import HotDoor
from .router.ops import ops_endpoint
from .settings import FLAT, PREFIX, Identity, Role, Settings
from .supervision import Backoff
from .websocket.native import native_edge, serve_native
from .websocket.uvicorn_socket import BoundedWebSocket

#: 闲着的 HTTP 连接留这么久：要长于客户端与代理（多为 60 秒），否则它们恰在我们关闭时又用它。
KEEP_ALIVE_S: Final = 65
#: SQLite 的线程每一步都要抢 GIL，默认等忙着的事件循环 5 ms 才抢得到，一个事务要抢五六次。
SWITCH_INTERVAL_S: Final = 0.0005
#: 子进程死后隔这么久重启；反复死亡时加倍，封顶。
RESPAWN_BACKOFF_S: Final = (0.2, 10.0)
#: 启动时依赖不在，隔这么久再试；这些原因等也没用。
START_RETRY_S: Final = 0.5
NOT_WORTH_WAITING: Final = frozenset({"noauth", "noperm", "no_database"})


class _Server(uvicorn.Server):
    """不碰信号的 uvicorn，由 ``Listener`` 接连接。"""

    def __init__(self, config: uvicorn.Config, left: Callable[[int], None]) -> None:
        super().__init__(config)
        self._left = left

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        # 类型写的是类：其实是 patient_http 的工厂，Listener 有 uvicorn 用到的 close、wait_closed
        arrived: Callable[[], asyncio.Protocol] = partial(
            cast(Any, self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self.servers = [cast(Any, Listener(sock, arrived, self._left)) for sock in sockets or ()]


def listen(settings: Settings) -> socket.socket:
    """占住端口，还不接：起好之前连来的应当被拒绝，而不是接了又没有人答（B4）。

    多进程时用 SO_REUSEPORT 由内核分配连接。

    :raises ConfigurationError: 端口被占或地址不对
    """
    family = socket.AF_INET6 if ":" in settings.process.host else socket.AF_INET
    with contextlib.ExitStack() as stack, _listening_errors(settings):
        sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.process.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((settings.process.host, settings.process.port))
        sock.setblocking(False)
        stack.pop_all()
    return sock


@contextlib.contextmanager
def _listening_errors(settings: Settings) -> Iterator[None]:
    try:
        yield
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"can not listen on {settings.process.host}:{settings.process.port}: {error}"
        ) from None


async def run_process(settings: Settings) -> None:
    """一个进程的一生；收到 SIGTERM/SIGINT/SIGHUP 后有次序地停下，第二次立即退出。"""
    calm_allocator()
    configure_logging(settings.process.log_level, as_json=settings.process.log_json)
    if not settings.process.reuse_port:  # --workers 的子进程不必再说
        _warn_of_any_audience(settings)
        _warn_unknown_variables()
    stop = _stop_event()
    async with contextlib.AsyncExitStack() as stack:
        sock = stack.enter_context(contextlib.closing(listen(settings)))
        owner: Identity = "accounts" if settings.auth.owns_accounts else "application"
        push = MeetingPush(settings, identity=owner)
        introduce(node=push.node_id, role=settings.process.role.value)
        if not await _started(push, settings, stop):
            return
        stack.push_async_callback(push.stop)
        with _listening_errors(settings):
            sock.listen(BACKLOG)
        await stack.enter_async_context(_front(push, settings, sock))
        calm_collector()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        host, port = sock.getsockname()[:2]
        logger.bind(host=host, port=port, role=settings.process.role, node=push.node_id).info(
            "serving"
        )
        await _first(stop, push.displaced)
        logger.bind(node=push.node_id).info("draining")
        await push.drain()
        if push.displaced.is_set():
            raise UnavailableError("this Redis serves another database now", cause="displaced")


async def _first(*events: asyncio.Event) -> None:
    """有一个置位就返回。"""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _started(push: MeetingPush, settings: Settings, stop: asyncio.Event) -> bool:
    """起好了；False：还没起好就收到了信号。错误同 ``MeetingPush.start``。"""
    starting = asyncio.create_task(_start_patiently(push, settings.process.start_patience_s))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if starting.done():
        await starting
        return True
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    logger.info("stopped_while_starting")
    return False


async def _start_patiently(push: MeetingPush, patience_s: float) -> None:
    """Redis、SQL 暂时不在就等，说出原因，到时才放弃；配置不对的不等（LESSONS 26）。"""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    waits = RepeatedWarning("start_waits", every_s=10)
    while True:
        try:
            await push.start()
        except UnavailableError as error:
            if error.cause in NOT_WORTH_WAITING or loop.time() >= deadline:
                raise
            waits.say(code=error.code, cause=error.cause, reason=error.message)
            await asyncio.sleep(START_RETRY_S)
        else:
            return


def _warn_of_any_audience(settings: Settings) -> None:
    """别处签发的令牌没有限定受众：同一个签发者给别的服务的也会被接受。"""
    if not settings.auth.owns_accounts and settings.auth.audience is None:
        logger.bind(setting="MEETING_PUSH_JWT_AUDIENCE").warning("tokens_for_any_service_accepted")


@contextlib.asynccontextmanager
async def local_parts(settings: Settings) -> AsyncIterator[Settings]:
    """没有外部 Redis 时带起内嵌的；产出填好 ``redis_url`` 的设置。"""
    if settings.redis.url is not None:
        yield settings
        return
    embedded = EmbeddedRedis(settings.process.data_dir)
    url = await embedded.start()
    try:
        yield settings.changed(redis_url=url)
    finally:
        await embedded.stop()


@contextlib.asynccontextmanager
async def _front(push: MeetingPush, settings: Settings, sock: socket.socket) -> AsyncIterator[None]:
    """对外的一面：网关角色是裸的 picows，其余是 uvicorn（同一端口，两种速度）。"""
    native = settings.edge.driver == "native"
    limits = DoorLimits.of(settings.http.max_connections_per_address, open_descriptors())
    proxies, cors = (
        TrustedProxies(settings.http.trusted_proxies),
        Cors(settings.handshake.allowed_origins),
    )
    doorway = Doorway(limits, proxies, push.manager.admission.pace, cors)
    push.metrics.add(lambda: door_samples(doorway))
    if settings.process.role is Role.GATEWAY and native:
        ops = ops_endpoint(push.health, push.metrics)
        server = await serve_native(push.manager, sock=sock, ops=ops, doorway=doorway)
        try:
            yield
        finally:
            server.close()
        return
    app = create_app(push)
    http = _Server(
        uvicorn.Config(
            HotDoor(app, Identified(CrossOrigin(app, cors))),
            http=patient_http(Patience.of(settings.edge), doorway),
            # 类型写的是 type[Protocol]，uvicorn 只是调用它（见 docs/adr/0002）
            ws=native_edge(push.manager, cors) if native else BoundedWebSocket,  # type: ignore[arg-type]
            ws_max_size=push.manager.limits.largest_read_bytes,  # 再大的由 uvicorn 以 1009 断开
            ws_per_message_deflate=False,
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # 谁的 X-Forwarded-For 可信只由 trusted_proxies 说了算
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(settings.process.shutdown_grace_s),
        ),
        doorway.note_left,
    )
    task = asyncio.create_task(http.serve(sockets=[sock]), name="uvicorn")
    try:
        yield
    finally:
        http.should_exit = True
        await task


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            logger.warning("second_signal_exit_now")
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # nohup 与守护进程的管理者让它忽略 SIGHUP：照旧忽略
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, on_signal)
    return stop


def _warn_unknown_variables() -> None:
    for name, nearest in unknown_variables():
        logger.bind(variable=name, did_you_mean=nearest).warning("unknown_setting")


# ── 多进程 ──────────────────────────────────────────────────────────────────


async def run_workers(settings: Settings) -> None:
    """父进程：带着内嵌 Redis，看着 N 个子进程；子进程死了就重启。"""
    gc.enable()
    configure_logging(settings.process.log_level, as_json=settings.process.log_json)
    _warn_of_any_audience(settings)
    _warn_unknown_variables()
    stop = _stop_event()
    async with contextlib.AsyncExitStack() as stack:
        # 占住端口再分给子进程：端口 0 也只选一次；父进程自己不接连接
        probe = listen(settings.changed(reuse_port=True))
        stack.callback(probe.close)
        settings = await stack.enter_async_context(local_parts(settings))
        environment = _child_environment(settings, probe.getsockname()[1])
        probe.close()
        figures = ServeFolder()
        stack.callback(figures.remove)
        patience_s = _patience_s(settings)
        children = [
            asyncio.create_task(_keep_alive(index, environment, stop, patience_s, figures))
            for index in range(settings.process.workers)
        ]
        await stop.wait()
        await asyncio.gather(*children)


def _patience_s(settings: Settings) -> float:
    """等一个子进程从容退出多久：送客的窗口，加上前后两段各自的宽限。"""
    return settings.node.drain_window_s + settings.process.shutdown_grace_s * 2


def _child_environment(settings: Settings, port: int) -> dict[str, str]:
    given = {
        "WORKERS": "1",
        "REUSE_PORT": "true",
        "HOST": settings.process.host,
        "PORT": str(port),
        "ROLE": settings.process.role.value,
        "DATA_DIR": str(settings.process.data_dir),
        "REDIS_URL": settings.redis.url or "",
    }
    if settings.database.url:
        given["DATABASE_URL"] = settings.database.url
    return {**os.environ, **{f"MEETING_PUSH_{name}": value for name, value in given.items()}}


async def _keep_alive(
    index: int,
    environment: dict[str, str],
    stop: asyncio.Event,
    patience_s: float,
    figures: ServeFolder,
) -> None:
    backoff = Backoff(*RESPAWN_BACKOFF_S)
    own = {f"{PREFIX}METRICS_FILE": str(figures.file_of(index))}
    while not stop.is_set():
        child = await asyncio.create_subprocess_exec(
            *dying_with_us(sys.executable, "-m", "meeting_push", "serve"),
            env={**environment, **own},
            start_new_session=True,
        )
        stopping = asyncio.create_task(stop.wait())
        exited = asyncio.create_task(child.wait())
        await asyncio.wait({stopping, exited}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not exited.done():
            await _end_child(child, patience_s)
            return
        logger.bind(worker=index, exit_code=child.returncode).error("worker_died")
        figures.bury(index)
        await backoff.wait()


async def _end_child(child: asyncio.subprocess.Process, patience_s: float) -> None:
    child.terminate()
    try:
        await asyncio.wait_for(child.wait(), patience_s)
    except TimeoutError:
        child.kill()
        await child.wait()


#: 不是设置、却也叫这个前缀的：命令行自己读。
_NOT_SETTINGS: Final = frozenset({f"{PREFIX}TOKEN"})


def unknown_variables() -> Iterator[tuple[str, str | None]]:
    """环境与 ``.env`` 里不认识的 ``MEETING_PUSH_…``，各与最像的名字（没有像的为 None）。"""
    known = {f"{PREFIX}{name.upper()}" for name in FLAT} | _NOT_SETTINGS
    given = {name.upper() for name in (*os.environ, *dotenv_values(".env"))}
    for name in sorted(one for one in given if one.startswith(PREFIX) and one not in known):
        yield name, next(iter(get_close_matches(name, known, n=1)), None)
