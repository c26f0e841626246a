"""``/auth``：注册、登录、刷新、换密码、登出、WebSocket 票据；``/users/{id}/revoke``：吊销。

不用 ``from __future__ import annotations``：FastAPI 在模块的全局名字里求值注解，找不到工厂
函数里的 ``security``。
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from ..auth.auth_service import AuthService
from ..auth.revocations import Revocations
from ..auth.tickets import WsTickets
from ..errors import NotFoundError
from ..model import Principal
from ..people.erasure import Erasures
from ..people.people import INTEGERS, People
from ..person_id import NOBODY, PersonId
from .contract_route import Out, contract_router
from .persons import PersonText, who
from .security import Security

# strict=False 只为让 JSON 的字符串变成 SecretStr；数字仍会被拒绝。
_Secret = Annotated[SecretStr, Field(strict=False, max_length=4096)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class CredentialsBody(_Body):
    username: str = Field(
        max_length=256, description="3～64 个字母、数字或 . _ @ + -；不分大小写", examples=["alice"]
    )
    password: _Secret = Field(description="8 个字符以上，不全是数字，不是常见的；至多 1024 字节")


class RefreshBody(_Body):
    refresh_token: _Secret = Field(description="登录或上次刷新得到的刷新令牌，只能用一次")


class PasswordBody(_Body):
    old: _Secret = Field(description="现在的密码")
    new: _Secret = Field(description="8 个字符以上，不全是数字，不是常见的；至多 1024 字节")


class RegisteredUser(Out):
    user_id: int = Field(description="用户 id")
    username: str


class Tokens(Out):
    access_token: str = Field(description="访问令牌（JWT）")
    refresh_token: str = Field(description="刷新令牌，只能用一次")
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 — OAuth 2 规定的值，不是密码
    expires_in_s: int = Field(description="访问令牌的有效时间，秒")
    user_id: int


class TicketOut(Out):
    ticket: str = Field(description="用作 ``?ticket=``；只能用一次")
    expires_in_s: int = Field(description="有效时间，秒")
    user_id: PersonId = Field(description="票据是谁的")


def auth_router(auth: AuthService, security: Security, *, accounts: bool = True) -> APIRouter:
    """``accounts``：账号归我们；否则没有一条路发出 id 或令牌。"""
    router = contract_router("/auth", tags=["auth"])
    if accounts:
        _add_accounts(router, auth, security)

    @router.post("/logout", status_code=204, summary="登出")
    async def logout(
        principal: Annotated[Principal, Depends(security.current_principal)],
    ) -> None:
        """吊销这个会话：它的令牌不能再用，它的 WebSocket 以 4502 关闭。"""
        await auth.logout(principal)

    return router


def _add_accounts(router: APIRouter, auth: AuthService, security: Security) -> None:
    Address = Annotated[str, Depends(security.address)]  # noqa: N806 — 类型

    @router.post("/register", status_code=201, summary="注册")
    async def register(body: CredentialsBody, address: Address) -> RegisteredUser:
        """建立一个普通账号。注册可以被关闭（403）；同名 409 ``username_taken``；密码太容易猜 422
        ``weak_password``；一个地址注册得太快 429。"""
        user = await auth.register(body.username, body.password.get_secret_value(), address)
        return RegisteredUser(user_id=user.id, username=user.username)

    @router.post("/login", summary="登录")
    async def login(body: CredentialsBody, address: Address) -> Tokens:
        """换取令牌。401 ``bad_credentials``；密码对而账号停用着 401 ``account_disabled``；
        反复失败后 429，见 ``Retry-After``。"""
        password = body.password.get_secret_value()
        return Tokens.model_validate(await auth.login(body.username, password, address))

    @router.post("/refresh", summary="刷新")
    async def refresh(body: RefreshBody, address: Address) -> Tokens:
        """旧的刷新令牌换一对新的；再次使用旧的会吊销整个会话（401 ``revoked``）。"""
        token = body.refresh_token.get_secret_value()
        return Tokens.model_validate(await auth.refresh(token, address))

    @router.post("/password", status_code=204, summary="换密码")
    async def change_password(
        body: PasswordBody,
        principal: Annotated[Principal, Depends(security.current_principal)],
        address: Address,
    ) -> None:
        """这个会话照旧，他别的会话全部吊销（4502）。旧密码不对 401 ``bad_credentials``，与登录失败
        记在同一本账上（429）；新的太容易猜 422 ``weak_password``。"""
        old, new = body.old.get_secret_value(), body.new.get_secret_value()
        await auth.change_password(principal, old, new, address)


def ticket_router(tickets: WsTickets, security: Security) -> APIRouter:
    router = contract_router("/auth", tags=["auth"])

    @router.post("/ws-ticket", summary="WebSocket 票据")
    async def ws_ticket(
        principal: Annotated[Principal, Depends(security.current_principal)],
    ) -> TicketOut:
        """换一张票据，连接时放在 ``?ticket=``：令牌不必出现在 URL 里。要得太快 429。"""
        made = await tickets.issue(principal)
        return TicketOut(
            ticket=made.ticket, expires_in_s=made.expires_in_s, user_id=principal.person
        )

    return router


def revocation_router(
    revocations: Revocations, security: Security, people: People = INTEGERS
) -> APIRouter:
    router = contract_router("/users", tags=["auth"])

    @router.post("/{user_id}/revoke", status_code=204, summary="吊销一个用户的全部令牌（管理员）")
    async def revoke(
        user_id: Annotated[PersonText, Path()],
        admin: Annotated[Principal, Depends(security.require_admin)],
    ) -> None:
        """此刻以前签发给他的令牌全部作废，他的 WebSocket 以 4502 关闭；两秒内在每个节点生效。"""
        await who(people, user_id)  # 不是 id 的先拒绝
        number = await people.number(user_id)  # 没有来过的也吊销得了
        await revocations.revoke_user(number, reason=f"admin:{admin.person}")

    return router


def erasure_router(erasures: Erasures, security: Security, people: People = INTEGERS) -> APIRouter:
    router = contract_router("/users", tags=["auth"])

    @router.delete("/{user_id}", status_code=204, summary="抹掉一个人（管理员）")
    async def erase(
        user_id: Annotated[PersonText, Path()],
        admin: Annotated[Principal, Depends(security.require_admin)],
    ) -> None:
        """两秒之内：令牌作废，连接以 4502 关闭，发给他是 422 ``unknown_recipients``。一分钟之内：
        信箱、在线状态、他写的正文、名字从两边都没有了；别的收件人看到的是 ``data.event`` 为
        ``message_erased`` 的墓碑。不能反悔，他的 id 不再给别人；再来一次无害。"""
        found = await who(people, user_id)
        if found.number == NOBODY:
            raise NotFoundError("no such person")
        await erasures.erase(found.number, by=f"admin:{admin.person}")

    return router
