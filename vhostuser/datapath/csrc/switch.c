/* SPDX-License-Identifier: Apache-2.0 */
/* Who is a member of a switch, and which of its rings take frames. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "forward.h"

struct vu_switch *vu_switch_new(uint32_t age, uint64_t seed)
{
    struct vu_switch *lan = NULL;

    if (posix_memalign((void **)&lan, VU_CACHE_LINE, sizeof(*lan)))
        return NULL;
    memset(lan, 0, sizeof(*lan));
    vu_fdb_init(&lan->fdb, age, seed);
    return lan;
}

void vu_switch_free(struct vu_switch *lan)
{
    vu_fdb_destroy(&lan->fdb);
    free(lan);
}

uint32_t vu_switch_addresses(const struct vu_switch *lan)
{
    return __atomic_load_n(&lan->fdb.count, __ATOMIC_RELAXED);
}

struct vu_member *vu_switch_join(struct vu_switch *lan, struct vu_device *device)
{
    struct vu_member *member = NULL;
    uint32_t number = 1;

    while (number <= VU_FDB_MEMBERS && lan->member[number])
        number++;
    if (number > VU_FDB_MEMBERS) {
        errno = ENOSPC;
        return NULL;
    }
    if ((errno = posix_memalign((void **)&member, VU_CACHE_LINE, sizeof(*member))))
        return NULL;
    memset(member, 0, sizeof(*member));
    member->lan = lan;
    member->device = device;
    member->number = number;
    memset(member->sender, 0xff, sizeof(member->sender));
    lan->member[number] = member;
    lan->members = VU_MAX(lan->members, number);
    device->member = member;
    vu_member_follow(device);
    return member;
}

void vu_switch_leave(struct vu_member *member)
{
    struct vu_switch *lan = member->lan;

    vu_member_forget(member);
    lan->member[member->number] = NULL;
    while (lan->members && !lan->member[lan->members])
        lan->members--;
    member->device->member = NULL;
    free(member);
}

void vu_member_forget(struct vu_member *member)
{
    vu_fdb_forget(&member->lan->fdb, member->number);
}

void vu_member_set_mtu(struct vu_member *member, uint32_t mtu)
{
    __atomic_store_n(&member->mtu, mtu, __ATOMIC_RELAXED);
}

void vu_member_follow(struct vu_device *device)
{
    struct vu_member *member = device->member;

    if (!member)
        return;
    memset(member->pair, 0, sizeof(member->pair));
    for (struct vu_pair *pair = device->pairs; pair; pair = pair->next) {
        const struct vu_vring *rx = &pair->vring[VU_RX];

        /* A broken one stays a receiver, and what comes for it is its loss. */
        if (pair->n < VU_MEMBER_PAIRS && pair->port_kind == VU_PORT_SWITCH && rx->state != VU_VRING_STOPPED &&
            rx->enabled == VU_RING_ENABLED)
            member->pair[pair->n] = pair;
    }
    member->receivers = 0;
    for (uint32_t n = 0; n < VU_MEMBER_PAIRS; n++) {
        if (member->pair[n])
            member->receiver[member->receivers++] = (uint8_t)n;
    }
}

void vu_member_inject(struct vu_member *member, const uint8_t *frame, uint32_t length)
{
    struct vu_pair *from = member->device->pairs;
    struct vu_burst burst = {0};
    struct vu_worker *worker;
    struct iovec piece;

    if (!from || length < VU_ETH_HEADER || length > VU_FRAME_MAX)
        return;
    worker = from->worker;
    memcpy(worker->scratch->linear, frame, length);
    piece = (struct iovec){worker->scratch->linear, length};
    worker->scratch->forward[0] =
        (struct vu_forward){.frame = vu_cursor_at(&piece, 0), .length = length, .drop = -1, .plain = true};
    if (VU_GUARD_ENTER(&worker->guard, from) == 0)
        vu_forward(from, worker, 1, &burst);
    vu_guard_leave();
}
