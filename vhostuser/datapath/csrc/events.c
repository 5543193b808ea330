/* SPDX-License-Identifier: Apache-2.0 */
/* What C reports up: a bounded queue, one writer (the worker) and one reader (the loop). */
#include "state.h"

void vu_event_put(const struct vu_pair *pair, const struct vu_event *event)
{
    struct vu_worker *worker = vu_guard_current ? vu_guard_current->worker : pair->worker;
    uint32_t head = worker->events_head;

    /* Pairs with the release of events_tail by the reader: the slot is free before it is written. */
    if (head - __atomic_load_n(&worker->events_tail, __ATOMIC_ACQUIRE) == VU_EVENTS) {
        __atomic_store_n(&worker->events_overflow, true, __ATOMIC_RELAXED);
        return;
    }
    worker->events[head % VU_EVENTS] = *event;
    __atomic_store_n(&worker->events_head, head + 1, __ATOMIC_RELEASE);
}

bool vu_events_pending(const struct vu_worker *worker)
{
    return __atomic_load_n(&worker->events_head, __ATOMIC_RELAXED) !=
               __atomic_load_n(&worker->events_tail, __ATOMIC_RELAXED) ||
           __atomic_load_n(&worker->events_overflow, __ATOMIC_RELAXED);
}

uint32_t vu_worker_events(struct vu_worker *worker, struct vu_event *events, uint32_t max)
{
    uint32_t count = 0, tail = worker->events_tail;

    if (max && __atomic_exchange_n(&worker->events_overflow, false, __ATOMIC_RELAXED))
        events[count++] = (struct vu_event){.kind = VU_EVENT_OVERFLOW};
    /* Pairs with the release of events_head. */
    while (count < max && tail != __atomic_load_n(&worker->events_head, __ATOMIC_ACQUIRE))
        events[count++] = worker->events[tail++ % VU_EVENTS];
    __atomic_store_n(&worker->events_tail, tail, __ATOMIC_RELEASE);
    return count;
}
