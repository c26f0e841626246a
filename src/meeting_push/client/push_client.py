"""``PushClient``：一台设备与服务器之间的连接，至少一次变成对应用的恰好一次（DLV-2）。

每条新连接都要重说一遍的话：状态与关注名单。
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ..logs import logger
from ..model import PresenceStatus
from ..person_id import PersonId
from ..protocol import frames
from .connection import EventHandler, EventHub
from .endpoint import ClientOptions, TokenSource, parse_endpoint
from .errors import NotConnectedError
from .intake import Intake, ReceivedMessage
from .ledger import PositionStore, StateFile, load_device_state
from .lifeline import ConnectionState, Lifeline

#: 同步函数、协程函数都可以；同步的不要久占，连接在它返回之前不读也不写。
MessageHandler = Callable[[ReceivedMessage], object]
H = TypeVar("H", bound=MessageHandler)


class PushClient:
    """收消息的客户端；断线自动重连、续传、去重、确认。

    两种用法，一个实例只用一种：

    - 迭代：``async with client: async for message in client: …``。
      要下一条时，上一条才算已应用；循环体抛出或 break 时，那一条不确认，会再来
      （要它算数就先 ``message.ack()``）。
    - 回调：``@client.on_message`` 注册处理函数，然后 ``await client.run()``。
      处理函数正常返回即已应用；抛出则不确认，记日志，下次连接（或服务器重推）再来。

    消息必须有人取：积了 ``inbox_limit`` 条没人取，就不再读套接字。关闭后不能再用。
    """

    def __init__(
        self,
        base_url: str,
        token: TokenSource,
        *,
        user_id: PersonId | None = None,
        device_id: str | None = None,
        device_info: str = "",
        state_path: Path | str | None = None,
        store: PositionStore | None = None,
        options: ClientOptions | None = None,
    ) -> None:
        """读状态文件，不联网。

        :param token: 固定的令牌，或每次连接、每次将到期都会问的回调（同步或协程）
        :param user_id: 不给则读令牌的 ``options.user_id_claim``，不验证签名
        :param device_id: 不给则用状态文件里的，再没有就生成一个
        :param state_path: 位置与去重记录存在这个文件里，重启后接着用；一份只给一个进程
        :param store: 同上，存在别处；两个都不给就只在内存里
        :raises ConfigurationError: ``base_url`` 不是地址
        :raises OSError: 状态文件在，却读不了
        """
        self._options = options or ClientOptions()
        if store is None and state_path is not None:
            store = StateFile(Path(state_path))
        self._intake = Intake(load_device_state(store, device_id), store, self._options)
        self._events = EventHub()
        self._standing = Standing()
        self.connected = asyncio.Event()
        self._lifeline = Lifeline(
            parse_endpoint(base_url),
            token,
            self._intake,
            self._events,
            user_id=user_id,
            greeting=self._standing.greeting,
            device_info=device_info,
            connected=self.connected,
            options=self._options,
        )
        self._handler: MessageHandler | None = None
        self._living: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._running = False
        #: 迭代用法里已交出、尚未算已应用的那一条。
        self._current: ReceivedMessage | None = None

    # ── 观察 ────────────────────────────────────────────────────────────────

    @property
    def state(self) -> ConnectionState:
        return self._lifeline.state

    @property
    def device_id(self) -> str:
        return self._intake.device_id

    async def wait_connected(self) -> None:
        """等到此刻连着；还没开始就开始。

        :raises MeetingPushError: 服务器不许连（同 ``run``）；或已经 ``close``
        """
        living = self._start()
        waiting = asyncio.create_task(self.connected.wait())
        try:
            await asyncio.wait({waiting, living}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not self.connected.is_set():
            raise self._failure or NotConnectedError("the client is closed")

    # ── 注册 ────────────────────────────────────────────────────────────────

    def on_message(self, handler: H) -> H:
        """装饰器：``run()`` 把每条消息交给它；后注册的取代先注册的。"""
        self._handler = handler
        return handler

    def on(self, event: str, handler: EventHandler) -> Callable[[], None]:
        """其它的事；返回的函数取消它。处理函数抛出的只记日志。

        帧以它的 ``type`` 为名（withdrawn、read_sync、inbox_sync、receipt、presence、notice、gap、
        resync、error），``frame`` 是其中的每一帧；处理函数得到 ``protocol.frames``
        里的结构。状态变了：``state``，与 ``disconnected``、``connecting``、``connected``；得到的是
        ``ConnectionState``。``message`` 同 ``on_message``。

        :raises ValueError: 没有这种帧
        """
        if event == "message":
            self._handler = handler
            return self._forget(handler)
        return self._events.on(event, handler)

    def _forget(self, handler: MessageHandler) -> Callable[[], None]:
        def off() -> None:
            if self._handler is handler:
                self._handler = None

        return off

    def retry_now(self) -> None:
        """等着重连就现在连（应用知道网络回来了）；别的时候无事。"""
        self._lifeline.retry_now()

    # ── 生命 ────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        """开始连接，不等连上（要等用 ``wait_connected``）。"""
        self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def run(self) -> None:
        """把消息交给 ``on_message`` 的处理函数，直到 ``close`` 或服务器不许再连。

        取消它等于关闭；正在跑的处理函数随之取消，那条消息不确认。

        :raises PushRefusedError: 关闭码 4500–4999；或固定的令牌过期了
        :raises HandshakeRejectedError: 从未连上过而升级被拒
        :raises Exception: 令牌回调抛出的、不是暂时的错误，原样
        """
        if self._handler is None:
            raise RuntimeError("run() needs a handler: use @client.on_message")
        self._start()
        self._running = True
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._options.concurrency):
                    group.create_task(self._work(self._handler))
        finally:
            self._running = False
            await self._shut()
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """送完已有的确认，正常关闭，存好状态；重复调用无害。

        ``run()`` 正在跑时只是请它收尾：手上的处理函数返回之后由它关闭，
        所以在处理函数里也可以调用。
        """
        if self._running:
            self._intake.inbox.end()
        else:
            await self._shut()

    def _start(self) -> asyncio.Task[None]:
        if self._living is None:
            self._living = asyncio.create_task(self._live())
        return self._living

    async def _live(self) -> None:
        """三件同生共死的事：联络、送确认、派发其它帧。"""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_acks())
                group.create_task(self._events.run())
                group.create_task(self._lifeline.maintain())
        except ExceptionGroup as errors:
            self._failure = errors.exceptions[0]
        finally:
            self._lifeline.finish(getattr(self._failure, "code", "stopped"))
            self._intake.inbox.end()

    async def _shut(self) -> None:
        self._intake.inbox.end()
        if self._living is None:
            self._lifeline.finish("stopped")
            return
        try:
            async with asyncio.timeout(self._options.close_timeout_s):
                await self._flush_acks()
        except TimeoutError:
            logger.warning("acks_left_at_close")
        finally:
            self._living.cancel()
        await asyncio.wait({self._living})
        await self._intake.persist()

    # ── 消息 ────────────────────────────────────────────────────────────────

    def __aiter__(self) -> Self:
        self._start()
        return self

    async def __anext__(self) -> ReceivedMessage:
        """下一条；上一条到此算已应用。可以取消：取消了就没有取走。

        :raises StopAsyncIteration: 已 ``close``
        """
        if self._current is not None:
            self._handled(self._current)
            self._current = None
        self._current = await self._intake.inbox.get()
        if self._current is None:
            raise self._failure or StopAsyncIteration
        return self._current

    async def _work(self, handler: MessageHandler) -> None:
        while (message := await self._intake.inbox.get()) is not None:
            try:
                result = handler(message)
                if inspect.isawaitable(result):
                    await result
            except Exception:  # noqa: BLE001 — 应用的代码什么都可能抛；这一条不确认，别的照旧
                self._intake.failed(message)
                logger.opt(exception=True).bind(message_id=message.message_id).error(
                    "message_handler_failed"
                )
            else:
                self._handled(message)

    def _handled(self, message: ReceivedMessage) -> None:
        if self._options.ack == "handled":
            self._intake.settle(message)

    async def ack(self, *messages: ReceivedMessage | str) -> None:
        """这些消息算已应用；确认在几毫秒内成批送出，断线也不会忘。只给 id 也可以。"""
        for message in messages:
            if isinstance(message, str):
                self._intake.settle_id(message)
            else:
                self._intake.settle(message)

    async def _send_acks(self) -> None:
        """攒 ``ack_delay_s``，成批送。"""
        while True:
            await self._intake.changed.wait()
            await asyncio.sleep(self._options.ack_delay_s)
            await self._flush_acks()

    async def _flush_acks(self) -> None:
        """先存后送：反过来的话，死在中间的进程会把应用过的再交给应用一次。"""
        self._intake.changed.clear()
        connection = self._lifeline.connection
        while connection and (batch := self._intake.acks.take(connection.max_ids)):
            await self._intake.persist()
            request_id, ids = batch
            try:
                await connection.send(frames.AckFrame(message_ids=ids, request_id=request_id))
            except NotConnectedError:
                break  # 没得到回答的，下一条连接上重送
        await self._intake.persist()

    # ── 说给服务器 ──────────────────────────────────────────────────────────

    async def status(self, status: PresenceStatus, *, device_info: str | None = None) -> None:
        """active、away 或 busy；没连着就等连上时说，每次重连都重说。"""
        await self._say(self._standing.set_status(status, device_info))

    async def watch(self, user_ids: Iterable[PersonId]) -> None:
        """关注这些用户的在线状态（``presence``）；每次重连都重说。"""
        await self._say(self._standing.watch(user_ids))

    async def unwatch(self, user_ids: Iterable[PersonId]) -> None:
        await self._say(self._standing.unwatch(user_ids))

    async def mark_read(self, message_ids: Sequence[str]) -> None:
        """标为已读；这个用户的其它设备会得到 ``read_sync``。走 SSE 时经 REST。

        :raises NotConnectedError: 此刻没连着，什么也没说；重试无害
        :raises ApiError, ServerUnreachableError: 走 SSE，而服务器拒绝了、没有回答；重试无害
        """
        connection = self._lifeline.connection
        if connection is None:
            raise NotConnectedError("not connected")
        for start in range(0, len(message_ids), connection.max_ids):
            ids = list(message_ids[start : start + connection.max_ids])
            await connection.send(frames.ReadFrame(message_ids=ids))

    async def _say(self, sentences: Iterable[frames.ClientFrame]) -> None:
        with contextlib.suppress(NotConnectedError):  # 下一条连接的 greeting 会说
            for frame in sentences:
                if self._lifeline.connection is not None:
                    await self._lifeline.connection.send(frame)


class Standing:
    """应用最后一次说的算数；连接断了也记着。"""

    def __init__(self) -> None:
        self._status: frames.StatusFrame | None = None
        self._watched: set[PersonId] = set()

    def set_status(
        self, status: PresenceStatus, device_info: str | None
    ) -> list[frames.ClientFrame]:
        self._status = frames.StatusFrame(status=status, device_info=device_info)
        return [self._status]

    def watch(self, user_ids: Iterable[PersonId]) -> list[frames.ClientFrame]:
        added = set(user_ids) - self._watched
        self._watched |= added
        return _watch_frames(added)

    def unwatch(self, user_ids: Iterable[PersonId]) -> list[frames.ClientFrame]:
        removed = set(user_ids) & self._watched
        self._watched -= removed
        return [frames.UnwatchFrame(user_ids=ids) for ids in _chunks(removed)]

    def greeting(self) -> list[frames.ClientFrame]:
        """新连接上要送的。"""
        status: list[frames.ClientFrame] = [self._status] if self._status else []
        return status + _watch_frames(self._watched)


def _watch_frames(user_ids: set[PersonId]) -> list[frames.ClientFrame]:
    return [frames.WatchFrame(user_ids=ids) for ids in _chunks(user_ids)]


def _chunks(user_ids: set[PersonId]) -> list[list[PersonId]]:
    ordered, size = sorted(user_ids, key=str), frames.MAX_WATCH_IDS
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]
