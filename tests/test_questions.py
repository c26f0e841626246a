"""别的系统的用户问过的，答在哪一页、哪一节：那一节在，说了要说的话，有测试证明它。

答案在 ``docs/howto/`` 的，证明就是照抄着跑了一遍（``tests/system/guest/test_howto.py``）。

问题取自 Centrifugo、python-socketio、Flask-SocketIO、django/channels 公开的问题单，用自己的话说。
"""

from __future__ import annotations

import re
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]


class Question(NamedTuple):
    """``says``：答案里的字；``proof``：证明它的测试。"""

    asked: str
    page: str
    heading: str
    says: tuple[str, ...]
    proof: str


QUESTIONS: Final = (
    Question(
        "Is there an event when a user leaves, so that I can send a push notification?",
        *("webhooks.md", "事件", ("user.online", "user.offline")),
        "test_only_the_first_device_and_the_last_are_a_turn",
    ),
    Question(
        "Can a client know that it missed messages because history was too short or too old?",
        *("websocket-api.md", "写一个客户端", ("gap", "resync")),
        "test_a_log_trimmed_past_the_position_is_a_resync",
    ),
    Question(
        "A user was offline for a day: does he get what was sent meanwhile?",
        *(
            "life-of-a-message.md",
            "8. 不在线的人回来 — `websocket/manager.py` → `websocket/opening.py`",
            ("信箱",),
        ),
        "test_3_2_offline_messages_come_on_connecting_urgent_first",
    ),
    Question(
        "How do I see whether a user is online right now?",
        *("contract.md", "REST", ("/presence/users",)),
        "test_presence_sees_the_device_come_and_go",
    ),
    Question(
        "Does a 202 mean that the message reached somebody? How do I ask?",
        *("delivery.md", "状态", ("delivered", "pending")),
        "test_dlv_4_delivered_is_set_by_the_ack_alone",
    ),
    Question(
        "Do two messages arrive in the order in which I sent them, also over several nodes?",
        *("websocket-api.md", "写一个客户端", ("同一优先级里按 seq 到来", "紧急的会插队")),
        "test_dlv_3_one_sender_is_numbered_in_the_order_of_his_posts",
    ),
    Question(
        "How do I emit from a Celery task, a script or another process?",
        *("embedding.md", "同步的后端", ("Publisher", "Celery")),
        "test_flask_puts_it_off_to_celery",
    ),
    Question(
        "My connection drops after 60 seconds behind nginx.",
        *("howto/proxies.md", "会出什么错", ("60 秒整断开", "两倍")),
        "test_each_waits_longer_than_two_heartbeats",
    ),
    Question(
        "The upgrade is answered 400 or 426 behind a proxy.",
        *("howto/proxies.md", "会出什么错", ("426", "proxy_http_version 1.1")),
        "test_each_block_runs_and_prints_what_the_page_shows",
    ),
    Question(
        "Do I need sticky sessions?",
        *("tuning.md", "代理", ("不要粘性会话",)),
        "test_a_node_that_leaves_costs_nobody_a_message",
    ),
    Question(
        "The token expires while connected: do I have to reconnect?",
        *("security.md", "凭据", ("refresh_token", "token_expiring")),
        "test_a_refreshed_token_counts_from_then_on",
    ),
    Question(
        "How do I end all sessions of a user at once?",
        *("security.md", "吊销", ("4502",)),
        "test_a_revocation_takes_effect_while_redis_is_down",
    ),
    Question(
        "How do I limit how many devices a user may connect?",
        *("operations.md", "连接的数目与快慢", ("MAX_DEVICES_PER_USER", "evict_oldest")),
        "test_reject_is_4006_whatever_node",
    ),
    Question(
        "Everybody reconnects at once after a deploy and the server falls over.",
        *("operations.md", "关机的次序", ("随机", "reconnect_after_ms")),
        "test_everybody_is_told_and_sent_off_over_the_window",
    ),
    Question(
        "How much memory does a connection take, and how many fit on one machine?",
        *("scaling.md", "系数", ("一条空闲连接 | 9.5 KB", "一条空闲连接 | 3.8 KB")),
        "test_4_1_a_thousand_sockets",
    ),
    Question(
        "Redis was restarted and lost its data: what is lost?",
        *("delivery.md", "谁会死，死了怎样", ("Redis",)),
        "test_dlv_5_a_redis_that_lost_its_data_is_one_resync_a_device",
    ),
    Question(
        "The database is down for a minute: are connected users thrown out?",
        *("delivery.md", "谁会死，死了怎样", ("| SQL | `POST` 503", "连接与补发照常")),
        "test_the_database_may_be_down",
    ),
    Question(
        "A client stops reading: does memory grow for ever?",
        *("tuning.md", "我们自己的设置", ("OUTBOX_MAX_BYTES", "4001")),
        "test_a_slow_consumer_is_4001_and_delays_nobody",
    ),
    Question(
        "May the same message come twice? How do I not show it twice?",
        *("websocket-api.md", "写一个客户端", ("message_id",)),
        "test_dlv_2_a_duplicate_is_acked_again_but_not_handed_over",
    ),
    Question(
        "A retried POST sent the message twice.",
        *("contract.md", "REST", ("Idempotency-Key",)),
        "test_an_idempotency_key_makes_a_retry_harmless",
    ),
    Question(
        "How do I send only if my own transaction commits?",
        *("embedding.md", "十五行", ("send_in_transaction",)),
        "test_a_synchronous_transaction_rolled_back_sends_nothing",
    ),
    Question(
        "My users have UUIDs, not numbers.",
        *(
            "howto/string-ids.md",
            "步骤",
            ("MEETING_PUSH_USER_IDS=string", "7c1f0c2e-9d53-4c1c-8f7a-2b6a5d0e9b11"),
        ),
        "test_each_block_runs_and_prints_what_the_page_shows",
    ),
    Question(
        "I want to use my own JWTs, from Keycloak.",
        *(
            "howto/own-tokens.md",
            "公钥在 JWKS 里",
            ("MEETING_PUSH_JWT_JWKS_URL", "realm_access.roles"),
        ),
        "test_each_block_runs_and_prints_what_the_page_shows",
    ),
    Question(
        "The browser says the origin is not allowed, or CORS.",
        *("security.md", "运维要设置的", ("allowed_origins", "CORS")),
        "test_f5_a_foreign_origin_gets_no_cors_header",
    ),
    Question(
        "How do I send to everybody?",
        *(
            "life-of-a-message.md",
            "10. 发给所有人的 — `broadcast/service.py` → `broadcast/feed.py`",
            ("broadcast",),
        ),
        "test_a_broadcast_by_a_key",
    ),
    Question(
        "How do I schedule a message, and cancel it?",
        *("contract.md", "REST", ("deliver_at", "DELETE /messages")),
        "test_a_scheduled_message_beyond_the_share_can_be_cancelled",
    ),
    Question(
        "Who read it? Can my back end be told?",
        *("webhooks.md", "事件", ("message.read",)),
        "test_reading_is_told_once",
    ),
    Question(
        "Redis fails over by Sentinel: what do I have to do?",
        *("howto/sentinel.md", "步骤", ("redis+sentinel://",)),
        "test_each_block_runs_and_prints_what_the_page_shows",
    ),
    Question(
        "One Redis is not enough: does it run on Redis Cluster?",
        *("howto/cluster.md", "步骤", ("redis+cluster://", "MEETING_PUSH_QUEUE_PARTITIONS")),
        "test_each_block_runs_and_prints_what_the_page_shows",
    ),
    Question(
        "On a Cluster my other service publishes to Redis and nobody hears it.",
        *("howto/cluster.md", "看它成了没有", ("SPUBLISH", "-c")),
        "test_each_block_runs_and_prints_what_the_page_shows",
    ),
    Question(
        "Why was this message not delivered?",
        *("delivery.md", "为什么没有送达", ("network", "authentication")),
        "test_a_failure_has_its_reason",
    ),
    Question(
        "How do I upgrade without stopping anybody?",
        *("howto/upgrade.md", "步骤", ("meeting-push db sql", "TERM")),
        "test_each_block_runs_and_prints_what_the_page_shows",
    ),
    Question(
        "The new version is bad: how do I go back?",
        *("operations.md", "升级与退回", ("旧的程序直接启动就行", "meeting-push db downgrade")),
        "test_e10_the_command_line_goes_back",
    ),
    Question(
        "How do I back it up, and what do I do after a restore?",
        *("howto/backup.md", "PostgreSQL 与外面的 Redis", ("pg_dump", "meeting-push db restored")),
        "test_each_block_runs_and_prints_what_the_page_shows",
    ),
    Question(
        "How do I watch it with Prometheus and Grafana?",
        *("operations.md", "告警", ("deploy/prometheus/", "deploy/grafana/")),
        "test_a_real_fault_fires_arrives_here_and_clears",
    ),
    Question(
        "How do I erase a person (GDPR)?",
        *("security.md", "抹掉一个人", ("DELETE /users",)),
        "test_only_administrators_erase_and_only_whom_there_is",
    ),
)


@cache
def section(page: str, heading: str) -> str:
    """那一节的全文，连同它下面的小节；没有这个标题就是空的。"""
    text = (ROOT / "docs" / page).read_text()
    found = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    if found is None:
        return ""
    after = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", after, re.MULTILINE)
    return after[: end.start()] if end else after


@cache
def named_tests() -> frozenset[str]:
    names = (re.findall(r"def (test_\w+)", path.read_text()) for path in ROOT.glob("tests/**/*.py"))
    return frozenset(chain.from_iterable(names))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.asked[:60])
def test_it_is_answered_where_it_says_and_proven(question: Question) -> None:
    text = section(question.page, question.heading)
    assert text, (question.page, question.heading)
    assert [word for word in question.says if word not in text] == []
    assert question.proof in named_tests()


def test_there_are_thirty_of_them() -> None:
    assert len({question.asked for question in QUESTIONS}) >= 30
