/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of the inflight region.  Only general instances of loops come here.
 *
 * Nothing of ours is ever marked in flight.  Rule 2 of ring.h: what a burst fetches it gives back or
 * un-fetches before it ends, and a process that is killed inside of one has un-fetched it as well, for the
 * ring still shows it.  What the region holds of us is the position: of a packed ring nothing else does.
 *
 * What another life left marked (a back-end that completes out of order) is served first, in its order; the
 * driver may have overwritten where the ring named it.  To a burst these are the first chains behind
 * position: they take the places in the used ring that they were promised.
 *
 * All numbers are in the host's byte order.  All of them are hostile: whoever has the fd can write.
 */
#ifndef VU_TRACKING_H
#define VU_TRACKING_H

#include "inflight.h"
#include "ring.h"

#define VU_INFLIGHT_VERSION 1
#define VU_INFLIGHT_ALIGNMENT 64 /* of each ring's part, as DPDK and libvhost-user have it */

struct vu_inflight {
    uint8_t *region;
    uint64_t size;
    uint32_t queues;
    uint32_t queue_size;
    void *map;
    uint64_t map_length;
};

struct vu_split_state {
    uint8_t inflight;
    uint8_t padding[5];
    uint16_t next;
    uint64_t counter;
};

struct vu_split_part {
    uint64_t features;
    uint16_t version; /* 0: nobody has used it yet */
    uint16_t desc_num;
    uint16_t last_batch_head;
    uint16_t used_idx;
    struct vu_split_state desc[];
};

struct vu_packed_state {
    uint8_t inflight;
    uint8_t padding;
    uint16_t next;
    uint16_t last;
    uint16_t num;
    uint64_t counter;
    uint16_t id;
    uint16_t flags;
    uint32_t length;
    uint64_t gpa;
};

/* 8 bytes, written as one: neither half of it can be missing after a kill. */
struct vu_packed_place {
    uint16_t used_idx;
    uint16_t old_used_idx;
    uint8_t used_wrap;
    uint8_t old_used_wrap;
    uint8_t padding[2];
};

struct vu_packed_part {
    uint64_t features;
    uint16_t version;
    uint16_t desc_num;
    uint16_t free_head;
    uint16_t old_free_head;
    struct vu_packed_place place;
    uint8_t padding[8];
    struct vu_packed_state desc[];
};

/* One chain that another life left in flight: private, checked once. */
struct vu_resubmit {
    uint64_t counter;
    uint16_t entry; /* split: the head; packed: its first state */
    uint16_t last;  /* packed: its last state, */
    uint16_t slots; /* and how many descriptors of the ring it took */
};

#define vu_shared_load(word) __atomic_load_n(word, __ATOMIC_RELAXED)
/* In program order: whoever is killed leaves no later store without the earlier ones. */
#define vu_shared_store(word, value) __atomic_store_n(word, value, __ATOMIC_RELEASE)

int vu_inflight_owns(const struct vu_inflight *inflight, const void *host);

/* Gives the ring its part, if the region has one; VU_OK, or VU_ERR_INFLIGHT_SIZE for one that is too small.
   No shared memory is touched. */
int vu_inflight_attach(struct vu_vring *vring, const struct vu_inflight *inflight);
/* Forgets the part, and what is still to be served again: that stays marked. */
void vu_inflight_detach(struct vu_vring *vring);

/* Reads what another life left; VU_OK or an enum vu_error.  Split: between used_idx and avail_idx of the
 * ring. */
int vu_inflight_recover_split(struct vu_vring *vring, uint16_t used_idx, uint16_t avail_idx);
/* Packed: *half is slot and lap's bit where that life stood, when *known. */
int vu_inflight_recover_packed(struct vu_vring *vring, uint32_t *half, bool *known);
/* Makes a packed part as new, with nothing in flight; the next publication brings the position. */
void vu_inflight_renew_packed(struct vu_vring *vring);

/* What vu_ring_ops.fetch promises, for k < resubmit_left. */
int vu_inflight_fetch_split(struct vu_vring *vring, const struct vu_memory *memory, uint16_t k, int direction,
                            struct vu_pieces *pieces, struct vu_chain *chain);
int vu_inflight_fetch_packed(struct vu_vring *vring, const struct vu_memory *memory, uint16_t k,
                             int direction, struct vu_pieces *pieces, struct vu_chain *chain);

/* Operations of vu_ring_ops, around a publication. */
void vu_inflight_before_split(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n);
void vu_inflight_after_split(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n);
void vu_inflight_before_packed(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n);
void vu_inflight_after_packed(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n);

/* What both formats share.  VU_ERR_INFLIGHT: the value found, the most that may be there, at which byte. */
int vu_inflight_bad(struct vu_vring *vring, uint64_t value, uint64_t most, const void *where);
/* VU_OK: of this version and for so many entries; VU_FETCH_EMPTY: nobody has used the part yet. */
int vu_inflight_check_head(struct vu_vring *vring, const uint16_t *version, const uint16_t *desc_num);
/* Room for `count` chains to be served again, the ring's at once: a fault may unwind the caller. */
int vu_inflight_make_room(struct vu_vring *vring, uint32_t count);
/* They are there: sorts them as they were taken. */
void vu_inflight_put_in_order(struct vu_vring *vring, uint32_t count);
/* Of n chains published, how many were among them. */
uint32_t vu_inflight_served_again(struct vu_vring *vring, uint16_t n);

#endif
