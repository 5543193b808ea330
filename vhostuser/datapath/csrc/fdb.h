/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which member of a switch an Ethernet address was last seen behind (IEEE 802.1Q, 8.8: filtering database).
 *
 * Fixed in size, and one 64-bit word an entry, so that who looks up needs no lock and never sees the address
 * of one entry with the member of another.  What does not fit is not learned: its frames go to everybody, as
 * those to an unknown address do.  A member takes the places of another only while that one has more of them,
 * so whatever addresses a guest makes up, who uses few keeps theirs.  An address itself is whose it was last
 * seen behind, as in every learning bridge: a guest that sends with that of another has its frames until the
 * other sends.
 */
#ifndef VU_FDB_H
#define VU_FDB_H

#include <pthread.h>
#include <stdint.h>

#include "compiler.h"

#define VU_FDB_WAYS 8 /* a cache line */
#define VU_FDB_SETS 512
#define VU_FDB_SHARE 1024    /* addresses of one member, but for those that were known of another */
#define VU_FDB_MEMBERS 1024u /* numbers 1 to this; 0 is nobody */

struct vu_fdb {
    uint64_t entry[VU_FDB_SETS][VU_FDB_WAYS] vu_cache_aligned; /* address << 16 | member; 0: free */
    uint32_t seen[VU_FDB_SETS][VU_FDB_WAYS];                   /* second in which it was used as a source */
    uint64_t seed;
    uint32_t age;   /* seconds after which an entry holds no longer */
    uint32_t swept; /* second in which old entries were last looked for */
    uint32_t count;
    uint16_t share[VU_FDB_MEMBERS + 1];
    pthread_mutex_t lock; /* of whoever changes an entry; refreshing `seen` is none */
};

/* seed: something that guests do not know, lest they fill a set on purpose. */
void vu_fdb_init(struct vu_fdb *fdb, uint32_t age, uint64_t seed);
void vu_fdb_destroy(struct vu_fdb *fdb);
/* The slow half of learning: `mac` is new, or was elsewhere, or has grown old. */
void vu_fdb_learn_new(struct vu_fdb *fdb, uint64_t mac, uint32_t member, uint32_t now);
/* All addresses of this member. */
void vu_fdb_forget(struct vu_fdb *fdb, uint32_t member);

static vu_always_inline uint32_t vu_fdb_set(const struct vu_fdb *fdb, uint64_t mac)
{
    return (uint32_t)(((mac ^ fdb->seed) * ((fdb->seed << 1) | 1)) >> 55);
}

/* Seconds since; none for what a worker saw whose second has begun when this one's has not. */
static vu_always_inline uint32_t vu_fdb_since(uint32_t seen, uint32_t now)
{
    int32_t seconds = (int32_t)(now - seen);

    return seconds > 0 ? (uint32_t)seconds : 0;
}

/* `mac`: an address whose first byte is bits 0 to 7.  The member that it is behind, or 0. */
static vu_always_inline uint32_t vu_fdb_find(const struct vu_fdb *fdb, uint64_t mac, uint32_t now)
{
    uint32_t set = vu_fdb_set(fdb, mac);

    for (uint32_t way = 0; way < VU_FDB_WAYS; way++) {
        uint64_t entry = __atomic_load_n(&fdb->entry[set][way], __ATOMIC_RELAXED);

        if (entry >> 16 == mac)
            return vu_fdb_since(__atomic_load_n(&fdb->seen[set][way], __ATOMIC_RELAXED), now) <= fdb->age
                       ? (uint32_t)entry & 0xffff
                       : 0;
    }
    return 0;
}

static vu_always_inline void vu_fdb_learn(struct vu_fdb *fdb, uint64_t mac, uint32_t member, uint32_t now)
{
    uint32_t set = vu_fdb_set(fdb, mac);

    for (uint32_t way = 0; way < VU_FDB_WAYS; way++) {
        uint32_t *seen = &fdb->seen[set][way];

        if (vu_likely(__atomic_load_n(&fdb->entry[set][way], __ATOMIC_RELAXED) == (mac << 16 | member))) {
            /* Not written for each frame: other workers read the line. */
            if (vu_unlikely(vu_fdb_since(__atomic_load_n(seen, __ATOMIC_RELAXED), now)))
                __atomic_store_n(seen, now, __ATOMIC_RELAXED);
            return;
        }
    }
    vu_fdb_learn_new(fdb, mac, member, now);
}

#endif
