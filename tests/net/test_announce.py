from __future__ import annotations

from vhostuser.net.announce import rarp_frame

MAC = bytes.fromhex("525400123456")


def test_rarp_frame_is_what_rfc_903_asks_for() -> None:
    frame = rarp_frame(MAC)

    assert frame[:14] == b"\xff" * 6 + MAC + b"\x80\x35"
    assert frame[14:22] == bytes.fromhex("0001080006040003")
    assert frame[22:42] == MAC + bytes(4) + MAC + bytes(4)


def test_rarp_frame_is_padded_to_the_least_size_of_ethernet() -> None:
    assert len(rarp_frame(MAC)) == 60
    assert rarp_frame(MAC)[42:] == bytes(18)
