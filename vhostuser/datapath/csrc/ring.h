/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a ring is to a burst loop, whatever its format.
 *
 * Rules:
 * 1. Shared memory is read once into a local; the local is checked and used.
 * 2. Nothing is ever left fetched.  A burst fetches chains at `position + k` and moves `position` only when
 *    it publishes, in order; what it does not complete is thereby given back.  So position == used->idx
 *    between turns (packed: next available and next used slot are one), a killed process loses nothing,
 *    and GET_VRING_BASE needs no draining.
 * 3. A burst ends with one publish, which writes every used entry, and one call decision.
 * 4. The first bad chain breaks the ring; the chains before it are completed.
 */
#ifndef VU_RING_H
#define VU_RING_H

#include <stdbool.h>

#include "barrier.h"
#include "device.h"
#include "guest_memory.h"
#include "iotlb.h"

/* Virtio 1.2, 2.7.5 (descriptors), 2.7.6 (available), 2.7.8 (used). */
#define VU_DESC_NEXT 1
#define VU_DESC_WRITE 2
#define VU_DESC_INDIRECT 4
#define VU_AVAIL_NO_INTERRUPT 1
#define VU_USED_NO_NOTIFY 1

struct vu_desc {
    vu_le64 gpa;
    vu_le32 length;
    vu_le16 flags;
    vu_le16 next;
};

struct vu_avail {
    vu_le16 flags;
    vu_le16 idx;
    vu_le16 ring[]; /* used_event follows */
};

struct vu_used_elem {
    vu_le32 id;
    vu_le32 length;
};

struct vu_used {
    vu_le16 flags;
    vu_le16 idx;
    struct vu_used_elem ring[]; /* avail_event follows */
};

/* Virtio 1.2, 2.8.13; the bits say which lap a descriptor is of. */
#define VU_PACKED_AVAIL 0x80
#define VU_PACKED_USED 0x8000

struct vu_packed_desc {
    vu_le64 gpa;
    union {
        struct {
            vu_le32 length;
            vu_le16 id;
            vu_le16 flags;
        };
        vu_le64 used; /* the three, as we write them: length in its lowest bits */
    };
};

enum vu_vring_state {
    VU_VRING_STOPPED = 0,
    VU_VRING_STARTING = 1, /* the first scan by the worker is still to come */
    VU_VRING_RUNNING = 2,
    VU_VRING_BROKEN = 3 /* sticky until vu_vring_stop */
};

struct vu_vring {
    /* Read by every burst. */
    union {
        struct {
            const struct vu_desc *desc;
            struct vu_avail *avail;
            struct vu_used *used;
        };
        struct {
            struct vu_packed_desc *packed;
            const vu_le32 *driver_event; /* slot and lap's bit in the low half, flags in the high one */
            vu_le32 *device_event;
        };
    };
    uint32_t size;       /* entries; a power of two for the split format */
    uint16_t position;   /* split: next avail index, and used->idx; packed: the slot of both.  See rule 2 */
    uint16_t avail_seen; /* split: avail->idx when it was last read */
    uint16_t next;       /* packed: the slot where the next chain of this burst begins */
    bool wrap;           /* packed: the lap's bit at position */
    bool next_wrap;      /* packed: and at next */
    bool is_packed;
    bool turned;            /* split: its words are big-endian; only the general instance serves it */
    uint32_t fetched_slots; /* packed: between position and next */
    uint16_t signalled;     /* position at the last call decision */
    bool signalled_valid;   /* false until the first decision after a start: that one always calls */
    bool event_idx;
    bool indirect;
    bool batches;    /* its chains are used in order, and one used entry is for all of a burst */
    bool kick_armed; /* the driver has been asked to kick */
    bool iommu;      /* addresses are I/O addresses, its own included */
    bool mapped;     /* the three pointers hold; false only under an IOMMU, where each turn begins with it */
    bool parked;     /* it waits for `miss`, and nothing but the answer wakes it */
    uint8_t enabled; /* enum vu_ring_enabled */
    uint8_t state;
    uint32_t region_hint;
    uint32_t iotlb_hint;
    int call_fd;
    /* Read at start, stop and trouble. */
    int kick_fd;
    int err_fd;
    int error;
    bool kick_drained;
    bool kick_watched;
    bool used_anything;   /* since the start: decides whether a new call fd is signalled */
    bool logged;          /* SET_VRING_ADDR asked for it: what we write into the ring is marked, too */
    uint64_t log_address; /* guest address of the used ring for the log */
    bool looked_at;       /* since the start: position is known, until then the base is all there is */
    uint32_t base;
    uint32_t index;          /* of the device: 2n or 2n+1 */
    uint64_t uva[3];         /* of its parts; under an IOMMU their I/O addresses */
    struct vu_view *view[3]; /* of those whose pages lie apart (view.h) */
    struct vu_miss miss;     /* when parked */
    bool miss_told;          /* the control side knows of it */
    uint64_t trouble[4];     /* the values of the error, for the log line */
    /* The inflight region; only general instances come here (tracking.h). */
    void *tracked;            /* this ring's part, or NULL */
    uint16_t tracked_entries; /* chains that it has room for */
    struct vu_resubmit *resubmit;
    uint32_t resubmit_next; /* the chains that another life left are resubmit[next .. next+left) */
    uint32_t resubmit_left;
    struct vu_pair *pair;
    struct vu_counters counters;
} vu_cache_aligned;

