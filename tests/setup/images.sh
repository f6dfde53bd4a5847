#!/usr/bin/env bash
# Are the PostgreSQL images that demo and tests run in the Docker Engine? Owner of: pulling them, and
# the stand-ins for them that a bare Debian machine builds where no registry answers.
part=images
# shellcheck source=tests/setup/common.sh
. "$(dirname "$0")/common.sh"

majors="17 15"
first_answer_seconds_max=15

context=$root/tests/images/postgres
# A stand-in built from another state of these files, comments aside, is out of date.
sum() {
    cat "$@" | grep -v '^ *#' | cksum | cut -d' ' -f1
}
rootfs_recipe=$(sum "$context/rootfs.sh")
recipe=$rootfs_recipe-$(sum "$context/Dockerfile" "$context/docker-entrypoint.sh")
recipe_label=stand-in-recipe

# The Debian release that has PostgreSQL $1.
suite_of() {
    case $1 in
        17) echo trixie ;;
        15) echo bookworm ;;
    esac
}

# Prints the recipe of the image $1 if it is a stand-in; fails if there is no such image.
recipe_of() {
    docker image inspect --format "{{if .Config.Labels}}{{index .Config.Labels \"$recipe_label\"}}{{end}}" "$1" 2>/dev/null
}

# Where no registry answers, the engine may try for minutes; once one does, it takes what it takes.
pull() {
    local image=$1 out=$state/pull-${1##*:}.log started=$SECONDS pid
    docker pull "$image" >"$out" 2>&1 </dev/null &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        if [ $((SECONDS - started)) -ge "$first_answer_seconds_max" ] && ! grep -q 'Pulling from' "$out"; then
            kill "$pid"
            wait "$pid" || :
            echo "no answer within $first_answer_seconds_max seconds" >>"$out"
            return 1
        fi
        sleep 0.1
    done
    wait "$pid"
}

build_rootfs() (
    major=$1 image=$2
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    bash "$context/rootfs.sh" "$major" "$(suite_of "$major")" "$dir"
    docker import \
        --change "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/$major/bin" \
        --change "ENV PG_MAJOR=$major PG_VERSION=$(cat "$dir/version")" \
        "$dir/rootfs.tar" "$image"
)

# Run as a job of its own: as part of a condition, it would not stop at an error.
build_stand_in() {
    local major=$1 image=postgres:$1 rootfs=dev-postgres-mcp-rootfs:$1-$rootfs_recipe old
    if ! docker image inspect "$rootfs" >/dev/null 2>&1; then
        build_rootfs "$major" "$rootfs"
    fi
    old=$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null) || :
    # The builder that every engine has by itself.
    DOCKER_BUILDKIT=0 docker build --force-rm --build-arg ROOTFS="$rootfs" --build-arg RECIPE="$recipe" \
        --tag "$image" "$context"
    # What it replaces, unless something still uses that.
    if [ -n "$old" ]; then
        docker rmi "$old" || :
    fi
    docker images --format '{{.Repository}}:{{.Tag}}' dev-postgres-mcp-rootfs | grep ":$major-" | grep -v "^$rootfs\$" \
        | xargs -r docker rmi || :
}

missing="" stale=""
for major in $majors; do
    if ! found=$(recipe_of "postgres:$major"); then
        missing="$missing $major"
    elif [ -n "$found" ] && [ "$found" != "$recipe" ]; then
        stale="$stale $major"
    fi
done

unpullable=""
for major in $missing; do
    say "pulling postgres:$major"
    pull "postgres:$major" || unpullable="$unpullable $major"
done

if [ -n "$unpullable" ] && ! bare_debian; then
    major=${unpullable##* }
    fail "postgres:$major cannot be pulled ($(tail -n 1 "$state/pull-$major.log")); connect to a registry, or load the image yourself."
fi

if [ -n "$unpullable$stale" ] && bare_debian; then
    lock
    have mmdebstrap || apt_install mmdebstrap
    say "building stand-ins from Debian's packages for postgres$unpullable$stale (about a minute)"
    builds=""
    for major in $unpullable $stale; do
        build_stand_in "$major" </dev/null >"$state/image-$major.log" 2>&1 &
        builds="$builds $major:$!"
    done
    for build in $builds; do
        wait "${build#*:}" || fail "the stand-in for postgres:${build%%:*} does not build; $state/image-${build%%:*}.log says why."
    done
fi

for major in $majors; do
    found=$(recipe_of "postgres:$major") || fail "postgres:$major is not there; run: docker pull postgres:$major"
    say "postgres:$major ready${found:+ (stand-in)}"
done
