"""账号、刷新令牌、吊销；API 密钥的名字、范围与散列，密钥本身从不在这里。"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Collection, Sequence
from contextvars import Context
from dataclasses import asdict, dataclass, field
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, delete, func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ..errors import NotFoundError, UsernameTakenError
from ..model import MAX_USER_ID, Revocation
from .database import Database, Repository
from .id_list import among
from .rows import RefreshToken, User, columns_of
from .tables import api_keys, refresh_tokens, revocation_version, revocations, users

_USERS: Final = select(*columns_of(User, users))
_CREATE_USER: Final = text(
    "INSERT INTO mp_users (username, username_key, password_hash, role, created_at)"
    " VALUES (:username, :username_key, :password_hash, :role, :created_at)"
    " ON CONFLICT (username_key) DO NOTHING RETURNING id"
)
_SQLITE_EXISTING: Final = (
    "SELECT id FROM mp_users WHERE id IN (SELECT value FROM json_each(?)) AND disabled_at IS NULL"
)
_PG_EXISTING: Final = text(
    "SELECT id FROM mp_users WHERE id = ANY(CAST(:ids AS bigint[])) AND disabled_at IS NULL"
)
#: 一次问这么多个以上的，不与别人的合在一起。
_ASKED_ALONE: Final = 200


class UserRepository(Repository):
    def __init__(self, database: Database) -> None:
        super().__init__(database)
        #: 下一次查询要问的，与它的结果。
        self._wanted: set[int] = set()
        self._answer: asyncio.Task[set[int]] | None = None

    async def create(self, username: str, password_hash: str, role: str, now: int) -> User:
        """:raises UsernameTakenError: 已有不分大小写、不分全半角的同名者"""
        values = {
            "username": username,
            "username_key": username_key(username),
            "password_hash": password_hash,
            "role": role,
            "created_at": now,
        }
        async with self._database.transaction() as connection:
            user_id = await connection.scalar(_CREATE_USER, values)
        if user_id is None:
            raise UsernameTakenError("the username is taken")
        return User(user_id, username, password_hash, role, now, None)

    async def by_name(self, username: str) -> User | None:
        return await self._one(users.c.username_key == username_key(username))

    async def by_id(self, user_id: int) -> User | None:
        return await self._one(users.c.id == user_id)

    async def set_password(
        self, connection: AsyncConnection, user_id: int, password_hash: str
    ) -> None:
        await self._change(connection, user_id, password_hash=password_hash)

    async def set_disabled(
        self, connection: AsyncConnection, user_id: int, disabled_at: int | None
    ) -> None:
        await self._change(connection, user_id, disabled_at=disabled_at)

    async def _change(self, connection: AsyncConnection, user_id: int, **values: object) -> None:
        """:raises NotFoundError: 没有这个人"""
        statement = update(users).where(users.c.id == user_id).values(**values)
        if (await connection.execute(statement)).rowcount == 0:
            raise NotFoundError("no such account")

    async def list(self, after_id: int = 0, limit: int = 100) -> list[User]:
        """``id`` 大于 ``after_id`` 的前 ``limit`` 个，按 id 升序。"""
        statement = _USERS.where(users.c.id > after_id).order_by(users.c.id).limit(limit)
        return [User(*row) for row in await self._database.rows(statement)]

    async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
        """见 ``contracts.UserDirectory``；同一圈里问的合成一次查询，一万个约 10 ms。"""
        wanted = {user_id for user_id in user_ids if 0 < user_id <= MAX_USER_ID}
        if len(wanted) > _ASKED_ALONE:
            return await self._existing(wanted)
        self._wanted |= wanted
        if self._answer is None:
            self._answer = asyncio.create_task(self._ask(), name="existing-ids", context=Context())
        # 一个人走了，别人还等着
        return wanted & await asyncio.shield(self._answer)

    async def _ask(self) -> set[int]:
        await asyncio.sleep(0)  # 这一圈里的都来了
        wanted, self._wanted, self._answer = self._wanted, set(), None
        return await self._existing(wanted)

    async def _existing(self, user_ids: Collection[int]) -> set[int]:
        if self._database.is_sqlite:
            listed = msgspec.json.encode(user_ids).decode()
            rows = await self._database.read_sqlite((_SQLITE_EXISTING, (listed,)))
            return {user_id for (user_id,) in rows}
        async with self._database.connect() as connection:
            return set(await connection.scalars(_PG_EXISTING, {"ids": list(user_ids)}))

    async def names(self, user_ids: Sequence[int]) -> dict[int, str]:
        """认得的各人的名字，停用的也在其中。"""
        statement = select(users.c.id, users.c.username).where(
            among(self._database, users.c.id, user_ids)
        )
        return {row.id: row.username for row in await self._database.rows(statement)}

    async def _one(self, condition: ColumnElement[bool]) -> User | None:
        row = await self._database.row(_USERS.where(condition))
        return None if row is None else User(*row)


def username_key(username: str) -> str:
    """判断同名用的形式：全半角、大小写、合成与分解都不加区分。"""
    folded = unicodedata.normalize("NFKC", username).casefold()
    return unicodedata.normalize("NFKC", folded)


# ── 刷新令牌 ─────────────────────────────────────────────────────────────────

_TOKENS: Final = select(*columns_of(RefreshToken, refresh_tokens))


class RefreshTokenRepository:
    """都在调用者的事务里。"""

    async def add(self, connection: AsyncConnection, token: RefreshToken) -> None:
        await connection.execute(insert(refresh_tokens), asdict(token))

    async def find(self, connection: AsyncConnection, token_hash: bytes) -> RefreshToken | None:
        statement = _TOKENS.where(refresh_tokens.c.token_hash == token_hash)
        row = (await connection.execute(statement)).one_or_none()
        return None if row is None else RefreshToken(*row)

    async def use(self, connection: AsyncConnection, token_hash: bytes, now: int) -> bool:
        """标为已用；False：它早已用过或被吊销。两个并发的调用只有一个得到 True。"""
        statement = (
            update(refresh_tokens)
            .where(
                refresh_tokens.c.token_hash == token_hash,
                refresh_tokens.c.used_at.is_(None),
                refresh_tokens.c.revoked_at.is_(None),
            )
            .values(used_at=now)
        )
        return (await connection.execute(statement)).rowcount == 1

    async def purge(self, connection: AsyncConnection, user_id: int, now: int) -> None:
        """删掉该用户已过期的；登录时顺手做，表的大小就有界。"""
        await connection.execute(
            delete(refresh_tokens).where(
                refresh_tokens.c.user_id == user_id, refresh_tokens.c.expires_at <= now
            )
        )

    async def forget_used(self, connection: AsyncConnection, family_id: str, keep: int) -> None:
        """一族里用过的只留最近 ``keep`` 枚。"""
        t = refresh_tokens.c
        used = select(t.used_at).where(t.family_id == family_id, t.used_at.is_not(None))
        oldest = used.order_by(t.used_at.desc()).offset(keep - 1).limit(1).scalar_subquery()
        await connection.execute(
            delete(refresh_tokens).where(t.family_id == family_id, t.used_at < oldest)
        )

    async def keep_newest(self, connection: AsyncConnection, user_id: int, keep: int) -> None:
        """一个用户的只留到期最晚的 ``keep`` 枚。"""
        t = refresh_tokens.c
        his = select(t.expires_at).where(t.user_id == user_id)
        oldest = his.order_by(t.expires_at.desc()).offset(keep - 1).limit(1).scalar_subquery()
        await connection.execute(
            delete(refresh_tokens).where(t.user_id == user_id, t.expires_at < oldest)
        )

    async def lock(self, connection: AsyncConnection, user_id: int) -> None:
        """等正在为该用户加令牌的事务提交，并挡住后来的，直到本事务结束。

        吊销之前调用：``add`` 的外键在用户行上取 KEY SHARE，不等它，刚换出的那枚就漏网。
        """
        await connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update())

    async def hold(self, connection: AsyncConnection, user: User) -> bool:
        """他还是 ``user`` 的样子（密码没换、没停用），而且在本事务结束之前一直是；否则 False。"""
        statement = select(users.c.id).where(
            users.c.id == user.id,
            users.c.password_hash == user.password_hash,
            users.c.disabled_at.is_(None),
        )
        return await connection.scalar(statement.with_for_update(read=True)) is not None

    async def families(self, connection: AsyncConnection, user_id: int) -> list[str]:
        """一个用户还没吊销的各族。"""
        t = refresh_tokens.c
        statement = select(t.family_id).where(t.user_id == user_id, t.revoked_at.is_(None))
        return list(await connection.scalars(statement.distinct()))

    async def revoke_family(self, connection: AsyncConnection, family_id: str, now: int) -> int:
        """吊销一族里还没吊销的，返回几枚；幂等。"""
        return await self._revoke(connection, refresh_tokens.c.family_id == family_id, now)

    async def revoke_user(self, connection: AsyncConnection, user_id: int, now: int) -> int:
        """吊销一个用户的全部，返回几枚；幂等。"""
        return await self._revoke(connection, refresh_tokens.c.user_id == user_id, now)

    async def _revoke(
        self, connection: AsyncConnection, whose: ColumnElement[bool], now: int
    ) -> int:
        statement = (
            update(refresh_tokens)
            .where(whose, refresh_tokens.c.revoked_at.is_(None))
            .values(revoked_at=now)
        )
        return (await connection.execute(statement)).rowcount


# ── 吊销 ─────────────────────────────────────────────────────────────────────

_NEXT_VERSION: Final = (
    update(revocation_version)
    .values(version=revocation_version.c.version + 1)
    .returning(revocation_version.c.version)
)
# 各节点的钟略有先后：再吊销一次不得把时刻往回拨。
_REVOKE: Final = text(
    "INSERT INTO mp_revocations"
    " (user_id, session_id, token_id, revoked_before, expires_at, version)"
    " VALUES (:user_id, :session_id, :token_id, :revoked_before, :expires_at, :version)"
    " ON CONFLICT (user_id, session_id, token_id) DO UPDATE SET"
    " revoked_before = CASE WHEN excluded.revoked_before > mp_revocations.revoked_before"
    " THEN excluded.revoked_before ELSE mp_revocations.revoked_before END,"
    " expires_at = excluded.expires_at, version = excluded.version"
)
_REVOCATIONS: Final = select(
    revocations.c.user_id,
    revocations.c.revoked_before,
    revocations.c.expires_at,
    revocations.c.session_id,
    revocations.c.token_id,
)


#: 不必再记的再留一天：删早了，作废的令牌又能用；我们的钟快一点也不要紧（E4）。
KEPT_MS: Final = 86_400_000


class RevocationRepository(Repository):
    async def add(self, connection: AsyncConnection, revocation: Revocation, now: int) -> None:
        """记下一次吊销；顺手删掉不必再记的。同时的吊销在版本那一行上排队，直到提交。"""
        version = await connection.scalar(_NEXT_VERSION)
        over = revocations.c.expires_at <= now - KEPT_MS
        await connection.execute(delete(revocations).where(over))
        values = {
            "user_id": revocation.user_id,
            "session_id": revocation.session_id or "",
            "token_id": revocation.token_id or "",
            "revoked_before": revocation.before,
            "expires_at": revocation.expires_at,
            "version": version,
        }
        await connection.execute(_REVOKE, values)

    async def since(self, version: int, now: int) -> tuple[int, list[Revocation]]:
        """``version`` 之后的（0：全部），连同此刻的版本；不必再记的略去。

        没有新的就只有一次按主键的查询。版本倒退（库从备份恢复、主从切换丢了提交）则给出全部。
        """
        async with self._database.connect() as connection:
            newest = int(await connection.scalar(select(revocation_version.c.version)) or 0)
            if newest == version:
                return newest, []
            statement = _REVOCATIONS.where(
                revocations.c.version > (version if version < newest else 0),
                or_(revocations.c.expires_at.is_(None), revocations.c.expires_at > now),
            )
            rows = (await connection.execute(statement)).all()
        return newest, [
            Revocation(user_id, before, expires_at, session_id or None, token_id or None)
            for user_id, before, expires_at, session_id, token_id in rows
        ]


_k: Final = api_keys.c


@dataclass(frozen=True, slots=True)
class ApiKey:
    """``scopes`` 以逗号隔开；``digest`` 是密钥的 SHA-256；``revoked_at`` 为 None 是还能用的。"""

    id: int
    name: str
    scopes: str
    digest: bytes = field(repr=False)
    created_at: int
    revoked_at: int | None


_ALL: Final = select(*columns_of(ApiKey, api_keys)).order_by(_k.id)


class ApiKeyRepository(Repository):
    async def create(self, name: str, scopes: str, digest: bytes, now: int) -> int:
        """返回它的号；号从不重用。"""
        values = {"name": name, "scopes": scopes, "digest": digest, "created_at": now}
        async with self._database.transaction() as connection:
            made = await connection.execute(insert(api_keys).values(values).returning(_k.id))
            return int(made.scalar_one())

    async def all(self) -> list[ApiKey]:
        return [ApiKey(*row) for row in await self._database.rows(_ALL)]

    async def live(self) -> list[ApiKey]:
        """还能用的。"""
        statement = _ALL.where(_k.revoked_at.is_(None))
        return [ApiKey(*row) for row in await self._database.rows(statement)]

    async def count_live(self) -> int:
        statement = select(func.count()).select_from(api_keys).where(_k.revoked_at.is_(None))
        return int(await self._database.scalar(statement))

    async def revoke(self, key_id: int, now: int) -> bool:
        """从此不能再用；False：没有这个号，或早已吊销。"""
        statement = update(api_keys).where(_k.id == key_id, _k.revoked_at.is_(None))
        return await self._database.change(statement.values(revoked_at=now)) == 1