/* One writer, and readers at any time: a plain store, but never a torn one. */
static vu_always_inline void vu_count(uint64_t *counter, uint64_t by)
{
    __atomic_store_n(counter, *counter + by, __ATOMIC_RELAXED);
}

/* One descriptor chain, translated: pieces[first .. first+count) of the burst. */
struct vu_chain {
    uint16_t head;  /* split: of the first descriptor; packed: the buffer's id */
    uint16_t slots; /* packed: descriptors in the ring */
    uint32_t first;
    uint32_t count;
    uint32_t written; /* bytes to report in the used entry */
    uint64_t length;  /* bytes in the direction that was asked for */
};

/* Chains up to the burst's end share one array; a chain may legally fall into as many pieces as its ring
   has entries, so the array holds the longest chain whatever the burst has used before it. */
#define VU_PIECES (32768 + 2048)

struct vu_pieces {
    uint32_t used;
    uint32_t most;        /* of `used`, and before another chain of `walked`; 0: no more */
    uint32_t walked;      /* what it cost: descriptors read, those without bytes, too, and further pieces */
    uint32_t descriptors; /* alone, of chains that a run did not take */
    struct iovec piece[VU_PIECES];
};

/* A piece behind the first of its descriptor takes a search in a table, and weighs as much as this many
   descriptors. */
#define VU_WALK_PIECE 2

static vu_always_inline void vu_pieces_begin(struct vu_pieces *pieces, uint32_t most)
{
    pieces->used = pieces->walked = pieces->descriptors = 0;
    pieces->most = most;
}

/* Further directions of fetch: the two sides of a chain that has both, as a control ring's have. */
#define VU_ACK 2
#define VU_COMMAND 3

/* fetch's answers besides VU_OK and enum vu_error. */
#define VU_FETCH_FULL 1  /* the burst's pieces are used up: complete what there is first */
#define VU_FETCH_EMPTY 2 /* the driver has made no further chain available */
#define VU_FETCH_MISS 3  /* an I/O address has no translation: the ring is parked until there is one */

struct vu_ring_ops {
    /* Walks the chain k behind position, k = 0, 1, 2 ... in a burst: its readable part for VU_TX and
       VU_COMMAND, its writable part for VU_RX and VU_ACK.  `general` is the one below. */
    int (*fetch)(bool general, struct vu_vring *vring, const struct vu_memory *memory, uint16_t k,
                 int direction, struct vu_pieces *pieces, struct vu_chain *chain);
    /* The chains that a burst begins with, while each is one descriptor in one region, as nearly all are: at
       most `most` into chains[], with their bytes together added to *held; how many.  Whatever else comes
       next is met by fetch.  Buffers are on their way into the cache.  NULL in general instances. */
    uint32_t (*fetch_run)(struct vu_vring *vring, const struct vu_memory *memory, uint32_t most,
                          int direction, struct vu_pieces *pieces, struct vu_chain *chains, uint64_t *held);
    /* Gives the first n chains of the burst back as used, all at once, and moves position. */
    void (*publish)(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n);
    /* Whether the driver wants to be called for what was published since the last decision. */
    bool (*wants_call)(struct vu_vring *vring);
    /* Asks the driver to kick at the next chain; the caller must ask grown() afterwards. */
    void (*arm)(struct vu_vring *vring);
    /* Whether a chain has come since fetch said VU_FETCH_EMPTY. */
    bool (*grown)(struct vu_vring *vring);
    /* Tells the driver that kicks are not needed; whether that took writing. */
    bool (*disarm)(struct vu_vring *vring);
    /* The general instance: it marks what it writes in the dirty log and says in the inflight region where it
       is, when there are such, translates by the IOTLB, and knows big-endian rings.  The fast one knows of
       none, and its last four are NULL. */
    bool general;
    void (*mark_used)(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n);
    void (*mark_wish)(struct vu_vring *vring);
    void (*before_publish)(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n);
    void (*after_publish)(struct vu_vring *vring, const struct vu_chain *chains, uint16_t n);
};

/* Records why, for the event; returns error so that callers can `return vu_trouble(...)`. */
static inline int vu_trouble(struct vu_vring *vring, int error, uint64_t a, uint64_t b, uint64_t c,
                             uint64_t d)
{
    vring->trouble[0] = a;
    vring->trouble[1] = b;
    vring->trouble[2] = c;
    vring->trouble[3] = d;
    return error;
}

#endif
