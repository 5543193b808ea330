#!/bin/sh
# From a fresh machine to packets: installs what is missing, builds, and runs the main job on the embedded front-end.
# Arguments go to `vhostuser demo`.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/examples/lib/setup.sh"

install_packages $(missing_for_build)
build_venv
exec "$root/.venv/bin/vhostuser" demo "$@"
