"""组装：唯一认识所有人的文件。

跟着一条消息，一间房一间房地走（``assembly/``，次序就是这里构造的次序）：

1. ``ground``：SQL，消息在这里被接受，此后不会丢；Redis，数据与订阅各一条连接；谁进得来。
2. ``message_path``：接受（MessageService）→ 入队（OutboxRelay、MessageQueue）→ 取出
   （ConsumerPool）→ 投递（OfflineMessageQueue）→ 确认（DeliveryConfirmationService）。
   没有等到确认的，做不了的；发给所有人的；Redis 丢了数据之后的对账。
3. ``edge``：推送（ConnectionManager），谁在线，听不听得见；会议。
4. ``observation``、``alerting``、``routes``：看着前面各间的，出了事告诉人的，与对外的门。

每间房只认识排在它前面的；里面的各站只通过构造函数相识，构造时不连 Redis 与数据库。
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable

from fastapi import APIRouter, FastAPI, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from .assembly.alerting import Alerting
from .assembly.edge import Edge, Meetings
from .assembly.events_out import EventsOut
from .assembly.ground import Access, Bus, Record
from .assembly.message_path import BroadcastPath, Erasing, MessagePath, OutcomePath, Recovery
from .assembly.observation import Observation, Rooms
from .assembly.routes import routes
from .contracts import TokenVerifier, UserDirectory
from .errors import MeetingPushError
from .events.delivery import Handler
from .http.host_signals import drained_first
from .limits.rate import TrustedProxies, rate_key
from .model import QueueEntry
from .monitoring.edge_samples import RouteRequests
from .node_identity import NodeIdentity
from .router.contract_route import count, until_gone
from .router.error_answers import ErrorHandler, install_error_handlers, on_expected
from .router.security import address_of
from .router.web import add_docs, add_home
from .settings import Identity, Settings
from .supervision import Supervisor
from .version import __version__
from .websocket.asgi import no_websocket


class MeetingPush:
    """整个系统的一个节点：构造不做 I/O，``start`` 取得资源，``stop`` 倒序放开。

    内嵌进别人的应用::

        push = MeetingPush(load_settings())
        app = FastAPI(lifespan=push.lifespan)
        app.include_router(push.router)

    人归应用：没有注册、登录、刷新的路由，我们不发 id 也不发令牌。``verifier`` 验证应用自己的令牌，
    不给就按 ``jwt_*`` 的钥匙验证；``directory`` 是应用的用户表，不给则发给谁谁就存在。要用我们的
    账号，明说 ``identity="accounts"``。

    支持的只有下面这些（有测试），其余的随时会变：

    - ``settings``、``node_id``：此刻生效的设置，这个节点在日志与报告里的名字
    - ``router``、``lifespan``，或自己叫 ``start``、``drain``、``stop``：装进别人的应用，任何前缀下
    - ``probes``、``pages``、``error_handlers``：探针与指标，网页与浏览器的 SDK，应用的路由里出来的
      我们的错误；要的才装
    - ``displaced``：Redis 被另一个数据库接手时置位，这个节点不该再留着
    - ``messages``：发送，也可在应用自己的事务里；收件箱
    - ``broadcasts``：发给所有人
    - ``meetings``：会议的建立、邀请、结束、记录
    - ``publisher``：瞬时的，不落信箱
    - ``mailbox``：一个人还没确认的，看与清空
    - ``confirmation``：一条消息、一个人的投递状态与统计
    - ``presence``：谁在线，几台设备
    - ``manager``：这个节点握着的连接，送走谁
    - ``auth``：我们的账号（``identity="accounts"``）
    - ``people``：应用的 id（一段字）与内里的号；收号的方法（``presence``、``mailbox`` …）要它
    - ``revocations``：吊销令牌、会话、用户；停用一个人时要叫它
    - ``on``：消息有了去向、告警触发时叫应用的函数
    - ``erasures``：抹掉一个人
    - ``health``、``metrics``：``/readyz``、``/metrics`` 说的，可并进应用自己的
    """

    def __init__(
        self,
        settings: Settings,
        *,
        identity: Identity | None = None,
        directory: UserDirectory | None = None,
        verifier: TokenVerifier | None = None,
    ) -> None:
        owner = identity or settings.auth.identity or "application"
        self.settings = settings.changed(identity=owner)
        self._brought = directory, verifier
        self.router, self.probes, self.pages = APIRouter(), APIRouter(), APIRouter()
        self._stack = contextlib.AsyncExitStack()
        #: 起过的那个事件循环。
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = False
        self._leaving: asyncio.Task[None] | None = None
        self._assemble()

    @property
    def node_id(self) -> str:
        """这个进程里的这个节点；fork 之后各是各的。"""
        return self._node.id

    @property
    def error_handlers(self) -> dict[int | type[Exception], ErrorHandler]:
        """给 ``FastAPI(exception_handlers=…)``：我们的错误从应用的路由里出来，也是契约的样子。"""
        return {MeetingPushError: on_expected}

    # ── 组装 ────────────────────────────────────────────────────────────────

    def _assemble(self) -> None:
        """一个新的节点；路由器还是那几个，装进应用的不必再装。"""
        self._node, self._supervisor = NodeIdentity(), Supervisor()
        self._rooms = self._build(*self._brought)
        self._observation = Observation(self.settings, self._node, self._rooms, self._supervisor)
        self._alerting = Alerting(
            self.settings, self._node, rooms=self._rooms, observation=self._observation
        )
        doors = routes(self.settings, self._rooms, self._observation, self._alerting)
        for router, table in (
            (self.router, doors.api),
            (self.probes, doors.probes),
            (self.pages, doors.pages),
        ):
            router.routes[:] = table
            router._mark_routes_changed()
        self._introduce(self._rooms)

    def _build(self, directory: UserDirectory | None, verifier: TokenVerifier | None) -> Rooms:
        settings, node = self.settings, self._node
        record = Record(settings, directory)
        bus = Bus(settings, record.database)
        access = Access(settings, record, bus, verifier)
        events = EventsOut(settings, node, record, bus)
        messages = MessagePath(settings, node, record, bus, self._record_dead)
        outcomes = OutcomePath(settings, node, record=record, bus=bus, path=messages)
        broadcasts = BroadcastPath(settings, record, bus, messages)
        recovery = Recovery(
            settings, node, record=record, bus=bus, messages=messages, broadcasts=broadcasts
        )
        edge = Edge(
            settings,
            node,
            record=record,
            bus=bus,
            access=access,
            messages=messages,
            outcomes=outcomes,
            broadcasts=broadcasts,
            settled=recovery.reconciler.settled,
        )
        meetings = Meetings(
            settings, record=record, bus=bus, access=access, messages=messages, edge=edge
        )
        return Rooms(
            record=record,
            bus=bus,
            access=access,
            events=events,
            messages=messages,
            outcomes=outcomes,
            broadcasts=broadcasts,
            recovery=recovery,
            edge=edge,
            meetings=meetings,
            erasing=Erasing(settings, record, bus, access, messages),
        )

    async def _record_dead(self, entry: QueueEntry, reason: str) -> None:
        """唯一往后认识的一处：队列做不了的，由后一间房记下。"""
        await self._rooms.outcomes.record_dead(entry, reason)

    def _introduce(self, rooms: Rooms) -> None:
        """各房间里应用用得着的，放在门口。"""
        path, edge = rooms.messages, rooms.edge
        self.messages, self.mailbox = path.messages, path.mailbox
        self.confirmation, self.publisher = path.confirmation, path.publisher
        self.broadcasts, self.meetings = rooms.broadcasts.service, rooms.meetings.service
        self.manager, self.presence = edge.manager, edge.presence
        self.auth, self.revocations = rooms.access.auth, rooms.access.revocations
        self.people = rooms.record.people
        self.erasures = rooms.erasing.erasures
        self.displaced = rooms.recovery.claim.lost
        self.health, self.metrics = self._observation.health, self._observation.metrics

    def on(self, kind: str, handler: Handler) -> None:
        """发生了 ``kind``（``message.delivered`` …）就叫 ``handler``；在 ``start`` 之前登记。

        至少一次，同一条消息的照次序，抛出的过一会儿再来。收到的是一个事件：
        ``id``、``type``、``timestamp``、``data``。同步的函数在旁边的线程里做。

        :raises ConfigurationError: 没有这种事件，或已经启动了
        """
        self._rooms.events.on(kind, handler)

    # ── 生与死 ───────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """取得资源并启动本角色的循环；中途失败则已取得的全部放开。

        停下之后可以再起，在另一个事件循环里也行：那是一个新的节点，从 ``push`` 上另取各部分。

        :raises ConfigurationError: 配置与现实不符
        :raises UnavailableError: Redis 或数据库连不上
        """
        loop = asyncio.get_running_loop()
        if self._started or self._loop not in (None, loop):
            self._assemble()
        self._loop, self._leaving, self._started = loop, None, False
        rooms = self._rooms
        async with contextlib.AsyncExitStack() as stack:
            await rooms.bus.start_server(stack)
            await rooms.record.start(stack)
            await rooms.bus.start(stack)
            await self.revocations.refresh()
            stack.push_async_callback(rooms.messages.queue.close)
            await rooms.recovery.claim_redis(stack)
            await self._start_loops(stack)
            self._stack = stack.pop_all()
        self._started = True

    async def _start_loops(self, stack: contextlib.AsyncExitStack) -> None:
        role, rooms, supervisor = self.settings.process.role, self._rooms, self._supervisor
        stack.push_async_callback(rooms.edge.online_events.close)
        if role.holds_sockets:
            stack.push_async_callback(self.presence.close)
        reports = self._observation.reports
        stack.push_async_callback(reports.withdraw)
        stack.push_async_callback(self._observation.log_counts.finish)
        stack.push_async_callback(self._alerting.stop)
        stack.push_async_callback(rooms.events.stop)
        stack.push_async_callback(supervisor.stop)
        rooms.bus.start_watches(supervisor)
        self._observation.start(supervisor, stack)
        supervisor.start("node-report", reports.run)
        if self.settings.node.metrics:  # 没有数，也就没有什么可评估的
            self._alerting.start(supervisor)
        supervisor.start("presence-reap", self.presence.reaper.run)
        supervisor.start("online-events", rooms.edge.online_events.run)
        rooms.access.start(supervisor)
        rooms.events.start(supervisor)
        rooms.messages.start(supervisor)
        rooms.outcomes.start(supervisor)
        rooms.recovery.start(supervisor)
        rooms.erasing.start(supervisor)
        rooms.broadcasts.start(supervisor)
        if role.delivers:
            rooms.messages.start_workers(supervisor)
            rooms.outcomes.start_workers(supervisor)
        if role.holds_sockets:
            await rooms.edge.start(supervisor, stack)
        else:
            await rooms.bus.listen(stack)
            if role.serves_api:
                rooms.edge.start_acks(supervisor, stack)
        if role.serves_api:
            await rooms.meetings.start(supervisor, stack)

    async def drain(self) -> None:
        """停止服务的前半，次序的道理见 ``docs/operations.md``；之后 ``stop``。只做一次。"""
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave())
        await asyncio.shield(self._leaving)

    async def _leave(self) -> None:
        role, edge = self.settings.process.role, self._rooms.edge
        self.health.drain()
        if role.holds_sockets:
            edge.refuse()
        if role.delivers:
            await self._rooms.messages.consumers.drain()
        await self._send_guests_off()
        if role.holds_sockets or role.serves_api:
            await edge.finish_acks()

    async def _send_guests_off(self) -> None:
        role, leaving = self.settings.process.role, list[Awaitable[None]]()
        if role.serves_api:
            leaving.append(self._rooms.meetings.send_off())
        if role.holds_sockets:
            leaving.append(self._rooms.edge.send_off())
        await asyncio.gather(*leaving)

    async def stop(self) -> None:
        """倒序放开全部资源；可重复调用。"""
        await self._stack.aclose()

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """给 ``FastAPI(lifespan=…)``；在 uvicorn 里（gunicorn 的工人也是）收到信号先送客。"""
        await self.start()
        try:
            with drained_first(self.drain):
                yield
        finally:
            await self.drain()
            await self.stop()


def _counted(default: ASGIApp, unknown: RouteRequests, push: MeetingPush) -> ASGIApp:
    """没有这样的路径：也数一次，也是撞门。"""
    proxies = TrustedProxies(push.settings.http.trusted_proxies)

    async def no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            count(unknown, 404, 0)
            key = rate_key(address_of(Request(scope), proxies))
            await until_gone(receive, push.manager.admission.refusal_delay_s(key))
        await default(scope, receive, send)

    return no_such_path


def create_app(push: MeetingPush) -> FastAPI:
    """我们自己的服务器用的 FastAPI 应用；生命周期由 ``server.py`` 管。"""
    app = FastAPI(
        title="meeting-push",
        description="用户级实时推送：接受、投递、确认。",
        version=__version__,
        servers=[{"url": "/"}],
        openapi_url=None,  # 两个都是自己的，见 add_docs
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # 多一条斜杠就是另一个路径：不凭 Host 头把人带走（A17）
    )
    install_error_handlers(app)
    add_docs(app, TrustedProxies(push.settings.http.trusted_proxies))
    if push.settings.process.role.serves_api:
        add_home(app)
    for router in (push.router, push.probes, push.pages):
        app.router.routes.extend(router.routes)  # 不 include：少一层，见 ``contract_router``
    app.router.add_websocket_route("/{path:path}", no_websocket(push.manager))
    app.router.default = _counted(app.router.default, push._observation.requests.unknown, push)
    return app
