"""Programs of classic BPF: which frames a packet socket is given, and which socket of a group gets them.

A program is bytes, as the kernel takes it (Documentation/networking/filter.rst).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

INSTRUCTION = struct.Struct("HBBI")

_LD_WORD, _LD_HALF, _LD_BYTE = 0x20, 0x28, 0x30
_LD_HALF_BEHIND_X, _LD_KEPT, _LD_LENGTH = 0x48, 0x60, 0x80
_LDX_NUMBER, _LDX_KEPT, _LDX_HEADER_LENGTH, _LDX_A = 0x01, 0x61, 0xB1, 0x07
_KEEP = 0x02
_SUBTRACT, _MULTIPLY, _SHIFT_RIGHT, _MODULO, _XOR_X = 0x14, 0x24, 0x74, 0x94, 0xAC
_GO, _IF_EQUAL, _IF_ANY_BIT, _IF_LEAST, _IF_ABOVE_X = 0x05, 0x15, 0x45, 0x35, 0x2D
_RETURN = 0x06

_NETWORK = (1 << 32) - 0x100000
"""SKF_NET_OFF: where the network header begins, whatever stands before it."""
_PROTOCOL, _PACKET_TYPE = (1 << 32) - 0x1000, (1 << 32) - 0x1000 + 4
"""SKF_AD_PROTOCOL and SKF_AD_PKTTYPE."""
_OUTGOING = 4
_IPV4, _IPV6 = 0x0800, 0x86DD
_TCP, _UDP, _SCTP = 6, 17, 132
_FRAGMENT = 0x3FFF
"""More fragments, or an offset: ports are in the first, but all are to go the same way."""


class _Step(NamedTuple):
    code: int
    value: int = 0
    true: str = ""
    false: str = ""
    """Labels further down; "" is the next step."""
    label: str = ""


def _assemble(steps: Sequence[_Step]) -> bytes:
    places = {step.label: place for place, step in enumerate(steps) if step.label}
    content = bytearray()
    for place, step in enumerate(steps):
        true, false = (places[label] - place - 1 if label else 0 for label in (step.true, step.false))
        if step.code == _GO:
            content += INSTRUCTION.pack(step.code, 0, 0, true)
        else:
            content += INSTRUCTION.pack(step.code, true, false, step.value)
    return bytes(content)


def nothing() -> bytes:
    """No frame at all."""
    return _assemble([_Step(_RETURN, 0)])


def incoming() -> bytes:
    """The whole of every frame but those that the host itself sends out of the interface."""
    return _assemble(
        [
            _Step(_LD_WORD, _PACKET_TYPE),
            _Step(_IF_EQUAL, _OUTGOING, true="none"),
            _Step(_RETURN, (1 << 32) - 1),
            _Step(_RETURN, 0, label="none"),
        ]
    )


def steering(queues: Sequence[int]) -> bytes:
    """One of `queues` (at least one) by the flow, the same one for both of its directions.

    That is by addresses and ports of TCP, UDP and SCTP over IPv4 or IPv6, by addresses alone where there are
    no ports; what is no IP, or not all there, goes to the first.
    """
    # A load of bytes that are not there would end the program with 0, which may be none of them.
    # A socket counts the packet's length from its network header where the frame has come in.
    transport = [_Step(_IF_EQUAL, number, true="ports") for number in (_TCP, _UDP, _SCTP)]
    steps = [
        _Step(_LD_WORD, _PROTOCOL),
        _Step(_IF_EQUAL, _IPV4, true="ipv4"),
        _Step(_IF_EQUAL, _IPV6, true="ipv6"),
        _Step(_RETURN, queues[0]),
        _Step(_LD_LENGTH, label="ipv4"),
        _Step(_IF_LEAST, 20, true="addresses"),
        _Step(_RETURN, queues[0]),
        _Step(_LD_WORD, _NETWORK + 12, label="addresses"),
        _Step(_LDX_A),
        _Step(_LD_WORD, _NETWORK + 16),
        _Step(_XOR_X),
        _Step(_KEEP, 0),
        _Step(_LD_HALF, _NETWORK + 6),
        _Step(_IF_ANY_BIT, _FRAGMENT, true="spread"),
        _Step(_LDX_HEADER_LENGTH, _NETWORK),
        _Step(_LD_BYTE, _NETWORK + 9),
        *transport,
        _Step(_GO, true="spread"),
        _Step(_LD_LENGTH, label="ipv6"),
        _Step(_IF_LEAST, 40, true="long addresses"),
        _Step(_RETURN, queues[0]),
        _Step(_LD_WORD, _NETWORK + 8, label="long addresses"),
    ]
    for offset in range(12, 40, 4):
        steps += [_Step(_LDX_A), _Step(_LD_WORD, _NETWORK + offset), _Step(_XOR_X)]
    steps += [
        _Step(_KEEP, 0),
        _Step(_LDX_NUMBER, 40),
        _Step(_LD_BYTE, _NETWORK + 6),
        *transport,
        _Step(_GO, true="spread"),
        _Step(_LD_LENGTH, label="ports"),
        _Step(_SUBTRACT, 3),
        _Step(_IF_ABOVE_X, true="both ports"),
        _Step(_RETURN, queues[0]),
        _Step(_LD_HALF_BEHIND_X, _NETWORK, label="both ports"),
        _Step(_KEEP, 1),
        _Step(_LD_HALF_BEHIND_X, _NETWORK + 2),
        _Step(_LDX_KEPT, 1),
        _Step(_XOR_X),
        _Step(_LDX_KEPT, 0),
        _Step(_XOR_X),
        _Step(_KEEP, 0),
        # Neighbouring addresses and ports are not to go to neighbouring queues, as a plain remainder has it.
        _Step(_LD_KEPT, 0, label="spread"),
        _Step(_MULTIPLY, 0x9E3779B1),
        _Step(_SHIFT_RIGHT, 16),
        _Step(_MODULO, len(queues)),
    ]
    for place, queue in enumerate(queues):
        steps.append(_Step(_IF_EQUAL, place, false=f"not {place}", label=f"not {place - 1}"))
        steps.append(_Step(_RETURN, queue))
    steps.append(_Step(_RETURN, queues[0], label=f"not {len(queues) - 1}"))
    return _assemble(steps)
