/* SPDX-License-Identifier: Apache-2.0 */
/* Where each frame of a burst goes. */
#include <string.h>
#include <time.h>

#include "flow.h"
#include "forward.h"

/* Where a frame goes, besides to one member. */
#define TO_NOBODY 0u
#define TO_ALL UINT32_MAX

/* Copies after which a burst ends, whatever it has left: a frame to everybody is as many as there are
   members, each by its weight. */
#define MOST_COPIES 2048

/* IEEE 802.1Q, 8.6.3: of the link, and passed on by no bridge. */
#define LINK_LOCAL 0x0000c28001 /* 01:80:c2:00:00:0x */

#define ADDRESS 0xffffffffffffULL

static uint32_t seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint32_t)now.tv_sec;
}

static uint32_t destination(struct vu_switch *lan, const struct vu_member *sender, uint64_t to, uint32_t now)
{
    uint32_t number;

    if (vu_unlikely(to & 1))
        return (to & 0xffffffffff) == LINK_LOCAL && to >> 44 == 0 ? TO_NOBODY : TO_ALL;
    number = vu_fdb_find(&lan->fdb, to, now);
    if (!number || !lan->member[number])
        return TO_ALL;
    return number == sender->number ? TO_NOBODY : number;
}

/* Learns the one address and looks up the other: the place in sending->chosen of a frame with these, or a
   drop and where `flooded` is. */
static uint64_t *route(struct vu_sending *sending, uint64_t source, uint64_t to, uint32_t now, int16_t *drop)
{
    const struct vu_member *sender = sending->from->device->member;
    struct vu_switch *lan = sender->lan;
    uint32_t number, i;

    *drop = -1;
    if (vu_unlikely(source & 1 || !source)) {
        *drop = VU_DROP_SOURCE_ADDRESS;
        return NULL;
    }
    vu_fdb_learn(&lan->fdb, source, sender->number, now);
    number = destination(lan, sender, to, now);
    if (vu_unlikely(number == TO_NOBODY)) {
        *drop = VU_DROP_NOT_FORWARDED;
        return NULL;
    }
    if (number == TO_ALL)
        return &sending->flooded;
    for (i = 0; i < sending->targets && sending->target[i] != number; i++)
        ;
    if (i == sending->targets) {
        sending->target[i] = number;
        sending->chosen[i] = 0;
        sending->targets++;
    }
    return &sending->chosen[i];
}

/* In words, for a narrower store that is read again by a wider load waits until all before it are done. */
static vu_always_inline void read_head(struct vu_forward *forward, uint64_t words[2])
{
    if (vu_likely(forward->simple)) {
        const uint8_t *bytes = forward->bytes;
        uint16_t last;

        memcpy(words, bytes, 16);
        memcpy(&last, bytes + 16, sizeof(last));
        vu_settle(last);
        memcpy(forward->head + 16, &last, sizeof(last));
    } else {
        memset(forward->head, 0, sizeof(forward->head));
        vu_iov_gather(forward->head, forward->frame, VU_MIN(forward->length, VU_FILTER_HEAD));
        memcpy(words, forward->head, 16);
    }
    vu_settle(words[0]);
    vu_settle(words[1]);
    memcpy(forward->head, words, 16);
}

uint32_t vu_forward_flow(const struct vu_forward *forward)
{
    uint8_t head[VU_FLOW_HEAD];
    uint32_t length = VU_MIN(forward->length, sizeof(head));

    /* Read a second time, and decides only which ring of the receiver it is. */
    vu_iov_gather(head, forward->frame, length);
    return vu_flow_hash(head, length);
}

uint32_t vu_forward_longest(const struct vu_forward *forward)
{
    const struct vu_net_hdr *header = &forward->header;
    uint8_t type = header->gso_type & (uint8_t)~VU_GSO_ECN, words = 5 << 4;
    uint32_t headers = vu_read_le16(&header->csum_start);

    if (forward->plain || type == VU_GSO_NONE)
        return forward->length;
    if (type == VU_GSO_UDP_L4)
        headers += 8;
    if (type == VU_GSO_TCPV4 || type == VU_GSO_TCPV6) {
        /* Read once, and what it decides harms nobody. */
        if (headers + 12 < forward->length)
            vu_iov_gather(&words, vu_cursor_at(forward->frame.piece, forward->frame.offset + headers + 12),
                          1);
        headers += 4u * (words >> 4);
    }
    return VU_MIN(forward->length, headers + vu_read_le16(&header->gso_size));
}

uint32_t vu_route(struct vu_sending *sending, uint32_t count)
{
    struct vu_forward *frames = sending->worker->scratch->forward;
    struct vu_member *sender = sending->from->device->member;
    uint64_t before[2] = {0}, *place = NULL;
    const bool spread = sender->receivers > 1;
    uint32_t now = seconds(), copies = 0, i;
    int16_t drop = VU_DROP_SOURCE_ADDRESS;

    for (i = 0; i < count; i++) {
        struct vu_forward *forward = &frames[i];
        uint64_t words[2];

        if (vu_unlikely(forward->drop >= 0))
            continue;
        read_head(forward, words);
        words[0] = le64toh(words[0]);
        words[1] = le64toh(words[1]);
        /* Both addresses are those of the frame before; at first, there being none, those of nobody. */
        if (vu_unlikely(words[0] != before[0] || (uint32_t)words[1] != (uint32_t)before[1])) {
            place =
                route(sending, (words[0] >> 48 | words[1] << 16) & ADDRESS, words[0] & ADDRESS, now, &drop);
            before[0] = words[0];
            before[1] = words[1];
        }
        if (vu_unlikely(drop >= 0)) {
            forward->drop = drop;
            continue;
        }
        *place |= (uint64_t)1 << i;
        if (vu_unlikely(spread))
            __atomic_store_n(&sender->sender[vu_forward_flow(forward) & 255], (uint8_t)sending->from->n,
                             __ATOMIC_RELAXED);
        /* Short ones to one member do not count: they are a burst at most. */
        if (vu_likely(forward->simple && place != &sending->flooded))
            continue;
        copies += vu_forward_weight(forward) * (place == &sending->flooded ? sender->lan->members : 1);
        if (copies >= MOST_COPIES)
            return i + 1;
    }
    return i;
}
