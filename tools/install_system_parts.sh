#!/bin/sh
# 测试想要的系统部件：Redis ≥ 7、PostgreSQL、Chromium、Node.js、nginx、HAProxy、helm、Caddy、PgBouncer、Prometheus。
# Debian 上的 root：缺什么就用 apt 装什么，不启动任何系统服务（测试自己启动）。
# 别处：只说明哪些测试会被跳过。都已具备时立即返回。
set -eu

has() { command -v "$1" >/dev/null 2>&1; }

has_redis7() {
    for server in redis-server valkey-server; do
        has "$server" || continue
        major=$("$server" --version | sed -n 's/.*v=\([0-9]*\)\..*/\1/p')
        [ "${major:-0}" -ge 7 ] && return 0
    done
    return 1
}

has_postgres() {
    has postgres || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1
}

has_chromium() {
    has chromium || has chromium-browser || has google-chrome
}

find_missing() {
    missing=""
    has_redis7 || missing="$missing redis-server"
    has_postgres || missing="$missing postgresql"
    has_chromium || missing="$missing chromium"
    has node || missing="$missing nodejs"
    has npm || missing="$missing npm"
    [ -x /usr/sbin/nginx ] || missing="$missing nginx-light"
    ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || missing="$missing libfaketime"
    [ -x /usr/sbin/pgbouncer ] || has pgbouncer || missing="$missing pgbouncer"
    [ -x /usr/sbin/haproxy ] || has haproxy || missing="$missing haproxy"
    has promtool || missing="$missing prometheus"
    has amtool || missing="$missing prometheus-alertmanager"
}

apt_install() {
    policy=/usr/sbin/policy-rc.d # 它返回 101 时，安装不会启动服务
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086  # 包名的列表要拆开
    apt-get install -qq -y --no-install-recommends $missing
}

# 不在 Debian 里的；有 Go 就装，装不上就跳过它们的测试
go_install() {
    has "$1" || ! has go || GOBIN=/usr/local/bin timeout 300 go install "$2" 2>/dev/null ||
        echo "not installed: $1; its tests will be skipped"
}

if [ "$(id -u)" -eq 0 ]; then
    go_install helm helm.sh/helm/v3/cmd/helm@v3.17.3
    go_install caddy github.com/caddyserver/caddy/v2/cmd/caddy@v2.9.1
fi
find_missing
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -eq 0 ] && [ -e /etc/debian_version ] && has apt-get; then
    echo "installing with apt:$missing"
    apt_install </dev/null >/dev/null || echo "apt-get failed" >&2
    find_missing
    [ -n "$missing" ] || exit 0
    # CI 必须跑全部测试：少了部件就是失败，而不是悄悄跳过。
    [ "${CI:-}" != true ] || { echo "missing:$missing" >&2; exit 1; }
fi
echo "not installed:$missing; the tests that need them will be skipped"
