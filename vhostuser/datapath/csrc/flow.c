/* SPDX-License-Identifier: Apache-2.0 */
/* The symmetric hash: sums of what both directions have, in the other order. */
#include "flow.h"

#include <string.h>

#include "net_hdr.h"

#define TYPE_IPV4 0x0800
#define TYPE_IPV6 0x86dd
#define TYPE_VLAN 0x8100
#define TYPE_SERVICE_VLAN 0x88a8
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17

static uint32_t word16(const uint8_t *at)
{
    return (uint32_t)at[0] << 8 | at[1];
}

static uint32_t word32(const uint8_t *at)
{
    uint32_t word;

    memcpy(&word, at, sizeof(word));
    return word;
}

static uint32_t mix(uint32_t sum)
{
    sum = (sum ^ sum >> 16) * 0x85ebca6b;
    sum = (sum ^ sum >> 13) * 0xc2b2ae35;
    return sum ^ sum >> 16;
}

static uint32_t ports(const uint8_t *head, uint32_t at, uint32_t length, uint8_t protocol)
{
    if ((protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP) || at + 4 > length)
        return 0;
    return mix(word16(head + at)) + mix(word16(head + at + 2));
}

static uint32_t of_ethernet(const uint8_t *head)
{
    return mix(word32(head) ^ word16(head + 4)) + mix(word32(head + 6) ^ word16(head + 10));
}

uint32_t vu_flow_hash(const uint8_t *head, uint32_t length)
{
    uint32_t at = VU_ETH_HEADER, type = word16(head + 12);

    for (int tags = 0; tags < 2 && (type == TYPE_VLAN || type == TYPE_SERVICE_VLAN) && at + 4 <= length;
         tags++) {
        type = word16(head + at + 2);
        at += 4;
    }
    if (type == TYPE_IPV4 && at + 20 <= length) {
        const uint8_t *ip = head + at;
        uint32_t sum = mix(word32(ip + 12)) + mix(word32(ip + 16)) + ip[9];

        if (!(word16(ip + 6) & 0x3fff)) /* MF and offset */
            sum += ports(head, at + 4 * (ip[0] & 15u), length, ip[9]);
        return mix(sum);
    }
    if (type == TYPE_IPV6 && at + 40 <= length) {
        const uint8_t *ip = head + at;
        uint32_t sum = ip[6];

        for (int i = 0; i < 16; i += 4)
            sum += mix(word32(ip + 8 + i) + (uint32_t)i) + mix(word32(ip + 24 + i) + (uint32_t)i);
        return mix(sum + ports(head, at + 40, length, ip[6]));
    }
    return mix(of_ethernet(head));
}
