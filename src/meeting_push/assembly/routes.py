"""对外的门：REST、两种 WebSocket、网页；各角色只开自己的。"""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter
from starlette.routing import BaseRoute

from ..http.cors import Cors
from ..limits.rate import TrustedProxies
from ..router.alerts_manage import alert_router
from ..router.auth_manage import auth_router, erasure_router, revocation_router, ticket_router
from ..router.contract_route import API_PREFIX, ContractRoute, complete, methods_of
from ..router.delivery_manage import delivery_router, queue_router
from ..router.event_stream import acks_router, event_stream_router
from ..router.inbox_manage import inbox_router
from ..router.inspection import inspection_router
from ..router.json_body import BodyRules
from ..router.meeting_manage import meeting_router, meeting_socket_router
from ..router.message_manage import broadcast_router, message_router, user_messages_router
from ..router.ops import Statistics, log_router, ops_router, stats_router
from ..router.persons import people_router
from ..router.presence_manage import presence_router
from ..router.security import Security
from ..router.turns import LargeTurns, Turns
from ..router.web import web_router
from ..settings import Settings
from .alerting import Alerting
from .observation import Observation, Rooms


@dataclass(frozen=True, slots=True)
class Doors:
    """三张平的表；``POST /messages`` 在最前：路由是一条一条试的。"""

    #: ``/api/v1/…``、``/ws/…``。
    api: list[BaseRoute]
    #: ``/healthz``、``/readyz``、``/metrics``。
    probes: list[BaseRoute]
    #: ``/``、``/inbox``、``/ops``、``/static/…``。
    pages: list[BaseRoute]


def routes(settings: Settings, rooms: Rooms, observation: Observation, alerting: Alerting) -> Doors:
    proxies = TrustedProxies(settings.http.trusted_proxies)
    parts, pages = list[APIRouter](), list[APIRouter]()
    if settings.process.role.serves_api:
        parts = _api(settings, rooms, observation, alerting)
        parts.append(meeting_socket_router(rooms.meetings.hub))
        pages.append(web_router(proxies))
    if settings.process.role.holds_sockets:
        parts.append(user_messages_router(rooms.edge.manager))
        parts.append(event_stream_router(rooms.edge.manager))
        rooms.edge.manager.ops.provide(_statistics(rooms, observation).text)
    cors = Cors(settings.handshake.allowed_origins)
    probes = [ops_router(observation.health, observation.metrics)]
    doors = Doors(*(_table(each, cors) for each in (parts, probes, pages)))
    rules = BodyRules(settings.http, settings.messages, settings.meeting)
    large = LargeTurns() if settings.messages.sends_per_user_per_s else None
    turns = Turns(proxies, rooms.edge.manager.admission.refusal_delay_s, large=large)
    for route in (*doors.api, *doors.probes, *doors.pages):
        if isinstance(route, ContractRoute):
            route.requests = observation.requests.of(min(methods_of(route)), route.path)
        if isinstance(route, ContractRoute) and route.path.startswith(API_PREFIX):
            route.turns = turns
            route.refused = observation.refused
            route.body_rule = rules.of(route.path.removeprefix(API_PREFIX))
    return doors


def _table(parts: list[APIRouter], cors: Cors) -> list[BaseRoute]:
    return complete((route for part in parts for route in part.routes), cors)


def _statistics(rooms: Rooms, observation: Observation) -> Statistics:
    queue, count_online = rooms.messages.queue, rooms.bus.count_online
    return Statistics(observation.reports, queue, count_online, observation.activity)


def _api(
    settings: Settings, rooms: Rooms, observation: Observation, alerting: Alerting
) -> list[APIRouter]:
    access, messages, outcomes = rooms.access, rooms.messages, rooms.outcomes
    security = Security(access.credentials, settings.http.trusted_proxies, access.keys)
    admin = security.require_admin
    broadcasts, people = rooms.broadcasts.service, rooms.record.people
    names = rooms.record.shown_names
    return [
        message_router(
            messages.messages,
            messages.confirmation,
            security,
            broadcasts=broadcasts,
            quota=access.quota,
            rules=settings.messages,
            people=people,
            names=names,
        ),
        inbox_router(messages.messages, security, names, people),
        auth_router(access.auth, security, accounts=settings.auth.owns_accounts),
        ticket_router(access.tickets, security),
        revocation_router(access.revocations, security, people),
        erasure_router(rooms.erasing.erasures, security, people),
        presence_router(rooms.edge.presence, rooms.bus.control, security, people),
        stats_router(_statistics(rooms, observation), alerting.history, security),
        meeting_router(
            rooms.meetings.service,
            security,
            quota=access.quota,
            rules=settings.meeting,
            people=people,
        ),
        delivery_router(
            messages.confirmation, outcomes.failures, messages.mailbox, security, people
        ),
        queue_router(messages.queue, outcomes.dead_letters, admin, people),
        broadcast_router(broadcasts, security.admin_or("broadcast"), settings.messages),
        alert_router(alerting.desk, admin),
        inspection_router(observation.inspector, observation.tracer, admin, people),
        people_router(people, names, rooms.bus.redis.keys.user_channel, security),
        log_router(observation.log_counts, security),
        acks_router(rooms.edge.rest_acks, security),
    ]
