/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio-net header (virtio 1.2, 5.1.6.1): one private copy is read, checked and used; what goes on
 * to a port or another guest is the copy, never the guest's bytes.
 */
#ifndef VU_NET_HDR_H
#define VU_NET_HDR_H

#include <stdint.h>

#include "barrier.h"
#include "error.h"

#define VU_NET_HDR_SIZE 12 /* with num_buffers; the tap's size too */
#define VU_NET_HDR_LEGACY_SIZE 10

#define VU_ETH_HEADER 14
/* 64 KiB of IP behind an Ethernet header with one VLAN tag. */
#define VU_FRAME_MAX (65535 + VU_ETH_HEADER + 4)
#define VU_FRAME_PLAIN 1518

#define VU_HDR_F_NEEDS_CSUM 1
#define VU_HDR_F_DATA_VALID 2

#define VU_GSO_NONE 0
#define VU_GSO_TCPV4 1
#define VU_GSO_UDP 3
#define VU_GSO_TCPV6 4
#define VU_GSO_UDP_L4 5
#define VU_GSO_ECN 0x80

/* Feature bits that decide what a header may say (virtio 1.2, 5.1.3). */
#define VU_F_CSUM (1ULL << 0)
#define VU_F_GUEST_CSUM (1ULL << 1)
#define VU_F_GSO (1ULL << 6) /* legacy name of HOST_TSO4 + HOST_TSO6 */
#define VU_F_GUEST_TSO4 (1ULL << 7)
#define VU_F_GUEST_TSO6 (1ULL << 8)
#define VU_F_GUEST_ECN (1ULL << 9)
#define VU_F_GUEST_UFO (1ULL << 10)
#define VU_F_HOST_TSO4 (1ULL << 11)
#define VU_F_HOST_TSO6 (1ULL << 12)
#define VU_F_HOST_ECN (1ULL << 13)
#define VU_F_HOST_UFO (1ULL << 14)
#define VU_F_MRG_RXBUF (1ULL << 15)
#define VU_F_LOG_ALL (1ULL << 26)
#define VU_F_INDIRECT_DESC (1ULL << 28)
#define VU_F_EVENT_IDX (1ULL << 29)
#define VU_F_VERSION_1 (1ULL << 32)
#define VU_F_ACCESS_PLATFORM (1ULL << 33)
#define VU_F_RING_PACKED (1ULL << 34)
#define VU_F_IN_ORDER (1ULL << 35)
#define VU_F_GUEST_USO4 (1ULL << 54)
#define VU_F_GUEST_USO6 (1ULL << 55)
#define VU_F_HOST_USO (1ULL << 56)

/* Of flags and gso_type, the header's first two bytes, as one word: what is work for anybody. */
#define VU_HDR_SAYS (VU_HDR_F_NEEDS_CSUM | 0xff00)

/* As it lies in memory: little-endian, 12 bytes; a legacy header is its first 10.  A tap has it so, too; only
   a big-endian guest's (vu_net_hdr_turn) is turned where it is read from or written to the ring. */
struct vu_net_hdr {
    uint8_t flags;
    uint8_t gso_type;
    vu_le16 hdr_len;
    vu_le16 gso_size;
    vu_le16 csum_start;
    vu_le16 csum_offset;
    vu_le16 num_buffers;
};

/* What a guest's frame of frame_length bytes says of itself, held against what that guest acknowledged.
   Cleans the copy (unknown flags, DATA_VALID, num_buffers, fields without meaning, hdr_len in range).
   Returns -1 when it may go on, else the enum vu_drop. */
int vu_net_hdr_check_offloads(struct vu_net_hdr *header, uint32_t frame_length, uint64_t features);

/* The same, for what most headers say: nothing. */
static vu_always_inline int vu_net_hdr_check(struct vu_net_hdr *header, uint32_t frame_length,
                                             uint64_t features)
{
    if (vu_unlikely(header->flags & VU_HDR_F_NEEDS_CSUM || header->gso_type != VU_GSO_NONE ||
                    frame_length > VU_FRAME_MAX))
        return vu_net_hdr_check_offloads(header, frame_length, features);
    *header = (struct vu_net_hdr){0};
    return vu_unlikely(frame_length < VU_ETH_HEADER) ? VU_DROP_RUNT : -1;
}
/* Whether a guest that acknowledged `features` may be given this header: -1, or the enum vu_drop.  Clears
   DATA_VALID for a guest without GUEST_CSUM (the checksum in the frame is complete). */
int vu_net_hdr_deliver_offloads(struct vu_net_hdr *header, uint64_t features);

/* The same, for a header that says nothing. */
static vu_always_inline int vu_net_hdr_deliver(struct vu_net_hdr *header, uint64_t features)
{
    return vu_likely(!(header->flags | header->gso_type)) ? -1
                                                          : vu_net_hdr_deliver_offloads(header, features);
}
/* From a big-endian guest's byte order to ours, and back. */
void vu_net_hdr_turn(struct vu_net_hdr *header);

#endif
