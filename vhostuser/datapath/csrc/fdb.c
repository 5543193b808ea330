/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of the filtering database: rare, and under its lock. */
#include "fdb.h"

#include <stdbool.h>
#include <string.h>

_Static_assert(VU_FDB_SETS == 1 << (64 - 55), "vu_fdb_set makes a number below VU_FDB_SETS");

void vu_fdb_init(struct vu_fdb *fdb, uint32_t age, uint64_t seed)
{
    memset(fdb, 0, sizeof(*fdb));
    fdb->age = age;
    fdb->seed = seed;
    pthread_mutex_init(&fdb->lock, NULL);
}

void vu_fdb_destroy(struct vu_fdb *fdb)
{
    pthread_mutex_destroy(&fdb->lock);
}

static uint32_t member_of(uint64_t entry)
{
    return (uint32_t)entry & 0xffff;
}

static void put(struct vu_fdb *fdb, uint32_t set, uint32_t way, uint64_t entry)
{
    uint64_t old = fdb->entry[set][way];

    fdb->share[member_of(old)]--;
    fdb->share[member_of(entry)]++;
    __atomic_store_n(&fdb->count, fdb->count + (entry != 0) - (old != 0), __ATOMIC_RELAXED);
    __atomic_store_n(&fdb->entry[set][way], entry, __ATOMIC_RELAXED);
}

/* Seconds. */
static uint32_t unseen(const struct vu_fdb *fdb, uint32_t set, uint32_t way, uint32_t now)
{
    return now - __atomic_load_n(&fdb->seen[set][way], __ATOMIC_RELAXED);
}

/* Once a second at most, and only for a member that has had its share: it may be of long ago. */
static void sweep(struct vu_fdb *fdb, uint32_t now)
{
    if (fdb->swept == now)
        return;
    fdb->swept = now;
    for (uint32_t set = 0; set < VU_FDB_SETS; set++)
        for (uint32_t way = 0; way < VU_FDB_WAYS; way++)
            if (fdb->entry[set][way] && unseen(fdb, set, way, now) > fdb->age)
                put(fdb, set, way, 0);
}

/* Where the address is or may be put: its own entry, else a free or old one, else, with none of these or its
   share used up, the longest unseen one of the same member.  VU_FDB_WAYS for nowhere. */
static uint32_t place(struct vu_fdb *fdb, uint32_t set, uint64_t mac, uint32_t member, uint32_t now)
{
    uint32_t vacant = VU_FDB_WAYS, own = VU_FDB_WAYS;

    for (uint32_t way = 0; way < VU_FDB_WAYS; way++) {
        uint64_t entry = fdb->entry[set][way];

        if (entry && entry >> 16 == mac)
            return way;
        if (!entry || unseen(fdb, set, way, now) > fdb->age)
            vacant = way;
        else if (member_of(entry) == member &&
                 (own == VU_FDB_WAYS || unseen(fdb, set, way, now) > unseen(fdb, set, own, now)))
            own = way;
    }
    return vacant < VU_FDB_WAYS && fdb->share[member] < VU_FDB_SHARE ? vacant : own;
}

void vu_fdb_learn_new(struct vu_fdb *fdb, uint64_t mac, uint32_t member, uint32_t now)
{
    uint32_t set = vu_fdb_set(fdb, mac), way;

    pthread_mutex_lock(&fdb->lock);
    if (fdb->share[member] >= VU_FDB_SHARE)
        sweep(fdb, now);
    way = place(fdb, set, mac, member, now);
    if (way < VU_FDB_WAYS) {
        __atomic_store_n(&fdb->seen[set][way], now, __ATOMIC_RELAXED);
        put(fdb, set, way, mac << 16 | member);
    }
    pthread_mutex_unlock(&fdb->lock);
}

void vu_fdb_forget(struct vu_fdb *fdb, uint32_t member)
{
    pthread_mutex_lock(&fdb->lock);
    for (uint32_t set = 0; set < VU_FDB_SETS; set++)
        for (uint32_t way = 0; way < VU_FDB_WAYS; way++)
            if (member_of(fdb->entry[set][way]) == member)
                put(fdb, set, way, 0);
    pthread_mutex_unlock(&fdb->lock);
}
