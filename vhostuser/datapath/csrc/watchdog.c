/* SPDX-License-Identifier: Apache-2.0 */
/* The timer behind watchdog.h: one a thread, whose signal does nothing but interrupt. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "watchdog.h"

#define PERIOD_NS 2000000

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* Written by this thread and by the handler, which runs on it. */
static __thread struct {
    timer_t timer;
    bool made;
    volatile bool runs;
    volatile bool fed;
} dog;

static void set_period(long ns)
{
    struct itimerspec spec = {.it_value.tv_nsec = ns, .it_interval.tv_nsec = ns};

    timer_settime(dog.timer, 0, &spec, NULL);
}

static void on_tick(int number)
{
    int saved = errno;

    (void)number;
    if (!dog.fed && dog.runs) {
        dog.runs = false;
        set_period(0);
    }
    dog.fed = false;
    errno = saved;
}

static bool make(void)
{
    struct sigaction action = {.sa_handler = on_tick}; /* without SA_RESTART: to interrupt is its purpose */
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = VU_WATCHDOG_SIGNAL};

    sigemptyset(&action.sa_mask);
    event.sigev_notify_thread_id = gettid();
    dog.made = sigaction(VU_WATCHDOG_SIGNAL, &action, NULL) == 0 &&
               timer_create(CLOCK_MONOTONIC, &event, &dog.timer) == 0;
    return dog.made;
}

void vu_watchdog_feed(void)
{
    dog.fed = true;
    if (dog.runs || (!dog.made && !make()))
        return;
    dog.runs = true;
    set_period(PERIOD_NS);
}

void vu_watchdog_end(void)
{
    if (!dog.made)
        return;
    dog.made = dog.runs = false; /* first: a last tick leaves the timer alone */
    timer_delete(dog.timer);
}
