#!/bin/sh
# Needs root (to make a tap). Serves a tap to a QEMU guest and prints the QEMU line for the QEMU that is installed.
#
#     sh examples/tap_qemu.sh [--check] [SOCKET [TAP]]
#
# --check prints the lines and ends. The host gets 192.0.2.1/24 on the tap; give the guest 192.0.2.2/24.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
check=no
if [ "${1:-}" = --check ]; then
    check=yes
    shift
fi
socket=${1:-/tmp/vm1.sock}
tap=${2:-vm1}

# QEMU 9.2 renamed reconnect (seconds) to reconnect-ms; QEMU 7.2 without KVM crashes with MSI-X on this NIC.
version=$(qemu-system-x86_64 --version 2>/dev/null | sed -n 's/.*version \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
major=${version% *}
minor=${version#* }
reconnect=reconnect-ms=1000
if [ "${major:-10}" -lt 9 ] || { [ "${major:-10}" -eq 9 ] && [ "${minor:-0}" -lt 2 ]; }; then
    reconnect=reconnect=1
fi
vectors=
if [ "${major:-10}" -lt 8 ] && [ ! -w /dev/kvm ]; then
    vectors=,vectors=0
fi

cat <<LINES
Start the guest with:

  qemu-system-x86_64 -accel kvm -accel tcg -m 1G -nographic \\
    -object memory-backend-memfd,id=mem,size=1G,share=on -machine q35,memory-backend=mem \\
    -chardev socket,id=vm1,path=$socket,$reconnect \\
    -netdev vhost-user,id=net1,chardev=vm1 -device virtio-net-pci,netdev=net1$vectors \\
    disk.qcow2

In the guest: ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up; ping 192.0.2.1
LINES
[ "$check" = no ] || exit 0

"$root/.venv/bin/vhostuser" serve --socket-path "$socket" --port "tap:$tap" &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server"' EXIT
trap 'exit 130' INT TERM
until ip link show "$tap" >/dev/null 2>&1; do
    kill -0 "$server" 2>/dev/null || exit 3
    sleep 0.1
done
ip addr add 192.0.2.1/24 dev "$tap"
wait "$server"
