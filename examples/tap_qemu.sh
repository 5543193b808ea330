#!/bin/sh
# Needs root, to make a tap, and .venv (examples/quickstart.sh makes it).
# Serves a tap and prints the lines for a guest, as the QEMU installed here wants them.
#
#     sh examples/tap_qemu.sh [--check] [SOCKET [TAP]]
#
# --check prints the lines and ends. The host gets 192.0.2.1/24 on the tap; the guest takes 192.0.2.2/24.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
check=no
if [ "${1:-}" = --check ]; then
    check=yes
    shift
fi
socket=${1:-/tmp/vm1.sock}
tap=${2:-vm1}

echo "Start the guest with:"
echo
"$root/.venv/bin/python" -m vhostuser.frontend.qemu_line "$socket"
[ "$check" = no ] || exit 0

"$root/.venv/bin/vhostuser" serve --socket-path "$socket" --port "tap:$tap" &
server=$!
trap 'kill "$server" 2>/dev/null && wait "$server"' EXIT
trap 'exit 130' INT TERM
# The tap is there once the server has made it.
until ip addr replace 192.0.2.1/24 dev "$tap" 2>/dev/null; do
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
status=0
wait "$server" || status=$?
trap - EXIT
exit "$status"
