/* SPDX-License-Identifier: Apache-2.0 */
/* Which headers are believed (virtio 1.2, 5.1.6.2.2 for what drivers may send, 5.1.6.4.1 for receiving). */
#include "net_hdr.h"

/* The feature that allows a segmentation type: of the sender (HOST_*) or of the receiver (GUEST_*). */
struct gso_rule {
    uint8_t type;
    uint64_t host;
    uint64_t guest;
};

static const struct gso_rule gso_rules[] = {
    {VU_GSO_TCPV4, VU_F_HOST_TSO4 | VU_F_GSO, VU_F_GUEST_TSO4},
    {VU_GSO_TCPV6, VU_F_HOST_TSO6 | VU_F_GSO, VU_F_GUEST_TSO6},
    {VU_GSO_UDP, VU_F_HOST_UFO, VU_F_GUEST_UFO},
    /* One bit for both IP versions towards us, two towards the guest: both are asked for, since telling
       the IP version would need a look into the frame. */
    {VU_GSO_UDP_L4, VU_F_HOST_USO, VU_F_GUEST_USO4 | VU_F_GUEST_USO6},
};

static const struct gso_rule *rule_of(uint8_t gso_type)
{
    for (unsigned i = 0; i < VU_ARRAY_SIZE(gso_rules); i++) {
        if (gso_rules[i].type == (gso_type & ~VU_GSO_ECN))
            return &gso_rules[i];
    }
    return 0;
}

static int is_tcp(uint8_t gso_type)
{
    uint8_t type = gso_type & (uint8_t)~VU_GSO_ECN;

    return type == VU_GSO_TCPV4 || type == VU_GSO_TCPV6;
}

static int check_gso(struct vu_net_hdr *header, uint32_t frame_length, uint64_t features)
{
    const struct gso_rule *rule = rule_of(header->gso_type);

    if (!rule || ((header->gso_type & VU_GSO_ECN) && !is_tcp(header->gso_type)))
        return VU_DROP_GSO_TYPE;
    if (!(features & rule->host) || ((header->gso_type & VU_GSO_ECN) && !(features & VU_F_HOST_ECN)))
        return VU_DROP_NOT_NEGOTIATED;
    /* Peers have divided by a gso_size of 0 (DPDK commit 7023f3e532). */
    if (vu_read_le16(&header->gso_size) == 0 || !(header->flags & VU_HDR_F_NEEDS_CSUM))
        return VU_DROP_GSO_SIZE;
    /* A hint only, but the kernel refuses one that is longer than the frame. */
    if (vu_read_le16(&header->hdr_len) > frame_length)
        vu_write_le16(&header->hdr_len, (uint16_t)frame_length);
    return -1;
}

int vu_net_hdr_check_offloads(struct vu_net_hdr *header, uint32_t frame_length, uint64_t features)
{
    if (frame_length < VU_ETH_HEADER)
        return VU_DROP_RUNT;
    if (frame_length > VU_FRAME_MAX)
        return VU_DROP_OVERSIZE;
    header->flags &= VU_HDR_F_NEEDS_CSUM;
    vu_write_le16(&header->num_buffers, 0);
    if (header->flags) {
        uint32_t start = vu_read_le16(&header->csum_start), offset = vu_read_le16(&header->csum_offset);

        if (!(features & VU_F_CSUM))
            return VU_DROP_NOT_NEGOTIATED;
        if (start + offset + 2 > frame_length)
            return VU_DROP_CSUM_RANGE;
    } else {
        vu_write_le16(&header->csum_start, 0);
        vu_write_le16(&header->csum_offset, 0);
    }
    if (header->gso_type != VU_GSO_NONE)
        return check_gso(header, frame_length, features);
    vu_write_le16(&header->gso_size, 0);
    vu_write_le16(&header->hdr_len, 0);
    return -1;
}

int vu_net_hdr_deliver_offloads(struct vu_net_hdr *header, uint64_t features)
{
    if (!(features & VU_F_GUEST_CSUM)) {
        if (header->flags & VU_HDR_F_NEEDS_CSUM)
            return VU_DROP_RECEIVER_OFFLOAD;
        header->flags = 0;
    }
    if (header->gso_type != VU_GSO_NONE) {
        const struct gso_rule *rule = rule_of(header->gso_type);

        if (!rule)
            return VU_DROP_GSO_TYPE;
        if ((features & rule->guest) != rule->guest)
            return VU_DROP_RECEIVER_OFFLOAD;
        if ((header->gso_type & VU_GSO_ECN) && !(features & VU_F_GUEST_ECN))
            return VU_DROP_RECEIVER_OFFLOAD;
    }
    return -1;
}

void vu_net_hdr_turn(struct vu_net_hdr *header)
{
    vu_le16 *words[] = {&header->hdr_len, &header->gso_size, &header->csum_start, &header->csum_offset,
                        &header->num_buffers};

    for (unsigned i = 0; i < VU_ARRAY_SIZE(words); i++)
        words[i]->raw = __builtin_bswap16(words[i]->raw);
}
