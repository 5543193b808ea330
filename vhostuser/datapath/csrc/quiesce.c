/* SPDX-License-Identifier: Apache-2.0 */
/* The border between turns: who may run, who waits for whom.  A monitor: its lock is held for a few
   instructions and never over a turn, so that only who asks to wait for a turn does. */
#include "state.h"

void vu_gate_open(struct vu_gate *gate)
{
    pthread_mutex_init(&gate->lock, NULL);
    pthread_cond_init(&gate->moved, NULL);
}

void vu_gate_close(struct vu_gate *gate)
{
    pthread_cond_destroy(&gate->moved);
    pthread_mutex_destroy(&gate->lock);
}

void vu_worker_hold(struct vu_worker *worker)
{
    struct vu_gate *gate = &worker->gate;

    pthread_mutex_lock(&gate->lock);
    /* A front-end that says one thing after the other has us pause again before the thread that the last
       pause kept out is awake: without this the worker's other guests would never be served. */
    while (gate->owed && !gate->hold)
        pthread_cond_wait(&gate->moved, &gate->lock);
    gate->hold++;
    pthread_mutex_unlock(&gate->lock);
}

void vu_worker_quiesce(struct vu_worker *worker)
{
    struct vu_gate *gate = &worker->gate;

    pthread_mutex_lock(&gate->lock);
    while (gate->turning)
        pthread_cond_wait(&gate->moved, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

int vu_worker_is_quiet(struct vu_worker *worker)
{
    struct vu_gate *gate = &worker->gate;
    bool turning;

    pthread_mutex_lock(&gate->lock);
    turning = gate->turning;
    pthread_mutex_unlock(&gate->lock);
    return !turning;
}

void vu_worker_pause(struct vu_worker *worker)
{
    vu_worker_hold(worker);
    vu_worker_quiesce(worker);
}

void vu_worker_resume(struct vu_worker *worker)
{
    struct vu_gate *gate = &worker->gate;
    bool wake = false;

    pthread_mutex_lock(&gate->lock);
    if (--gate->hold == 0) {
        /* At the end of the pause and not at its beginning: a worker that read it in between may have
           waited for events before the change, and enters its turn after it. */
        __atomic_add_fetch(&worker->changes, 1, __ATOMIC_RELEASE);
        /* What was started or broken meanwhile waits on a queue that no epoll event stands for. */
        wake = worker->queue_head || vu_events_pending(worker);
        pthread_cond_broadcast(&gate->moved);
    }
    pthread_mutex_unlock(&gate->lock);
    if (wake)
        vu_worker_wake(worker);
}

bool vu_turn_enter(struct vu_worker *worker)
{
    struct vu_gate *gate = &worker->gate;
    bool open;

    pthread_mutex_lock(&gate->lock);
    open = !gate->hold;
    gate->turning = open;
    if (open && gate->owed) {
        gate->owed = false;
        pthread_cond_broadcast(&gate->moved);
    }
    pthread_mutex_unlock(&gate->lock);
    return open;
}

bool vu_turn_leave(struct vu_worker *worker)
{
    struct vu_gate *gate = &worker->gate;
    bool held;

    pthread_mutex_lock(&gate->lock);
    gate->turning = false;
    held = gate->hold;
    if (held)
        pthread_cond_broadcast(&gate->moved);
    pthread_mutex_unlock(&gate->lock);
    return held;
}

void vu_turn_await(struct vu_worker *worker)
{
    struct vu_gate *gate = &worker->gate;

    pthread_mutex_lock(&gate->lock);
    while (gate->hold && !gate->ending) {
        gate->owed = true;
        pthread_cond_wait(&gate->moved, &gate->lock);
    }
    pthread_mutex_unlock(&gate->lock);
}

void vu_gate_end(struct vu_gate *gate, bool ending)
{
    pthread_mutex_lock(&gate->lock);
    __atomic_store_n(&gate->ending, ending, __ATOMIC_RELAXED);
    /* A thread that has ended takes no turn. */
    if (!ending)
        gate->owed = false;
    pthread_cond_broadcast(&gate->moved);
    pthread_mutex_unlock(&gate->lock);
}
