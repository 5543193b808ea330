/* SPDX-License-Identifier: Apache-2.0 */
/* A worker's own thread: it turns, sleeps in the turn, and never sees Python. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "state.h"
#include "watchdog.h"

static void take_signals(void)
{
    sigset_t wanted;

    sigemptyset(&wanted);
    sigaddset(&wanted, SIGBUS);
    sigaddset(&wanted, VU_WATCHDOG_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &wanted, NULL);
}

static void report(int events_fd)
{
    uint64_t one = 1;
    /* Cannot fail: the counter would have to overflow. */
    ssize_t written = write(events_fd, &one, sizeof(one));

    (void)written;
}

static void *run(void *argument)
{
    struct vu_worker *worker = argument;

    take_signals();
    __atomic_store_n(&worker->thread_id, (int)syscall(SYS_gettid), __ATOMIC_RELAXED);
    while (!__atomic_load_n(&worker->gate.ending, __ATOMIC_RELAXED)) {
        uint32_t result = vu_worker_turn(worker, -1);

        /* As long as they have not been read: what is written once may be read before the events are. */
        if (result & (VU_TURN_EVENTS | VU_TURN_HELD))
            report(worker->events_fd);
        if (result & VU_TURN_PAUSED)
            vu_turn_await(worker);
    }
    vu_watchdog_end();
    return NULL;
}

/* With all signals blocked from its first instruction on: one that is meant for the process is Python's. */
static int create(struct vu_worker *worker)
{
    sigset_t all, before;
    int error;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&worker->thread, NULL, run, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

int vu_worker_start(struct vu_worker *worker, const char *name, int cpu, int poll, int events_fd)
{
    int error;

    worker->events_fd = events_fd;
    worker->poll = (enum vu_poll)poll;
    error = create(worker);
    if (error)
        return -error;
    worker->has_thread = true;
    pthread_setname_np(worker->thread, name);
    if (cpu >= 0) {
        cpu_set_t only;

        CPU_ZERO(&only);
        CPU_SET((size_t)cpu, &only);
        error = pthread_setaffinity_np(worker->thread, sizeof(only), &only);
        if (error)
            vu_worker_stop(worker);
    }
    return -error;
}

int vu_worker_thread_id(const struct vu_worker *worker)
{
    return __atomic_load_n(&worker->thread_id, __ATOMIC_RELAXED);
}

void vu_worker_stop(struct vu_worker *worker)
{
    if (!worker->has_thread)
        return;
    vu_gate_end(&worker->gate, true);
    vu_worker_wake(worker);
    pthread_join(worker->thread, NULL);
    worker->has_thread = false;
    worker->thread_id = 0;
    worker->poll = VU_POLL_EVENT;
    vu_gate_end(&worker->gate, false);
}
