#!/bin/sh
# The whole test suite, from a fresh machine: the set-up of examples/quickstart.sh, the real peers (QEMU, DPDK)
# and the tools, then the checks that read the code, then pytest. pytest's closing line is the last one printed;
# the status is 0 only when everything passed.
#
#   sh tests/run.sh            everything
#   sh tests/run.sh --quick    unit tests only, in two minutes: no peers, no checks of style
#
# As root: the taps of the tests are made in network namespaces of their own.
#
# Further arguments go to pytest.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/examples/lib/setup.sh"

quick=no
if [ "${1:-}" = --quick ]; then
    quick=yes
    shift
fi

# One package a line, comments behind '#'.
package_list() {
    sed 's/#.*//' "$@"
}

install_packages $(missing_for_build)
cd "$root"
if [ "$quick" = yes ]; then
    build_venv dev
    # The checks of `vhostuser check` are tested against a server in a process of its own, fault by fault.
    exec .venv/bin/python -m pytest --ignore=tests/conformance --ignore=tests/integration --ignore=tests/interop \
        --ignore=tests/fuzz --ignore=tests/cost --ignore=tests/frontend/check "$@"
fi

install_packages $(missing_packages $(package_list tests/packages.txt tests/interop/packages.txt))
# The guest's kernel is downloaded by the tests, which takes the lists but not an installation.
apt_has_lists || apt_update
build_venv dev

failed=
check() {
    name=$1
    shift
    quietly "$name" "$@" || failed="$failed${failed:+, }$name"
}

# Our C alone, without Python.h, under warnings that are errors.
warning_build() {
    for folder in vhostuser/datapath/csrc vhostuser/frontend/csrc; do
        for file in "$folder"/*.c; do
            "$1" -std=gnu11 -O2 -fvisibility=hidden -Wall -Wextra -Wshadow -Wconversion -Wmissing-prototypes \
                -Wstrict-prototypes -Wvla -Werror -iquote "$folder" -iquote vhostuser/datapath/csrc \
                -c "$file" -o /dev/null || return
        done
    done
}

PATH=$root/.venv/bin:$PATH
export PATH
check "ruff check" ruff check
check "ruff format" ruff format --check
check "mypy" mypy
check "import-linter" lint-imports
check "codespell" codespell
check "clang-format" clang-format --dry-run -Werror vhostuser/*/csrc/*.c vhostuser/*/csrc/*.h
check "C warnings, gcc" warning_build gcc
check "C warnings, clang" warning_build clang

step "pytest"
status=0
# The failed checks are named in pytest's summary, so that its closing line is not mistaken for the whole.
VHOSTUSER_FAILED_CHECKS=$failed python -m pytest "$@" || status=$?
[ -z "$failed" ] || [ "$status" -ne 0 ] || status=1
exit "$status"
