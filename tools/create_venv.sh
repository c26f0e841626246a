#!/bin/sh
# 用法：create_venv.sh PYTHON VENV。建虚拟环境；做不到时用一行话说明缺什么。
set -eu
python=$1
venv=$2

fail() {
    echo "meeting-push: $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 ||
    fail "$python not found; install Python 3.11 or newer, or: make PYTHON=/path/to/python3"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
    fail "$python does not run"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python >= 3.11 is needed, $python is $version; try: make PYTHON=python3.12"
# Debian 把 ensurepip 拆到 python3-venv 里：venv 能导入，建到一半才失败。
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python has no venv; on Debian or Ubuntu: apt install python$version-venv"
"$python" -m venv --clear "$venv"
