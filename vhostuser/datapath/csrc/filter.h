/* SPDX-License-Identifier: Apache-2.0 */
/* Which frames a guest wants (virtio 1.2, 5.1.6.5.1 to 5.1.6.5.3): what its commands come down to. */
#ifndef VU_FILTER_H
#define VU_FILTER_H

#include <stdint.h>

#include "device.h"

/* Compared one by one, as QEMU's 64 are: who wants more is given all of that kind. */
#define VU_FILTER_MACS 128
#define VU_FILTER_VLAN_WORDS 64

enum vu_accept { VU_ACCEPT_NONE = 0, VU_ACCEPT_LISTED = 1, VU_ACCEPT_ALL = 2 };

struct vu_filter {
    uint8_t unicast;   /* enum vu_accept */
    uint8_t multicast; /* enum vu_accept; broadcast apart */
    uint8_t broadcast; /* enum vu_accept, none or all */
    uint8_t tagged;    /* enum vu_accept, on top of the above, for frames with an 802.1Q tag */
    uint32_t mac_count;
    uint64_t mac[VU_FILTER_MACS];        /* unicast and multicast; an address's first byte is bits 0 to 7 */
    uint64_t vlan[VU_FILTER_VLAN_WORDS]; /* VLAN v: bit v % 64 of word v / 64 */
};

/* Frames to any ring of the device have to pass it from now on; copied.  NULL: every frame passes. */
void vu_device_set_filter(struct vu_device *device, const struct vu_filter *filter);

#endif
