"""Which queue of the port each ring pair uses: pair n has queue n mod Q.

A front-end may bring more pairs than the port has queues. All of them write to their queue; of those that
share one, the first that is used reads it.
"""

from __future__ import annotations

import logging
import os

from vhostuser.datapath.port_ops import PortOps
from vhostuser.datapath.vring import PacketDevice


class PairPorts:
    """Tells C where the pairs of one device read and write, and owns the fds that this takes.

    Raises EnvironmentLacksError when the switch behind the port has no place left.
    """

    def __init__(
        self, packet: PacketDevice, ops: PortOps, queues: int, log: logging.LoggerAdapter[logging.Logger]
    ) -> None:
        if ops.member is not None:
            packet.join(ops.member)
        self._packet = packet
        self._ops = ops
        self._queues = queues
        self._log = log
        self._reads: dict[int, bool] = {}
        """Pair -> whether it reads its port queue, as last told to C."""
        self._fds: dict[int, int] = {}
        """Pair -> its own duplicate of a queue fd that belongs to another pair too."""

    def queue_of(self, n: int) -> int:
        return n % self._queues

    def share(self, used: set[int]) -> None:
        """These pairs are used now."""
        readers = {self.queue_of(n): n for n in sorted(used, reverse=True)}
        for n in used | self._reads.keys():
            reads = readers.get(self.queue_of(n)) == n
            if self._reads.get(n) is not reads:
                self._reads[n] = reads
                self._packet.pair(n).set_port(
                    self._ops.kind,
                    self._fd(n),
                    reads=reads,
                    frame_size=self._ops.frame_size,
                    header_size=self._ops.header_size,
                )

    def forget(self, n: int) -> None:
        """C may have another port for this pair by now: it is told anew when the pair is used."""
        self._reads.pop(n, None)

    def close(self) -> None:
        """After the packet device: C uses the fds until then."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def _fd(self, n: int) -> int:
        if not self._ops.fds:
            return -1
        if n < self._queues:
            return self._ops.fds[n]
        if n not in self._fds:
            if not self._fds:
                self._log.warning(
                    "the front-end brings more queue pairs than the port's %d: pair %d shares queue %d; "
                    "raise --queues",
                    self._queues,
                    n,
                    self.queue_of(n),
                )
            # A file description can be in an epoll set once for each fd number.
            self._fds[n] = os.dup(self._ops.fds[self.queue_of(n)])
        return self._fds[n]
