"""``meeting-push backup``、``restore``：内嵌的那一种（SQLite 与内嵌的 Redis）的一份，服务着也行。

先抄 Redis，后抄 SQL：SQL 是记录，这样 Redis 里的都在 SQL 里，而 SQL 里多出来的由对账者重新投递。
放回时代次加一，所以总要对一遍账：每台设备得到 ``resync``，没有结局的以原来的 id 再投递，已确认的
不再来。
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from .auth.keys import FILE_NAME as SECRET
from .errors import ConfigurationError, InvalidInputError, UnavailableError
from .private_files import private_file, private_folder
from .redis.embedded import FILE_NAME, FileLock
from .settings import Settings
from .storage.database import Database
from .storage.fleet import GenerationRepository
from .storage.migration import HEAD
from .storage.sqlite import copy_database, fold_wal
from .version import __version__

DATABASE: Final = "meeting-push.db"
_LIST: Final = "backup.json"
_REDIS: Final = "redis"
#: 这么大一块地算散列。
_CHUNK: Final = 2**20


class BackupList(msgspec.Struct, frozen=True):
    """在最后的一个成员：没有它，文件就是半截的。``files``：名字 → SHA-256。"""

    version: str
    schema: str
    made_at: str
    files: dict[str, str]


def back_up(settings: Settings, file: Path, *, force: bool) -> str:
    """写下一份，返回一行话；阻塞。半截的从不叫 ``file`` 这个名字。

    :raises ConfigurationError: 不是内嵌的那一种，还没有数据，或 ``file`` 已有
    """
    database = _database_file(settings)
    if file.exists() and not force:
        raise ConfigurationError(f"{file} is there already: --force writes over it")
    if not database.exists():
        raise ConfigurationError(f"there is no database at {database}")
    private_folder(file.absolute().parent)
    with tempfile.TemporaryDirectory(dir=file.absolute().parent, prefix=".backup-") as made:
        folder = Path(made)
        files = _collect(settings, database, folder)
        unfinished = folder / "unfinished"
        private_file(unfinished)
        with tarfile.open(unfinished, "w:gz", compresslevel=1) as tar:
            _write(tar, folder, files)
        size = unfinished.stat().st_size
        unfinished.replace(file)
    return f"{file}: {len(files)} files, {size / 1e6:.1f} MB"


def _collect(settings: Settings, database: Path, folder: Path) -> list[str]:
    data = settings.process.data_dir
    redis = copy_append_only(data / _REDIS, folder / _REDIS)
    copy_database(database, folder / DATABASE)
    files = [f"{_REDIS}/{name}" for name in redis] + [DATABASE]
    if (data / SECRET).exists():  # 没有它，签发过的令牌都不认了
        copy_grown(data / SECRET, folder / SECRET)
        files.append(SECRET)
    return files


def _write(tar: tarfile.TarFile, folder: Path, files: list[str]) -> None:
    for name in files:
        tar.add(folder / name, name)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    sums = {name: _digest(folder / name) for name in files}
    (folder / _LIST).write_bytes(msgspec.json.encode(BackupList(__version__, HEAD, at, sums)))
    tar.add(folder / _LIST, _LIST)


# ── 放回 ────────────────────────────────────────────────────────────────────


def restore(settings: Settings, file: Path, *, force: bool) -> str:
    """放进数据文件夹，返回一行话；阻塞。先在旁边解开、核对，都好了才换上。

    ``force``：原来的挪到旁边的 ``replaced-…``，不删。

    :raises ConfigurationError: 不是内嵌的，服务器正用着，或已有数据而没有 ``force``
    :raises InvalidInputError: 不是备份，半截，坏了
    """
    database, data = _database_file(settings), settings.process.data_dir
    private_folder(data / _REDIS)
    with _alone(data / _REDIS):
        old = _present(database, data)
        if old and not force:
            raise ConfigurationError(
                f"{old[0]} is there already: --force moves what is there aside first"
            )
        with tempfile.TemporaryDirectory(dir=data, prefix=".restore-") as made:
            listed = _extract(file, Path(made))
            asyncio.run(_mark(settings, Path(made).absolute() / DATABASE))
            aside = _move_aside(old, data)
            _put_in_place(Path(made), listed, database, data)
    kept = f"; what was there is in {aside}" if aside else ""
    return f"restored the backup of {listed.made_at} (version {listed.version}){kept}"


@contextmanager
def _alone(redis: Path) -> Iterator[None]:
    """两把锁都在手里：服务器没有开，也没有留下的 redis-server。"""
    held = [FileLock.try_acquire(redis / name) for name in ("lock", "server.lock")]
    try:
        if None in held:
            raise ConfigurationError(f"a server is using {redis.parent}: stop it first")
        yield
    finally:
        for lock in held:
            if lock is not None:
                lock.close()


def _present(database: Path, data: Path) -> list[Path]:
    beside = [database.with_name(database.name + end) for end in ("-wal", "-shm")]
    redis = data / _REDIS
    wanted = [database, *beside, redis / FOLDER, redis / "appendonly.aof", redis / "written-by"]
    return [path for path in (*wanted, data / SECRET) if path.exists()]


def _extract(file: Path, to: Path) -> BackupList:
    try:
        with tarfile.open(file, "r:gz") as tar:
            tar.extractall(to, filter="data")
        listed = msgspec.json.decode((to / _LIST).read_bytes(), type=BackupList)
        good = all(_digest(to / name) == digest for name, digest in listed.files.items())
    except (OSError, EOFError, tarfile.TarError, msgspec.MsgspecError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise InvalidInputError(f"{file}: no whole backup ({why})") from None
    if not good or DATABASE not in listed.files:
        raise InvalidInputError(f"{file}: the backup is damaged")
    return listed


async def _mark(settings: Settings, file: Path) -> None:
    """``file`` 是绝对的。代次加一：与 Redis 里的对不上，启动后对账者从记录重新投递。"""
    database = Database.of(f"sqlite:///{quote(str(file))}", settings.database)
    try:
        await database.check_schema()
        await GenerationRepository(database).restored()
    finally:
        await database.dispose()
    fold_wal(file)


def _move_aside(old: list[Path], data: Path) -> Path | None:
    if not old:
        return None
    aside = data / f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    for path in old:
        place = aside / (path.relative_to(data) if path.is_relative_to(data) else path.name)
        private_folder(place.parent)
        shutil.move(path, place)
    return aside


def _put_in_place(made: Path, listed: BackupList, database: Path, data: Path) -> None:
    """数据库在最后：在那之前死了，文件夹里没有数据库，看得出没有放完。"""
    for name in sorted(listed.files, key=lambda one: one == DATABASE):
        place = database if name == DATABASE else data / name
        private_folder(place.parent)
        shutil.move(made / name, place)
        place.chmod(0o600)


# ── 共用 ────────────────────────────────────────────────────────────────────


def _database_file(settings: Settings) -> Path:
    """:raises ConfigurationError: SQL 或 Redis 不是内嵌的"""
    database = Database.of(settings.sql_url, settings.database)
    if not database.is_sqlite or settings.redis.url is not None:
        raise ConfigurationError(
            "backup and restore are for SQLite with the embedded Redis; for PostgreSQL and an"
            " external Redis see docs/operations.md"
        )
    return database.file


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


# ── 内嵌 Redis 的 AOF：不经过 Redis，服务着也行 ──────────────────────────────────
#
# 它只在末尾添，重写时换的是另外的文件；``manifest`` 说此刻是哪几个。抄之前、之后它一样，抄下的就是
# 某一刻的（末尾至多少半条，载入时略去）；变了，多半是刚重写完，再抄一遍。
# redis.io/docs/latest/operate/oss_and_stack/management/persistence：“Backing up AOF persistence”。

FOLDER: Final = "appendonlydir"
MANIFEST: Final = "appendonly.aof.manifest"
#: 0.1 的那一种，载入时自己换成新的。
_SINGLE: Final = "appendonly.aof"
_TRIES: Final = 20
_PAUSE_S: Final = 0.2


def copy_append_only(folder: Path, to: Path) -> list[str]:
    """``folder``（``data/redis``）里要紧的抄到 ``to``，返回各文件的名字；阻塞。

    :raises ConfigurationError: 那里没有 AOF
    :raises UnavailableError: 它一直在变，抄不下来
    """
    for _ in range(_TRIES):
        names = _listed(folder)
        if _copied(folder, to, names) and _listed(folder) == names:
            return [*names, *_note(folder, to)]
        time.sleep(_PAUSE_S)
    raise UnavailableError("the embedded Redis rewrites its files all the time; try again")


def _listed(folder: Path) -> list[str]:
    """此刻的各文件，``manifest`` 在先。"""
    manifest = folder / FOLDER / MANIFEST
    if manifest.exists():
        lines = manifest.read_text("utf-8").splitlines()
        # “file appendonly.aof.1.base.rdb seq 1 type b”；h 是重写完了还没有删的
        files = [line.split()[1] for line in lines if line and not line.endswith(" type h")]
        return [f"{FOLDER}/{MANIFEST}", *(f"{FOLDER}/{name}" for name in files)]
    if (folder / _SINGLE).exists():
        return [_SINGLE]
    raise ConfigurationError(f"{folder} holds no data of an embedded Redis")


def _copied(folder: Path, to: Path, names: list[str]) -> bool:
    try:
        for name in names:
            copy_grown(folder / name, to / name)
    except FileNotFoundError:
        return False
    return True


def copy_grown(source: Path, to: Path) -> None:
    """此刻有多长就抄多长：它还在长。"""
    to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with source.open("rb") as read, to.open("wb") as write:
        left = source.stat().st_size
        while left and (chunk := read.read(min(left, 2**20))):
            write.write(chunk)
            left -= len(chunk)


def _note(folder: Path, to: Path) -> list[str]:
    """谁写的：别的程序读不读得懂。"""
    if not (folder / FILE_NAME).exists():
        return []
    copy_grown(folder / FILE_NAME, to / FILE_NAME)
    return [FILE_NAME]
