/* SPDX-License-Identifier: Apache-2.0 */
/* The SIGBUS handler. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "guest_memory.h"
#include "marking.h"
#include "state.h"
#include "tracking.h"
#include "view.h"

__thread struct vu_guard *volatile vu_guard_current;

static struct sigaction previous;

/* The address, or where it is a view of; NULL when it is nothing that the pair's front-end shares with us. */
static const void *shared_at(const struct vu_pair *pair, const void *address)
{
    const struct vu_device *device = pair->device;
    uint64_t left;
    const void *where = vu_view_origin(pair, address, &left);
    bool shared = vu_memory_owner(device->memory, where) || vu_log_owns(device->log, where) ||
                  vu_inflight_owns(device->inflight, where);

    return shared ? where : NULL;
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    struct vu_guard *guard = vu_guard_current;
    bool sent = info->si_code <= 0; /* by kill(): no address comes with it, and no instruction to repeat */
    const void *where = NULL;

    if (guard && !sent) {
        guard->culprit = guard->pair;
        where = shared_at(guard->pair, info->si_addr);
        if (!where && guard->receiver) {
            guard->culprit = guard->receiver;
            where = shared_at(guard->receiver, info->si_addr);
        }
    }
    if (where) {
        vu_guard_current = NULL;
        guard->address = (uintptr_t)where;
        siglongjmp(guard->unwind, 1);
    }
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(number, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(number);
    } else if (previous.sa_handler == SIG_DFL || !sent) {
        /* Nobody's: put the default back and return, the instruction faults again and the process dies
           as it would have without us. */
        sigaction(SIGBUS, &previous, NULL);
        if (sent)
            raise(SIGBUS);
    }
}

int vu_guard_install(void)
{
    static int installed;
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};

    if (installed)
        return 0;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, &previous))
        return -errno;
    installed = 1;
    return 0;
}
