/* SPDX-License-Identifier: Apache-2.0 */
/* What frames begin with (IEEE 802.3, 802.1Q), as far as a switch looks into them. */
#ifndef VU_ETHERNET_H
#define VU_ETHERNET_H

#include "net_hdr.h"

#define VU_ETH_IPV4 0x0800
#define VU_ETH_IPV6 0x86dd
#define VU_ETH_VLAN 0x8100
#define VU_ETH_SERVICE_VLAN 0x88a8

#define VU_PROTOCOL_TCP 6
#define VU_PROTOCOL_UDP 17

static inline uint32_t vu_get16(const uint8_t *at)
{
    return (uint32_t)at[0] << 8 | at[1];
}

/* Where the packet begins in a frame of at least an Ethernet header, behind up to two tags, and its type;
   behind a tag that is not whole the type is the tag's. */
static inline uint32_t vu_ethernet_packet(const uint8_t *frame, uint32_t length, uint32_t *type)
{
    uint32_t at = VU_ETH_HEADER;

    *type = vu_get16(frame + 12);
    for (int tags = 0; tags < 2 && (*type == VU_ETH_VLAN || *type == VU_ETH_SERVICE_VLAN) && at + 4 <= length;
         tags++) {
        *type = vu_get16(frame + at + 2);
        at += 4;
    }
    return at;
}

#endif
