"""表的定义。时间列一律 BIGINT 毫秒；改这里必须同时写一份迁移（有测试核对两者一致）。

``messages``、``message_recipients`` 不对 ``users`` 设外键：内嵌的应用带来自己的用户。
收件人也不对消息设外键：两者总在同一个事务里写入，而一万行的逐行检查会拖慢接受。
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
)

from .operations_tables import message_id as _message_id
from .operations_tables import metadata as metadata
from .operations_tables import partial_index as _partial_index
from .operations_tables import serial as _serial

users = Table(
    "mp_users",
    metadata,
    Column("id", _serial, primary_key=True),
    Column("username", String(64), nullable=False),
    Column("username_key", String(256), nullable=False),  # NFKC + casefold 之后，可能变长
    Column("password_hash", String(255), nullable=False),
    Column("role", String(32), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("disabled_at", BigInteger),
    Index("mp_ux_users_username_key", "username_key", unique=True),
    # 删掉的 id 不得再发给新人：旧令牌还认得它。
    sqlite_autoincrement=True,
)

refresh_tokens = Table(
    "mp_refresh_tokens",
    metadata,
    Column("token_hash", LargeBinary(32), nullable=False),
    Column("family_id", String(26), nullable=False),
    Column("user_id", _serial, ForeignKey("mp_users.id", ondelete="CASCADE"), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("used_at", BigInteger),
    Column("revoked_at", BigInteger),
    PrimaryKeyConstraint("token_hash"),
    Index("mp_ix_refresh_tokens_family", "family_id"),
    Index("mp_ix_refresh_tokens_user", "user_id"),
    sqlite_with_rowid=False,
)

# 人的 id 是一段字的：号是 ``id`` + 2^53，别的表里只有号。大小写不同是两个人，不论库怎样比。
people = Table(
    "mp_people",
    metadata,
    Column("id", _serial, primary_key=True),
    Column(
        "outer_id",
        String(64).with_variant(String(64, collation="C"), "postgresql"),
        nullable=False,
    ),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", BigInteger),  # 谁发给了他，他才被认识；NULL = 自己来的，或应用说的
    Index("mp_ux_people_outer_id", "outer_id", unique=True),
    _partial_index(
        "mp_ix_people_created_by", "created_by", "created_at", where="created_by IS NOT NULL"
    ),
    # 删掉的号不得再发给别人：Redis 里、旧令牌里还有它。
    sqlite_autoincrement=True,
)

# 会话与令牌两列为空即吊销整个用户；同一对象再吊销一次是改这一行。
revocations = Table(
    "mp_revocations",
    metadata,
    Column("user_id", BigInteger, nullable=False),
    Column("session_id", String(256), nullable=False),
    Column("token_id", String(256), nullable=False),
    Column("revoked_before", BigInteger, nullable=False),
    Column("expires_at", BigInteger),  # NULL = 永远
    Column("version", BigInteger, nullable=False),
    PrimaryKeyConstraint("user_id", "session_id", "token_id"),
    Index("mp_ix_revocations_version", "version"),
    sqlite_with_rowid=False,
)

# 一行：已发到第几号。先锁它再写，号的次序就是提交的次序，按号取增量才不会漏。
revocation_version = Table(
    "mp_revocation_version",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
)

# 名字里有我们的名字：0.1 建的库没有前缀，而 ``api_keys`` 是应用自己爱用的。
api_keys = Table(
    "mp_meeting_push_keys",
    metadata,
    Column("id", _serial, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("scopes", String(128), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),  # SHA-256；密钥本身从不存
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Index("mp_ux_meeting_push_keys_digest", "digest", unique=True),
    # 号不得再用：消息、幂等键记在它名下。
    sqlite_autoincrement=True,
)

# 抹掉一个人的活：一行一个人，永远留着他的号（``people/erasure.py``）。
erasures = Table(
    "mp_erased_people",
    metadata,
    Column("user_id", BigInteger, nullable=False),
    Column("name", String(64)),  # 他的用户名：转录里要找；前几遍做完就没有了
    Column("requested_at", BigInteger, nullable=False),
    Column("passes", Integer, nullable=False),  # 做完了几遍
    Column("next_at", BigInteger),  # 下一遍何时；NULL = 都做完了
    Column("holder", String(64), nullable=False),
    Column("lease_until", BigInteger, nullable=False),
    PrimaryKeyConstraint("user_id"),
)

# 行可达 64 KB，WITHOUT ROWID 会把整行放进 B 树内部节点，所以这张表留着 rowid。
messages = Table(
    "mp_messages",
    metadata,
    Column("message_id", _message_id, nullable=False),
    Column("sender_id", BigInteger, nullable=False),
    Column("sender_name", String(256), nullable=False),
    Column("message_type", String(16), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("title", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("data", Text),  # JSON 原文：jsonb 不收 NUL 转义，而 data 要原样送达
    Column("receipt", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("deliver_at", BigInteger),
    Column("enqueued_at", BigInteger),  # NULL = 还在 outbox
    Column("expired_at", BigInteger),  # 过期清理做完的时刻
    Column("recipient_count", Integer, nullable=False),
    Column("key_id", BigInteger),  # 哪一枚 API 密钥发的；``sender_id`` 为 0 则没有替谁发
    Column("withdrawn_at", BigInteger),  # 撤回了的：标题、正文、data 也都没有了
    PrimaryKeyConstraint("message_id"),
    _partial_index("mp_ix_messages_outbox", "message_id", where="enqueued_at IS NULL"),
    _partial_index("mp_ix_messages_expiry", "expires_at", where="expired_at IS NULL"),
    # 各人、各密钥发出去的；一条至多在其中一个里，系统自己发的（谁也不翻）不在。
    _partial_index(
        "mp_ix_messages_sender",
        "sender_id",
        "message_id",
        where="key_id IS NULL AND sender_id <> 0",
    ),
    _partial_index("mp_ix_messages_key", "key_id", "message_id", where="key_id IS NOT NULL"),
)

# 没有任何索引提到 status、sent_at、delivered_at：记下一次送达在 PostgreSQL 上是 HOT 更新（页里
# 有空位才行：混着来的全是，一条消息的 500 人一起确认时 24 %，见 docs/tuning.md），在 SQLite 上
# 只改一处。加一个 status = 'pending' 的部分索引，实测两边都慢到 0.4～0.5 倍
# （PostgreSQL 65k → 25k 行/秒，SQLite 46k → 25k 行/秒）；未送达的行经收件箱索引去找，过期的
# 经 messages 的 ix_messages_expiry 去找。失败、过期的索引只看各自的时刻，送达从不碰它们。
message_recipients = Table(
    "mp_message_recipients",
    metadata,
    Column("message_id", _message_id, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("status", String(9), nullable=False),
    Column("attempts", SmallInteger, nullable=False),
    Column("deliver_at", BigInteger),  # 与消息相同；放在这里，未读数不必连表
    Column("sent_at", BigInteger),
    Column("delivered_at", BigInteger),
    Column("failed_at", BigInteger),
    Column("failure_reason", String(200)),
    Column("failure_cause", String(16)),  # 失败、过期的；NULL = 旧程序记的
    Column("expired_at", BigInteger),  # 记为过期的时刻
    Column("read_at", BigInteger),
    Column("archived_at", BigInteger),  # 他归档的时刻；归档着的不因旧而清理
    PrimaryKeyConstraint("message_id", "user_id"),
    # 末尾的几列让未读的只看索引就能数出来；另立一个“只有未读”的索引，在 SQLite 上每写一行
    # 多 13 µs（34 → 21，见 docs/tuning.md）。
    Index(
        "mp_ix_recipients_inbox",
        *("user_id", "message_id", "read_at", "deliver_at", "archived_at"),
    ),
    _partial_index(
        "mp_ix_recipients_failed",
        *("failed_at", "message_id", "user_id"),
        where="failed_at IS NOT NULL",
    ),
    _partial_index(
        "mp_ix_recipients_expired", "expired_at", "failure_cause", where="expired_at IS NOT NULL"
    ),
    # 写入时没有归档的：不进这个索引
    _partial_index(
        "mp_ix_recipients_archived", "user_id", "message_id", where="archived_at IS NOT NULL"
    ),
    sqlite_with_rowid=False,
    # 清理跟得上删旧的（``retention.py``）：几千万行的五分之一才清一次太晚，前头的索引都是死的
    postgresql_with={
        "fillfactor": 80,
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_vacuum_threshold": 10_000,
    },
)

# 发给所有人的消息：正文在 ``messages``（它在那里算已入队，普通的发件箱看不见它）。
broadcasts = Table(
    "mp_broadcasts",
    metadata,
    Column("message_id", _message_id, nullable=False),
    Column("logged_at", BigInteger),  # NULL = 还在 outbox，没有进 broadcast_log
    PrimaryKeyConstraint("message_id"),
    _partial_index("mp_ix_broadcasts_outbox", "message_id", where="logged_at IS NULL"),
)

# 只有确认过的人才有一行：发给一百万人的广播，发出时不写一百万行。
broadcast_receipts = Table(
    "mp_broadcast_receipts",
    metadata,
    Column("message_id", _message_id, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("delivered_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("message_id", "user_id"),
    sqlite_with_rowid=False,
)

# 一个人对一条广播做过什么；没有做过的没有行：发给所有人的不为每个人写一行。
broadcast_states = Table(
    "mp_broadcast_states",
    metadata,
    Column("user_id", BigInteger, nullable=False),
    Column("message_id", _message_id, nullable=False),
    Column("read_at", BigInteger),
    Column("archived_at", BigInteger),
    PrimaryKeyConstraint("user_id", "message_id"),
    Index("mp_ix_broadcast_states_message", "message_id"),
    sqlite_with_rowid=False,
)

# 看过或动过收件箱的人一行。名字里有我们的名字，同 ``api_keys``。
inboxes = Table(
    "mp_meeting_push_inboxes",
    metadata,
    Column("user_id", BigInteger, nullable=False),
    Column("since", _message_id, nullable=False),  # 不早于它的广播是他的：从他被认识起
    Column("version", BigInteger, nullable=False),  # 他的已读、归档每变一次加一
    PrimaryKeyConstraint("user_id"),
    sqlite_with_rowid=False,
)

idempotency_keys = Table(
    "mp_idempotency_keys",
    metadata,
    Column("sender_id", BigInteger, nullable=False),
    Column("key", String(255), nullable=False),
    Column("request_hash", LargeBinary(32), nullable=False),
    Column("response", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("sender_id", "key"),
    Index("mp_ix_idempotency_keys_created", "created_at"),
)

meetings = Table(
    "mp_meetings",
    metadata,
    Column("meeting_id", _message_id, nullable=False),
    Column("title", Text, nullable=False),
    Column("organizer_id", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    # 最新一段转录的号：与那一段在同一个事务里加一，所以没有洞；没有索引提到它（HOT 更新）。
    Column("last_seq", BigInteger, nullable=False),
    PrimaryKeyConstraint("meeting_id"),
    postgresql_with={"fillfactor": 80},
)

meeting_participants = Table(
    "mp_meeting_participants",
    metadata,
    Column("meeting_id", _message_id, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("name", String(256), nullable=False),
    Column("invited_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("meeting_id", "user_id"),
    Index("mp_ix_meeting_participants_user", "user_id", "meeting_id"),
    sqlite_with_rowid=False,
)

# 一段可达十几 KB，同 messages，留着 rowid。
transcript_segments = Table(
    "mp_transcript_segments",
    metadata,
    Column("meeting_id", _message_id, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("sender_id", BigInteger, nullable=False),
    Column("speaker", String(256), nullable=False),
    Column("text", Text, nullable=False),
    Column("start_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("meeting_id", "seq"),
)

# 只有一行（id = 1），见 ``recovery/reconciler.py``。
delivery_generation = Table(
    "mp_delivery_generation",
    metadata,
    Column("id", Integer, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("mark", BigInteger, nullable=False),
    Column("cursor", _message_id),  # 重新投递做到哪条消息；NULL = 没有在做
    Column("holder", String(26), nullable=False),
    Column("lease_until", BigInteger, nullable=False),
    Column("database_id", String(26)),  # 这个数据库是谁；Redis 里也记着
    PrimaryKeyConstraint("id"),
)

# 谁在服务：每个进程每秒写一次自己的一行（就绪检查的那一次写），时刻是数据库的钟。
nodes = Table(
    "mp_nodes",
    metadata,
    Column("node_id", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("version", String(32), nullable=False),
    Column("hears", Boolean, nullable=False),  # 写得进 Redis，也听得见
    Column("joined", Boolean, nullable=False),  # 与先来的相合过
    Column("signs", String(64), nullable=False),  # 签名钥匙的指纹；不签则空
    Column("started_at", BigInteger, nullable=False),
    Column("beat_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("node_id"),
)

# 主要的数：一分钟一行，老了的十分钟一行。数是 JSON（名字 → 数）：后来添的数不必再迁移。
stats_history = Table(
    "mp_stats_history",
    metadata,
    Column("step_s", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),  # 这一段开始的时刻
    Column("figures", Text, nullable=False),  # 不知道的不在其中
    PrimaryKeyConstraint("step_s", "at"),
)

# 一行（id = 1）：没有说留多久时的天数（建库时定下：从前用过的 0），下一遍何时、轮到谁。
# 名字里有我们的名字，同 ``api_keys``。
retention = Table(
    "mp_meeting_push_retention",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("default_days", Integer, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Column("holder", String(64), nullable=False),
    Column("lease_until", BigInteger, nullable=False),
)
