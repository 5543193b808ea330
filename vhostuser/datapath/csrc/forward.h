/* SPDX-License-Identifier: Apache-2.0 */
/* From a member of a switch to others: the insides of both, and one burst. */
#ifndef VU_FORWARD_H
#define VU_FORWARD_H

#include "burst.h"
#include "fdb.h"
#include "offload.h"
#include "switch.h"

#define VU_MEMBER_PAIRS 128

/* Written while the workers of all members are paused, but for what says otherwise. */
struct vu_member {
    struct vu_switch *lan;
    struct vu_device *device;
    uint32_t number; /* 1 to VU_FDB_MEMBERS */
    uint32_t mtu;    /* atomic */
    uint32_t receivers;
    uint8_t receiver[VU_MEMBER_PAIRS];     /* numbers of the pairs that take frames, in order */
    struct vu_pair *pair[VU_MEMBER_PAIRS]; /* those pairs, by number; NULL for others */
    uint8_t sender[256] vu_cache_aligned;  /* by hash of a flow: the pair that its frames came from last;
                                              atomic, its workers' */
};

struct vu_switch {
    struct vu_fdb fdb;
    uint32_t members; /* highest number in use */
    struct vu_member *member[VU_FDB_MEMBERS + 1];
};

/* One burst of one pair. */
struct vu_sending {
    struct vu_pair *from;
    struct vu_worker *worker;
    struct vu_burst *burst;
    /* Frames of the burst, a bit each: those to everybody, and those to each of `targets` members. */
    uint64_t flooded;
    uint32_t targets;
    uint32_t target[VU_BURST];
    uint64_t chosen[VU_BURST];
    /* Of those on their way into a ring: neither published there nor dropped. */
    uint64_t left;
};

/* route.c: finds where scratch->forward[0 .. count) go, and sets `drop` of those that go nowhere; how many of
   them make a burst. */
uint32_t vu_route(struct vu_sending *sending, uint32_t count);
/* route.c: the longest frame that a link sees when this one is cut up there, as its header says. */
uint32_t vu_forward_longest(const struct vu_forward *forward);
/* route.c: of a frame; its bytes are read a second time, which decides only which ring of a receiver it is.
 */
uint32_t vu_forward_flow(const struct vu_forward *forward);

/* What one copy of it costs at most, in those of a short frame. */
static vu_always_inline uint32_t vu_forward_weight(const struct vu_forward *forward)
{
    uint32_t weight = 1 + forward->length / 2048, segments;

    if (vu_likely(forward->plain))
        return weight;
    segments = vu_offload_segments(&forward->header, forward->length);
    segments = VU_MIN(segments, VU_SEGMENTS_MAX);
    /* Twice, for who does not take the offload: it is finished on a copy first. */
    return 2 * VU_MAX(weight, segments);
}

/* Passes on the frames scratch->forward[0 .. count) of one of the member's pairs, in the turn of worker. Sets
   `drop` of each, and returns how many of them are done with: fewer when they are work for longer than a
   burst, none when the sender's memory is gone. */
uint32_t vu_forward(struct vu_pair *from, struct vu_worker *worker, uint32_t count, struct vu_burst *burst);

/* The receive ring of a member's pair, by its own worker: begins to run, and asks for no kicks. */
uint32_t vu_switch_serve_rx(struct vu_pair *pair);

#endif
