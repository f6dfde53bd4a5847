#!/usr/bin/env bash
# rootfs.sh MAJOR SUITE DIR: writes DIR/rootfs.tar, the file system of the stand-in image: PostgreSQL
# MAJOR of the Debian release SUITE, prepared as the official image is. DIR/version gets the package's
# version. Needs root on Debian, and mmdebstrap.
set -euo pipefail

major=$1 suite=$2 dir=$3

# Debian's package would make a cluster of its own.
no_cluster() {
    mkdir -p "$1/etc/postgresql-common"
    echo 'create_main_cluster = false' >"$1/etc/postgresql-common/createcluster.conf"
}

# Volumes and --user name the official image's ids; the package takes a user that is there.
users() {
    echo 'postgres:x:999:999::/var/lib/postgresql:/bin/bash' >>"$1/etc/passwd"
    echo 'postgres:x:999:' >>"$1/etc/group"
    echo 'postgres:!:20000::::::' >>"$1/etc/shadow"
    echo 'postgres:!::' >>"$1/etc/gshadow"
}

contract() {
    local rootfs=$1
    chroot "$rootfs" localedef -i en_US -c -f UTF-8 -A /usr/share/locale/locale.alias en_US.UTF-8
    sed -i "s/^#listen_addresses = 'localhost'/listen_addresses = '*'/" \
        "$rootfs/usr/share/postgresql/$major/postgresql.conf.sample"
    grep -q "^listen_addresses = '\*'" "$rootfs/usr/share/postgresql/$major/postgresql.conf.sample"
    mkdir -p "$rootfs/docker-entrypoint-initdb.d"
    # Not by way of /var/run: that is a link, and would lead to the /run outside.
    find "$rootfs/run" -mindepth 1 -delete
    install -d -o 999 -g 999 -m 03777 "$rootfs/run/postgresql"
    install -d -o 999 -g 999 -m 01777 "$rootfs/var/lib/postgresql/data"
    chown 999:999 "$rootfs/var/lib/postgresql"
    dpkg-query --admindir="$rootfs/var/lib/dpkg" -W -f '${Version}' "postgresql-$major" >"$dir/version"
}

# Half of the size, and of the time the image takes to load: documentation, translations, and LLVM
# with the just-in-time compiler, which PostgreSQL does without when its library is absent.
trim() {
    local rootfs=$1
    rm -rf "$rootfs"/usr/share/{doc,doc-base,info,man,i18n,lintian} \
        "$rootfs"/var/cache/{apt,debconf,man} "$rootfs"/var/lib/apt/lists "$rootfs"/var/log/* "$rootfs"/var/lib/dpkg/*-old
    find "$rootfs/usr/share/locale" -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
    rm -rf "$rootfs"/usr/lib/*/{libLLVM*,libz3.so*} \
        "$rootfs/usr/lib/postgresql/$major/lib/"{llvmjit*,bitcode}
    mkdir -p "$rootfs"/var/lib/apt/lists/partial "$rootfs"/var/cache/apt/archives/partial
}

# mmdebstrap calls the hooks through this script: HOOK MAJOR SUITE DIR ROOTFS.
if [ -n "${HOOK:-}" ]; then
    "$HOOK" "$4"
    exit
fi

hook() {
    # shellcheck disable=SC2016 # mmdebstrap's shell expands it, to the root file system
    printf 'HOOK=%s bash %q %q %q %q "$1"' "$1" "$0" "$major" "$suite" "$dir"
}

exec mmdebstrap --mode=root --format=tar --variant=essential \
    --include="postgresql-$major,gosu,libnss-wrapper,locales,xz-utils,zstd" \
    --dpkgopt=force-unsafe-io --skip=cleanup/run \
    --setup-hook="$(hook no_cluster)" \
    --essential-hook="$(hook users)" \
    --customize-hook="$(hook contract)" \
    --customize-hook="$(hook trim)" \
    "$suite" "$dir/rootfs.tar"
