"""验证令牌用的钥匙。

每个算法绑死自己的：HS* 只用我们的密钥（现在的，然后是轮换下来的），其余只用公钥（PEM 或
JWKS）。令牌自称的 ``alg`` 只用来挑选，所以“拿 RSA 公钥当 HS256 密钥”之类的混淆无从发生。

公布在 JWKS 地址上的公钥：取来，缓存，跟随轮换。

签名密钥的文件：没有配置 ``jwt_secret`` 时，由第一个进程生成，大家共用。
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from jwt import PyJWK, PyJWKClient
from jwt.algorithms import get_default_algorithms
from jwt.exceptions import PyJWTError

from ..errors import ConfigurationError, InvalidTokenError, VerifierUnavailableError
from ..logs import logger
from ..model import Keyring
from ..private_files import keep_private, written_beside
from ..settings import AuthSettings


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None


_header: Final = msgspec.json.Decoder(_Header)


class TokenKeys:
    """允许的算法与各自的钥匙。

    :raises ConfigurationError: 算法不认识，缺钥匙，或钥匙与算法不配
    """

    def __init__(self, settings: AuthSettings, secret: str | None) -> None:
        self.algorithms: Final = algorithms_of(settings)
        _check_algorithms(self.algorithms)
        symmetric = [name for name in self.algorithms if name.startswith("HS")]
        public = [name for name in self.algorithms if not name.startswith("HS")]
        secrets = (secret, *(old.get_secret_value() for old in settings.jwt_previous_secrets))
        self._fixed = {
            name: tuple(_secret_key(name, each) for each in secrets) for name in symmetric
        }
        #: 每把认得的钥匙 → 它的材料；签发用的（没有则第一把认得的）在最前。
        self._material = [f"{name}|{each}" for name in symmetric for each in secrets]
        self._material += [
            f"{name}|{settings.jwt_jwks_url or settings.jwt_public_key}" for name in public
        ]
        self._jwks: Jwks | None = None
        if settings.jwt_jwks_url is not None:
            self._jwks = Jwks(settings.jwt_jwks_url, public)
        else:
            self._fixed |= {name: (_public_key(name, settings.jwt_public_key),) for name in public}
        #: 常情的捷径，见 ``SharedSecrets.claims``。
        self.plain_claims: Final = SharedSecrets(self._fixed).claims
        #: 我们自己签发时用的；没有 HS* 算法时为 None。
        self.signing: Final = self._fixed[symmetric[0]][0] if symmetric else None

    @property
    def fresh_s(self) -> float:
        """此刻的钥匙还能当真多久，秒：过后要再看公布的有没有撤下。"""
        return math.inf if self._jwks is None else self._jwks.fresh_s

    def keyring(self, scope: str) -> Keyring:
        """这些钥匙的指纹；``scope`` 是令牌还须相符的（受众、签发者）。"""
        accepts = [_fingerprint(f"{scope}|{each}".encode()) for each in self._material]
        return Keyring(accepts[0], frozenset(accepts))

    async def find(self, token: str) -> tuple[PyJWK, ...]:
        """该用哪一把验证 ``token``，几把则依次试（HMAC 约 2 µs，不值得为它在头部写 kid）。

        还没有验证任何东西。

        :raises InvalidTokenError: 头部畸形，算法不在允许之列，或没有这把钥匙
        :raises VerifierUnavailableError: 取不到 JWKS
        """
        if len(self._fixed) == 1 and self._jwks is None:
            # 常见情形不必解析头部：钥匙绑定了算法，不符时 PyJWT 会拒绝。
            return next(iter(self._fixed.values()))
        header = _read_header(token)
        fixed = self._fixed.get(header.alg)
        if fixed is not None:
            return fixed
        if self._jwks is None or header.alg not in self.algorithms or header.kid is None:
            raise InvalidTokenError("the token's algorithm or key is not allowed")
        return (await self._jwks.find(header.kid),)


_claims: Final = msgspec.json.Decoder(dict[str, Any])
_DIGESTS: Final = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
#: 头部至多记得这么多种：它由签发者写死，一两种就是全部。
_HEADERS: Final = 16
_URLSAFE: Final = str.maketrans("-_", "+/")


class _PlainHeader(msgspec.Struct, forbid_unknown_fields=True):
    alg: str
    typ: str = ""
    kid: str = ""


_plain_header: Final = msgspec.json.Decoder(_PlainHeader)


class SharedSecrets:
    """HMAC 的捷径：一枚写法规整、签得对的令牌，约 6 µs（PyJWT 约 60）。

    它只会说“是”：有一点不寻常（别的头部、不规整的编码、签得不对）就交给 PyJWT 判。
    """

    def __init__(self, keys: Mapping[str, Sequence[PyJWK]]) -> None:
        self._secrets = {
            name: (digest, _usable(keys[name])) for name, digest in _DIGESTS.items() if name in keys
        }
        #: 看过的头部 → 它的算法的散列与密钥。
        self._headers: dict[str, tuple[str, tuple[bytes, ...]]] = {}

    def claims(self, token: str) -> Mapping[str, Any] | None:
        """签得对的令牌的声明；None：不归这里说。``token`` 须是 ASCII。"""
        signed, _, signature = token.rpartition(".")
        header, _, payload = signed.partition(".")
        try:
            digest, secrets = self._headers.get(header) or self._read(header)
            made = (hmac.digest(secret, signed.encode(), digest) for secret in secrets)
            if any(hmac.compare_digest(_encoded(each), signature) for each in made):
                return _claims.decode(_strictly(payload))
        except (binascii.Error, msgspec.DecodeError, KeyError, RecursionError):
            pass  # 不寻常
        return None

    def _read(self, header: str) -> tuple[str, tuple[bytes, ...]]:
        found = self._secrets[_plain_header.decode(_strictly(header)).alg]
        if len(self._headers) < _HEADERS:
            self._headers[header] = found
        return found


def _usable(keys: Sequence[PyJWK]) -> tuple[bytes, ...]:
    """PyJWT 不肯当密钥的（公钥的样子）不要：捷径不比它宽。"""
    found = []
    for key in keys:
        with contextlib.suppress(PyJWTError):
            found.append(key.Algorithm.prepare_key(key.key))
    return tuple(found)


def _encoded(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _strictly(encoded: str) -> bytes:
    """:raises binascii.Error: 不是规整的、没有填充的 base64url"""
    padded = encoded.translate(_URLSAFE) + "=" * (-len(encoded) % 4)
    return binascii.a2b_base64(padded, strict_mode=True)


#: 值得猜的只有短的密钥；一次 30 ms，启动时算一回。
_COST: Final = 2**13
_SALT: Final = b"meeting-push key fingerprint"


def _fingerprint(key: bytes) -> str:
    """同一把钥匙在每个节点上都一样；32 个十六进制字符。"""
    return hashlib.scrypt(key, salt=_SALT, n=_COST, r=8, p=1, dklen=16).hex()


#: 公钥的各种；公布的每一把自己说是哪一种。
_PUBLIC: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)


def algorithms_of(settings: AuthSettings) -> tuple[str, ...]:
    """设置的；没有设置就由钥匙来说：别人的公钥放上就能用。

    :raises ConfigurationError: 不是公钥
    """
    if settings.jwt_algorithms is not None:
        return settings.jwt_algorithms
    if settings.jwt_jwks_url is not None:
        return _PUBLIC
    if settings.jwt_public_key is not None:
        return (_algorithm_of(settings.jwt_public_key),)
    return ("HS256",)


def _algorithm_of(pem: str) -> str:
    for name in ("RS256", "ES256", "ES384", "ES512", "EdDSA"):
        algorithm = get_default_algorithms()[name]
        try:
            found = PyJWK(algorithm.to_jwk(algorithm.prepare_key(_lines(pem)), as_dict=True))
        except (PyJWTError, ValueError, TypeError):
            continue
        return found.algorithm_name
    raise ConfigurationError("jwt_public_key is not an RSA, EC or Ed25519 public key in PEM")


def _lines(pem: str) -> str:
    """环境变量里的 PEM 常把换行写成两个字符的 \\n。"""
    return pem.replace("\\n", "\n")


def _check_algorithms(algorithms: tuple[str, ...]) -> None:
    known = get_default_algorithms().keys() - {"none"}
    if not algorithms or not known.issuperset(algorithms):
        raise ConfigurationError(f"jwt_algorithms: must be some of {', '.join(sorted(known))}")


def _secret_key(algorithm: str, secret: str | None) -> PyJWK:
    if not secret:
        raise ConfigurationError(f"{algorithm} needs jwt_secret")
    raw = secret.encode()
    if raw.lstrip().startswith(b"-----BEGIN"):
        raise ConfigurationError("jwt_secret is a PEM key; public keys belong in jwt_public_key")
    if len(raw) < MIN_SECRET_BYTES:
        logger.bind(bytes=len(raw), wanted=MIN_SECRET_BYTES).warning("jwt_secret_weak")
    encoded = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return PyJWK({"kty": "oct", "k": encoded, "alg": algorithm})


def _public_key(name: str, pem: str | None) -> PyJWK:
    if not pem:
        raise ConfigurationError(f"{name} needs jwt_public_key or jwt_jwks_url")
    algorithm = get_default_algorithms()[name]
    try:
        key = algorithm.prepare_key(_lines(pem))
        return PyJWK({**algorithm.to_jwk(key, as_dict=True), "alg": name})
    except (PyJWTError, ValueError, TypeError) as error:
        raise ConfigurationError(f"jwt_public_key does not fit {name}") from error


def _read_header(token: str) -> _Header:
    encoded = token.partition(".")[0]
    try:
        return _header.decode(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (binascii.Error, msgspec.DecodeError, ValueError, RecursionError):
        raise InvalidTokenError("the token is malformed") from None


FETCH_TIMEOUT_S: Final = 5.0
#: 缓存多久算新鲜；也是一把被撤下的钥匙至多还能用多久。
LIFESPAN_S: Final = 300.0
#: 两次取之间至少隔这么久：编造的 kid 不能让我们不停地去敲那个地址。
COOLDOWN_S: Final = 30.0
#: 上次没取到，而这把钥匙又不认识：隔这么久再取。
RETRY_S: Final = 5.0


class Jwks:
    """``kid`` → 公钥。取不到时继续用旧的。

    :raises ConfigurationError: 地址不是 http(s)
    """

    def __init__(
        self, url: str, algorithms: Sequence[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        try:
            self._client = PyJWKClient(url, cache_jwk_set=False, timeout=FETCH_TIMEOUT_S)
        except PyJWTError as error:
            raise ConfigurationError(f"jwt_jwks_url: {error}") from error
        # 绝不接受对称钥匙（kty=oct）：公布出来的“密钥”谁都能拿去签名。
        self._algorithms = frozenset(name for name in algorithms if not name.startswith("HS"))
        self._clock = clock
        self._keys: dict[str, PyJWK] = {}
        self._asked_at = float("-inf")
        self._reachable = True
        self._fetching = asyncio.Lock()

    async def find(self, kid: str) -> PyJWK:
        """:raises InvalidTokenError: 没有这把钥匙
        :raises VerifierUnavailableError: 不知道有没有：地址取不到，又没有缓存
        """
        if self._must_ask(kid):
            async with self._fetching:
                if self._must_ask(kid):  # 排队时别人可能已经取过了
                    await self._fetch()
        elif self._is_stale() and not self._fetching.locked():
            # 旧钥匙还能用：只有这一个等，别的不等它。
            async with self._fetching:
                await self._fetch()
        return self._known(kid)

    @property
    def fresh_s(self) -> float:
        """缓存的还算新鲜多久，秒。"""
        return max(0.0, self._asked_at + LIFESPAN_S - self._clock())

    def _must_ask(self, kid: str) -> bool:
        pause = COOLDOWN_S if self._reachable else RETRY_S
        return kid not in self._keys and self._clock() - self._asked_at >= pause

    def _is_stale(self) -> bool:
        return self._clock() - self._asked_at >= LIFESPAN_S

    def _known(self, kid: str) -> PyJWK:
        key = self._keys.get(kid)
        if key is not None:
            return key
        if self._reachable:
            raise InvalidTokenError("the token is signed with an unknown key")
        raise VerifierUnavailableError("the signing keys can not be fetched now")

    async def _fetch(self) -> None:
        self._asked_at = self._clock()
        try:
            keys = await asyncio.to_thread(self._client.get_signing_keys)
        except (PyJWTError, OSError, ValueError) as error:
            self._reachable = False
            logger.bind(error=type(error).__name__).warning("jwks_fetch_failed")
            return
        self._reachable = True
        self._keys = {
            key.key_id: key
            for key in keys
            if key.key_id is not None and key.algorithm_name in self._algorithms
        }
        logger.bind(keys=len(self._keys)).info("jwks_fetched")


FILE_NAME: Final = "jwt_secret"
MIN_SECRET_BYTES: Final = 32  # RFC 7518 §3.2：HS256 的密钥不短于散列


def signing_secret(settings: AuthSettings, data_dir: Path) -> str | None:
    """配置的密钥；没有就用数据文件夹里的。只用公钥验证的应用不需要，为 None。"""
    if settings.jwt_secret is not None:
        return settings.jwt_secret.get_secret_value()
    if any(name.startswith("HS") for name in algorithms_of(settings)):
        return load_or_create_secret(data_dir)
    return None


def load_or_create_secret(data_dir: Path) -> str:
    """``data_dir/jwt_secret`` 的内容；没有则生成（权限 0600）。

    几个进程同时调用得到同一个：先写好临时文件，再用 ``link`` 发布，已存在的绝不覆盖。

    :raises ConfigurationError: 目录不可写，或文件不可读、内容太短
    """
    path = data_dir / FILE_NAME
    try:
        if not path.exists():
            _publish(path)
        keep_private(path)
        secret = path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigurationError(f"{path}: shorter than {MIN_SECRET_BYTES} bytes")
    return secret


def _publish(path: Path) -> None:
    try:
        with written_beside(path, secrets.token_urlsafe(48).encode()) as written:
            path.hardlink_to(written)
        logger.bind(path=str(path)).info("jwt_secret_created")
    except FileExistsError:
        logger.bind(path=str(path)).debug("jwt_secret_found")  # 别的进程快了一步
