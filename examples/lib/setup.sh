# Set-up shared by examples/quickstart.sh and tests/run.sh; POSIX sh, to be sourced with $root at the project's root.
#
# It looks for what is needed, not for packages, so a machine that has everything needs neither apt nor root.
# As root on Debian 12 or 13 what is missing is installed; anywhere else it is named and the status is 3.
# shellcheck shell=sh

# Statuses are those of the program itself: 3 is "the environment lacks something".
environment_lacks() {
    echo "$*" >&2
    exit 3
}

step() {
    printf '== %s\n' "$*"
}

# quietly LABEL COMMAND...: output only when it fails.
quietly() {
    label=$1
    shift
    step "$label"
    log=$(mktemp)
    if "$@" >"$log" 2>&1; then
        rm -f "$log"
    else
        status=$?
        tail -n 60 "$log" >&2
        rm -f "$log"
        echo "$label: failed with status $status" >&2
        return "$status"
    fi
}

# The first Python that is new enough.
find_python() {
    for python in python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
        if command -v "$python" >/dev/null 2>&1 &&
            "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return 0
        fi
    done
    return 1
}

# Debian package names of what building and running needs and this machine lacks.
missing_for_build() {
    if python=$(find_python); then
        "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
        "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || echo python3-dev
    else
        echo python3 python3-venv python3-dev
    fi
    command -v gcc >/dev/null 2>&1 || echo gcc
    # The second is the kernel's, for the tap; it comes with the first.
    [ -e /usr/include/stdio.h ] && [ -e /usr/include/linux/if_tun.h ] || echo libc6-dev
    # pip asks for packages over TLS.
    [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ] ||
        [ -n "${SSL_CERT_FILE:-}" ] || echo ca-certificates
}

# Those of the named Debian packages that are not installed.
missing_packages() {
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
    done
}

is_debian_12_or_13() {
    [ -r /etc/os-release ] && command -v apt-get >/dev/null 2>&1 &&
        (. /etc/os-release && [ "$ID" = debian ] && { [ "$VERSION_ID" = 12 ] || [ "$VERSION_ID" = 13 ]; })
}

apt_update() {
    quietly "fetching the package lists" apt-get -q update
}

apt_has_lists() {
    [ -n "$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' 2>/dev/null | head -n 1)" ]
}

# install_packages NAME...: nothing to do without arguments.
install_packages() {
    [ $# -gt 0 ] || return 0
    if ! is_debian_12_or_13; then
        environment_lacks "Missing on this machine (names as on Debian 12 and 13): $*
Install them with your package manager and start this again."
    fi
    if [ "$(id -u)" -ne 0 ]; then
        environment_lacks "Missing on this machine. As root, do this and start again:
    apt-get update && apt-get install --no-install-recommends $*"
    fi
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    keep_certificates
    fresh=no
    if ! apt_has_lists; then
        apt_update || environment_lacks "apt-get update failed, and these packages are needed: $*"
        fresh=yes
    fi
    if ! quietly "installing $*" apt-get -q -y --no-install-recommends install "$@"; then
        # Lists that were there may be too old: the files that they name are gone.
        { [ "$fresh" = no ] && apt_update &&
            quietly "installing $*, second attempt" apt-get -q -y --no-install-recommends install "$@"; } ||
            environment_lacks "apt-get could not install: $*"
    fi
    restore_certificates
}

# A bare machine behind a proxy has its authority in a bundle that somebody put there by hand, and the package
# ca-certificates (python3-venv needs it) would write its own over it: what was trusted before stays trusted.
bundle=/etc/ssl/certs/ca-certificates.crt
kept_bundle=

keep_certificates() {
    if [ -s "$bundle" ] && [ -n "$(missing_packages ca-certificates)" ]; then
        kept_bundle=$(mktemp)
        cat "$bundle" >"$kept_bundle"
    fi
}

restore_certificates() {
    [ -n "$kept_bundle" ] || return 0
    cmp -s "$bundle" "$kept_bundle" || cat "$kept_bundle" >>"$bundle"
    rm -f "$kept_bundle"
    kept_bundle=
}

# What the installed program depends on: the C, how it is built, the dependencies, and where all this lies.
build_fingerprint() {
    {
        echo "$root"
        cat "$root/pyproject.toml" "$root/vhostuser/abi.py" "$root"/vhostuser/*/ffibuilder.py
        cat "$root"/vhostuser/*/csrc/*.[ch]
    } | sha256sum | cut -d ' ' -f 1
}

# build_venv [EXTRA]: leaves .venv/bin/vhostuser, current. Quick when nothing has changed: Python files are
# used where they are, and the fingerprint covers the rest.
build_venv() {
    extra=${1:-}
    venv=$root/.venv
    # One at a time: two installs into one venv break each other.
    exec 9<"$root"
    ! command -v flock >/dev/null 2>&1 || flock 9
    fingerprint=$(build_fingerprint)
    current=no
    if [ -x "$venv/bin/vhostuser" ] && "$venv/bin/python" -c '' 2>/dev/null; then
        for stamp in "$venv/.built-$extra" "$venv/.built-dev"; do
            [ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ] && current=yes
        done
    fi
    if [ "$current" = no ]; then
        if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
            python=$(find_python) || environment_lacks "No Python 3.11 or newer is here."
            quietly "making .venv" "$python" -m venv --clear "$venv" || exit 3
        fi
        quietly "building and installing vhostuser${extra:+ with what its tests need}" \
            "$venv/bin/python" -m pip install --disable-pip-version-check \
            --editable "$root${extra:+[$extra]}" || exit 3
        echo "$fingerprint" >"$venv/.built-$extra"
    fi
    # Half of the time that a server takes to start would otherwise go into compiling it, and at every start
    # where PYTHONDONTWRITEBYTECODE is set, as it often is in containers.
    "$venv/bin/python" -m compileall -q "$root/vhostuser"
    exec 9<&-
}
