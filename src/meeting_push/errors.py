"""唯一的错误树。

每个类有稳定的 ``code``（写进 REST 错误体、``error`` 帧与日志）和 ``temporary``
（调用方原样重试是否可能成功）。外部库的异常只在 ``redis/``、``storage/`` 的边界
转换成这里的类，别处不再捕获它们。
"""

from __future__ import annotations

from collections.abc import Sequence


class MeetingPushError(Exception):
    """所有可预期错误的根。

    ``details`` 必须能编码成 JSON，且不得含任何密钥或令牌（SEC-2）。
    """

    code = "internal_error"
    temporary = False

    def __init__(self, message: str, *, details: object = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        #: 一个词的原因，给日志与 ``/readyz``；依赖不可用时说的是它怎么了，见 ``UnavailableError``。
        self.cause = self.code


class ConfigurationError(MeetingPushError):
    """配置不可用；命令行把它变成一行文字和退出码 2。"""

    code = "bad_configuration"


class MissingExtraError(ConfigurationError, ImportError):
    """少了一份可选的依赖；消息说该装什么。"""

    def __init__(self, what: str, missing: ImportError, extra: str) -> None:
        super().__init__(f"{what} needs {missing.name}: pip install 'meeting-push[{extra}]'")


class AuthenticationError(MeetingPushError):
    """没有证明自己是谁。"""

    code = "unauthenticated"


class InvalidTokenError(AuthenticationError):
    """令牌缺失、畸形、签名/算法/受众不对；重试无用（4500）。"""

    code = "invalid_token"


class TokenExpiredError(AuthenticationError):
    """令牌曾经有效但已过期；换新令牌后可重连（4004）。"""

    code = "token_expired"


class TokenNotYetValidError(AuthenticationError):
    """令牌过一会儿才有效（``iat``、``nbf``）：签发者与我们的钟差几分钟；稍后重连（4004）。"""

    code = "token_not_yet_valid"
    temporary = True


class TokenRevokedError(AuthenticationError):
    """令牌、会话或用户已被吊销（4502）。"""

    code = "revoked"


class BadCredentialsError(AuthenticationError):
    """用户名或密码不对；两者不加区分，以免泄露账号是否存在。"""

    code = "bad_credentials"


class AccountDisabledError(AuthenticationError):
    """密码对，而账号停用着；只有知道密码的人听得到这一句。"""

    code = "account_disabled"


class BadKeyError(AuthenticationError):
    """API 密钥不对、不认得或已吊销（分不出）；重试无用。"""

    code = "bad_key"


class ForbiddenError(MeetingPushError):
    """身份明确，但无权做这件事。"""

    code = "forbidden"


class ScopeError(ForbiddenError):
    """API 密钥没有这件事要的范围，或这件事只有人能做。"""

    code = "scope"


class NotFoundError(MeetingPushError):
    """对象不存在，或对调用者不可见（两者不加区分）。"""

    code = "not_found"


class InvalidInputError(MeetingPushError):
    """输入不合规；什么都没有被保存。"""

    code = "invalid_input"


class UnknownRecipientsError(InvalidInputError):
    """收件人里有不存在的用户；``details`` = {"user_ids": [...]}，整条消息未保存。"""

    code = "unknown_recipients"

    def __init__(self, user_ids: Sequence[int | str]) -> None:
        self.user_ids = list(user_ids)
        super().__init__("unknown recipients", details={"user_ids": self.user_ids})


class UnknownParticipantsError(InvalidInputError):
    """受邀者里有不存在的用户；``details`` = {"user_ids": [...]}，一个也没有加入。"""

    code = "unknown_participants"

    def __init__(self, user_ids: Sequence[int | str]) -> None:
        super().__init__("unknown participants", details={"user_ids": list(user_ids)})


class MeetingEndedError(MeetingPushError):
    """会议已经结束：不再收转录，也不再邀请。"""

    code = "meeting_ended"


class PayloadTooLargeError(InvalidInputError):
    """正文或收件人数目超过上限。"""

    code = "payload_too_large"


class TooExpensiveError(PayloadTooLargeError):
    """一次请求比一个用户的整只桶还贵：等多久都不行，要分开发。什么都没有保存。"""

    code = "too_expensive"

    def __init__(self, units: int, burst: float) -> None:
        super().__init__(
            "the request costs more than one user may send at once",
            details={"units": units, "burst": burst},
        )


class UnsupportedMediaTypeError(InvalidInputError):
    """请求体不是 JSON。"""

    code = "unsupported_media_type"


class InvalidJsonError(InvalidInputError):
    """请求体声称是 JSON，却不是。"""

    code = "invalid_json"


class WatchLimitError(InvalidInputError):
    """一条连接关注的人超过上限；这一次的一个也没有关注。"""

    code = "watch_limit"


class WeakPasswordError(InvalidInputError):
    """密码太容易猜；没有建立账号。"""

    code = "weak_password"


class UsernameTakenError(MeetingPushError):
    """用户名已被占用。"""

    code = "username_taken"


class IdempotencyConflictError(MeetingPushError):
    """同一个 Idempotency-Key 带来了不同的内容。"""

    code = "idempotency_conflict"


class UnknownConnectionError(MeetingPushError):
    """他没有这条连接（也许刚断开，也许刚连上）：改用消息的 id 确认。"""

    code = "unknown_connection"


class AlreadyDueError(MeetingPushError):
    """撤回来得太晚：消息不是预约的，或已经到时。"""

    code = "already_due"


class RateLimitedError(MeetingPushError):
    """太频繁；``retry_after_s`` 秒之后再来。"""

    code = "rate_limited"
    temporary = True

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message, details={"retry_after_s": retry_after_s})
        self.retry_after_s = retry_after_s


