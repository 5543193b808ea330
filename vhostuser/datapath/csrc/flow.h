/* SPDX-License-Identifier: Apache-2.0 */
/* Which flow a frame is of: a number that is the same for both directions. */
#ifndef VU_FLOW_H
#define VU_FLOW_H

#include <stdint.h>

/* Ethernet with two tags, IPv6, ports. */
#define VU_FLOW_HEAD (14 + 8 + 40 + 4)

/* Of the first `length` bytes of a frame, at least an Ethernet header: by addresses, protocol and ports of
   TCP and UDP in IPv4 and IPv6, where fragments have no ports; by the Ethernet addresses of anything else. */
uint32_t vu_flow_hash(const uint8_t *head, uint32_t length);

#endif
