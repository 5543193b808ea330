/* SPDX-License-Identifier: Apache-2.0 */
/* The symmetric hash: sums of what both directions have, in the other order. */
#include "flow.h"

#include <string.h>

#include "ethernet.h"

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
    if ((protocol != VU_PROTOCOL_TCP && protocol != VU_PROTOCOL_UDP) || at + 4 > length)
        return 0;
    return mix(vu_get16(head + at)) + mix(vu_get16(head + at + 2));
}

static uint32_t of_ethernet(const uint8_t *head)
{
    return mix(word32(head) ^ vu_get16(head + 4)) + mix(word32(head + 6) ^ vu_get16(head + 10));
}

uint32_t vu_flow_hash(const uint8_t *head, uint32_t length)
{
    uint32_t type, at = vu_ethernet_packet(head, length, &type);

    if (type == VU_ETH_IPV4 && at + 20 <= length) {
        const uint8_t *ip = head + at;
        uint32_t sum = mix(word32(ip + 12)) + mix(word32(ip + 16)) + ip[9];

        if (!(vu_get16(ip + 6) & 0x3fff)) /* MF and offset */
            sum += ports(head, at + 4 * (ip[0] & 15u), length, ip[9]);
        return mix(sum);
    }
    if (type == VU_ETH_IPV6 && at + 40 <= length) {
        const uint8_t *ip = head + at;
        uint32_t sum = ip[6];

        for (int i = 0; i < 16; i += 4)
            sum += mix(word32(ip + 8 + i) + (uint32_t)i) + mix(word32(ip + 24 + i) + (uint32_t)i);
        return mix(sum + ports(head, at + 40, length, ip[6]));
    }
    return mix(of_ethernet(head));
}
