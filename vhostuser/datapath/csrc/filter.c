/* SPDX-License-Identifier: Apache-2.0 */
/* The filter of frames to a guest.  Not on the path of a guest that has none. */
#include <stddef.h>

#include "state.h"

#define TPID_AT 12
#define TPID_8021Q 0x8100
#define VLAN_ID 0xfff

void vu_device_set_filter(struct vu_device *device, const struct vu_filter *filter)
{
    device->filters = filter;
    if (filter)
        device->filter = *filter;
    /* A source whose frames were not wanted has stopped making them. */
    for (struct vu_pair *pair = device->pairs; pair; pair = pair->next)
        vu_pair_wake(pair, VU_READY_RX);
}

static bool is_listed(const struct vu_filter *filter, uint64_t mac)
{
    for (uint32_t i = 0; i < filter->mac_count; i++)
        if (filter->mac[i] == mac)
            return true;
    return false;
}

int vu_filter_check(const struct vu_filter *filter, const uint8_t *head)
{
    uint64_t mac = 0;
    uint8_t accept;

    for (unsigned i = 0; i < 6; i++)
        mac |= (uint64_t)head[i] << 8 * i;
    if (mac == 0xffffffffffff)
        accept = filter->broadcast;
    else
        accept = head[0] & 1 ? filter->multicast : filter->unicast;
    if (accept == VU_ACCEPT_NONE || (accept == VU_ACCEPT_LISTED && !is_listed(filter, mac)))
        return VU_DROP_FILTERED;
    if (filter->tagged == VU_ACCEPT_LISTED && (head[TPID_AT] << 8 | head[TPID_AT + 1]) == TPID_8021Q) {
        unsigned vlan = (unsigned)(head[TPID_AT + 2] << 8 | head[TPID_AT + 3]) & VLAN_ID;

        if (!(filter->vlan[vlan / 64] >> vlan % 64 & 1))
            return VU_DROP_FILTERED;
    }
    return -1;
}
