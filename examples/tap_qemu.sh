#!/bin/sh
# Needs root (to make a tap). Serves a tap and prints the lines for a guest, as the QEMU installed here wants them.
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

# As major * 100 + minor; one that is not installed is taken for a new one.
version=$(qemu-system-x86_64 --version 2>/dev/null | sed -n 's/.* version \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
version=$(set -- ${version:-10 0} && echo $(($1 * 100 + $2)))
# QEMU 9.2 counts the time between two attempts to connect in milliseconds.
reconnect=reconnect-ms=1000
[ "$version" -ge 902 ] || reconnect=reconnect=1
# QEMU 7.2 crashes when this NIC uses MSI-X without KVM.
vectors=
[ "$version" -ge 800 ] || { true 3<>/dev/kvm; } 2>/dev/null || vectors=,vectors=0

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
