"""验证令牌用的钥匙。

每个算法绑死自己的：HS* 只用我们的密钥（现在的，然后是轮换下来的），其余只用公钥（PEM 或
JWKS）。令牌自称的 ``alg`` 只用来挑选，所以“拿 RSA 公钥当 HS256 密钥”之类的混淆无从发生。
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import msgspec
from jwt import PyJWK
from jwt.algorithms import get_default_algorithms
from jwt.exceptions import PyJWTError
from loguru import logger

from ..errors import ConfigurationError, InvalidTokenError
from ..node.fleet_membership import Keyring, fingerprint
from ..settings import Settings
from .jwks import Jwks
from .secret_file import MIN_SECRET_BYTES


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None


_header: Final = msgspec.json.Decoder(_Header)


class TokenKeys:
    """允许的算法与各自的钥匙。

    :raises ConfigurationError: 算法不认识，缺钥匙，或钥匙与算法不配
    """

    def __init__(self, settings: Settings, secret: str | None) -> None:
        self.algorithms: Final = settings.jwt_algorithms
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
        #: 我们自己签发时用的；没有 HS* 算法时为 None。
        self.signing: Final = self._fixed[symmetric[0]][0] if symmetric else None

    def keyring(self, scope: str) -> Keyring:
        """这些钥匙的指纹；``scope`` 是令牌还须相符的（受众、签发者）。"""
        accepts = [fingerprint(f"{scope}|{each}".encode()) for each in self._material]
        return Keyring(accepts[0], frozenset(accepts))

    async def find(self, token: str) -> tuple[PyJWK, ...]:
        """该用哪一把验证 ``token``，几把则依次试（HMAC 约 2 µs，不值得为它在头部写 kid）。

        还没有验证任何东西。

        :raises InvalidTokenError: 头部畸形，算法不在允许之列，或没有这把钥匙
        :raises UnavailableError: 取不到 JWKS
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
        # 环境变量里的 PEM 常把换行写成两个字符的 \n。
        key = algorithm.prepare_key(pem.replace("\\n", "\n"))
        return PyJWK({**algorithm.to_jwk(key, as_dict=True), "alg": name})
    except (PyJWTError, ValueError, TypeError) as error:
        raise ConfigurationError(f"jwt_public_key does not fit {name}") from error


def _read_header(token: str) -> _Header:
    encoded = token.partition(".")[0]
    try:
        return _header.decode(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (binascii.Error, msgspec.DecodeError, ValueError, RecursionError):
        raise InvalidTokenError("the token is malformed") from None