class PeopleLimitError(RateLimitedError):
    """这个用户一天之内发给了太多我们不认识的人；``details.limit``：``people``。"""

    def __init__(self, most_a_day: int) -> None:
        text = f"one user brings at most {most_a_day} new people a day"
        super().__init__(text, retry_after_s=3600)
        self.details = {"retry_after_s": 3600, "limit": "people"}


class SendLimitError(RateLimitedError):
    """这个用户发得太快；``details.limit``：``sends``（全部的）或 ``priority``（优先级 5–9 的）。

    ``temporary`` 为假时比整只桶还大，原样重来无用。
    """

    def __init__(self, limit: str, retry_after_s: int, *, temporary: bool) -> None:
        super().__init__("sending too much", retry_after_s=retry_after_s)
        self.details = {"retry_after_s": retry_after_s, "limit": limit}
        self.temporary = temporary


class QueueFullError(RateLimitedError):
    """投递队列已满：拒绝新的，绝不裁掉旧的。"""

    code = "queue_full"


class MessageExpiredError(MeetingPushError):
    """消息已过有效期：任何一站都不再投递它，也不能再入队。"""

    code = "message_expired"


class UnavailableError(MeetingPushError):
    """依赖的部件暂时不可用；没有接受任何东西（``OutcomeUnknownError`` 除外）。

    ``cause`` 说它怎么了：``oom``、``readonly``、``disk_full``、``noperm``、``timeout``、
    ``unreachable`` …，一个词，对运维稳定。
    """

    code = "unavailable"
    temporary = True

    def __init__(self, message: str, *, details: object = None, cause: str = "") -> None:
        super().__init__(message, details=details)
        self.cause = cause or self.code


class RedisUnavailableError(UnavailableError):
    """Redis 断开、超时或正在加载。"""

    code = "redis_unavailable"


class RedisCommandError(MeetingPushError):
    """Redis 拒绝了一条命令（WRONGTYPE、NOPERM、语法 …）：数据或程序的错，重试无用。"""

    code = "redis_command_failed"


class VerifierUnavailableError(UnavailableError):
    """应用自己的令牌验证出了别的错：令牌好坏不知道（4007）。"""

    code = "verifier_unavailable"


class DirectoryUnavailableError(UnavailableError):
    """应用自己的名册出了错：不知道谁存在，什么都没有保存。"""

    code = "directory_unavailable"


class DatabaseUnavailableError(UnavailableError):
    """SQL 数据库断开或超时。"""

    code = "database_unavailable"


class ChannelFailedError(UnavailableError):
    """一个通知渠道没有收下；``temporary`` 为假时原样再来无用（地址、签名、模板不对）。

    ``slow_down_s`` 大于 0：对方嫌太快，过这么久再来，不算渠道坏了。
    """

    code = "channel_failed"

    def __init__(self, message: str, *, temporary: bool = True, slow_down_s: float = 0.0) -> None:
        super().__init__(message)
        self.temporary = temporary
        self.slow_down_s = slow_down_s


class OutcomeUnknownError(DatabaseUnavailableError):
    """提交发出去了，回答没有来：可能已存下，也可能没有。

    我们自己的循环都幂等，照“暂时”重来；收下别人东西的门口，只有带着 Idempotency-Key 才能这样说
    （``retry_safe``）：不带键再来一遍，可能存成两份。
    """

    code = "outcome_unknown"

    def __init__(
        self,
        message: str = "the answer to the commit never came: it may or may not be stored",
        *,
        cause: str = "",
        retry_safe: bool = True,
    ) -> None:
        super().__init__(message, cause=cause)
        self.temporary = retry_safe

    def without_key(self) -> OutcomeUnknownError:
        """没有键的调用者听到的：原样再来不安全。"""
        return OutcomeUnknownError(self.message, cause=self.cause, retry_safe=False)


class BadFrameError(MeetingPushError):
    """客户端的一帧不合协议；连接保留，按次数计入 4504。"""

    code = "bad_frame"

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class MalformedEnvelopeError(MeetingPushError):
    """Redis 上读到的信封或队列条目不合格式；计数后丢弃或进死信。"""

    code = "malformed_envelope"
