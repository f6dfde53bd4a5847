#!/usr/bin/env bash
# Is there a Docker Engine that answers? Owner of: installing Docker on a bare Debian machine, and
# starting its daemon there.
part=docker
# shellcheck source=tests/setup/common.sh
. "$(dirname "$0")/common.sh"

daemon_log=/var/log/dev-postgres-mcp-dockerd.log
start_seconds_max=60

# The engine's version, if one answers; else why not, in the log.
engine() {
    have docker && bounded 5 docker version --format '{{.Server.Version}}' 2>"$log"
}

# Which of our processes is called $1 and alive? (A zombie has no executable any more.)
alive() {
    local pid
    for pid in $(pgrep -x "$1"); do
        if readlink -q "/proc/$pid/exe" >/dev/null; then
            return 0
        fi
    done
    return 1
}

# A daemon that was killed leaves its pid file and sockets behind, and refuses to start again when
# the pid has since gone to another process. Only called when no dockerd runs.
clear_stale() {
    rm -f /var/run/docker.pid /var/run/docker.sock
    # Its containerd may have been spared; dockerd then takes it over by this pid file.
    if ! alive containerd; then
        rm -f /var/run/docker/containerd/containerd.pid /var/run/docker/containerd/*.sock*
    fi
}

# Detached from the calling shell and make: own session, own log, none of their open files (a
# pipe kept open would keep whoever reads it waiting for the daemon's end).
start_daemon() {
    (
        cd /
        for fd in /proc/self/fd/*; do
            fd=${fd##*/}
            if [ "$fd" -gt 2 ]; then
                eval "exec $fd>&-"
            fi
        done
        exec setsid dockerd </dev/null >>"$daemon_log" 2>&1
    ) &
    disown
}

wait_for_daemon() {
    local deadline=$((SECONDS + start_seconds_max))
    until engine >/dev/null; do
        alive dockerd || return 1
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

rm -f "$log"
if version=$(engine) && [ -n "$version" ]; then
    say "running (Engine $version)"
    exit 0
fi

if [ -n "${DOCKER_HOST:-}" ]; then
    fail "no Docker Engine answers at DOCKER_HOST=$DOCKER_HOST; start it, or unset DOCKER_HOST."
fi
if grep -q 'permission denied' "$log" 2>/dev/null; then
    fail "a Docker Engine runs, but $(id -un) may not use it; join the group docker (sudo usermod -aG docker $(id -un)) and log in again."
fi
if ! bare_debian; then
    fail "no Docker Engine answers; install Docker (https://docs.docker.com/get-docker/) and start it."
fi

lock
if ! have dockerd || ! have iptables || ! have docker; then
    packages="docker.io iptables"
    # From Debian 13 on, the client is a package of its own.
    if ! have docker && [ "$(cut -d. -f1 /etc/debian_version)" != 12 ]; then
        packages="$packages docker-cli"
    fi
    # shellcheck disable=SC2086 # two or three words
    apt_install $packages
fi
if ! alive dockerd; then
    clear_stale
    start_daemon
fi
wait_for_daemon || fail "dockerd does not start on this machine; $daemon_log says why."
say "started (Engine $(engine))"
