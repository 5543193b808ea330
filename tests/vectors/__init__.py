"""Golden bytes, and how to read them. Each file says in its head where its bytes come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent

CAPTURES = ("qemu-7.2-ipxe.txt", "dpdk-22.11-virtio-user.txt")


@dataclass(frozen=True)
class Captured:
    """One message as a real front-end sent it, and what the back-end answered that it was content with."""

    name: str
    content: bytes
    fds: int
    answer: bytes


def _lines(file_name: str) -> Iterator[list[str]]:
    for line in (_HERE / file_name).read_text().splitlines():
        if not line.startswith("#"):
            yield line.split()


def load_capture(file_name: str) -> list[Captured]:
    return [
        Captured(name, bytes.fromhex(content), int(fds), b"" if answer == "-" else bytes.fromhex(answer))
        for name, content, fds, answer in _lines(file_name)
    ]


def load_payloads() -> dict[str, bytes]:
    """Payload kind -> its bytes as a C compiler lays them out."""
    return {kind: bytes.fromhex(content) for kind, content in _lines("payloads.txt")}
