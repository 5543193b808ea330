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
    return vu_fdb_since(__atomic_load_n(&fdb->seen[set][way], __ATOMIC_RELAXED), now);
}

/* Once a second at most, and only where it matters how many entries somebody has: they may be of long ago. */
static void sweep(struct vu_fdb *fdb, uint32_t now)
{
    if (!vu_fdb_since(fdb->swept, now))
        return;
    fdb->swept = now;
    for (uint32_t set = 0; set < VU_FDB_SETS; set++)
        for (uint32_t way = 0; way < VU_FDB_WAYS; way++)
            if (fdb->entry[set][way] && unseen(fdb, set, way, now) > fdb->age)
                put(fdb, set, way, 0);
}

static bool is_full(const struct vu_fdb *fdb, uint32_t set)
{
    for (uint32_t way = 0; way < VU_FDB_WAYS; way++)
        if (!fdb->entry[set][way])
            return false;
    return true;
}

/* Whether `a` is to give way sooner than `b`, both of one set: its member has more; else it is longer unseen.
 */
static bool yields(const struct vu_fdb *fdb, uint32_t set, uint32_t a, uint32_t b, uint32_t now)
{
    uint32_t of_a = member_of(fdb->entry[set][a]), of_b = member_of(fdb->entry[set][b]);

    if (fdb->share[of_a] != fdb->share[of_b])
        return fdb->share[of_a] > fdb->share[of_b];
    return unseen(fdb, set, a, now) > unseen(fdb, set, b, now);
}

/* Where the address is or may be put: its own entry, else a free one, else that of a member that has more of
   them, by two or more lest the two take it from each other for ever, else an own one.  VU_FDB_WAYS for
   nowhere. */
static uint32_t place(const struct vu_fdb *fdb, uint32_t set, uint64_t mac, uint32_t member, uint32_t now)
{
    uint32_t vacant = VU_FDB_WAYS, own = VU_FDB_WAYS, other = VU_FDB_WAYS;

    for (uint32_t way = 0; way < VU_FDB_WAYS; way++) {
        uint64_t entry = fdb->entry[set][way];
        uint32_t *kind = member_of(entry) == member ? &own : &other;

        if (entry && entry >> 16 == mac)
            return way;
        if (!entry)
            vacant = way;
        else if (*kind == VU_FDB_WAYS || yields(fdb, set, way, *kind, now))
            *kind = way;
    }
    if (fdb->share[member] >= VU_FDB_SHARE)
        return own;
    if (vacant < VU_FDB_WAYS)
        return vacant;
    if (other < VU_FDB_WAYS && fdb->share[member_of(fdb->entry[set][other])] > fdb->share[member] + 1)
        return other;
    return own;
}

void vu_fdb_learn_new(struct vu_fdb *fdb, uint64_t mac, uint32_t member, uint32_t now)
{
    uint32_t set = vu_fdb_set(fdb, mac), way;

    pthread_mutex_lock(&fdb->lock);
    if (fdb->share[member] >= VU_FDB_SHARE || is_full(fdb, set))
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
