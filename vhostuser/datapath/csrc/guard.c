/* SPDX-License-Identifier: Apache-2.0 */
/* The SIGBUS handler. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "guard.h"
#include "marking.h"
#include "tracking.h"
#include "worker.h"

__thread struct vu_guard *volatile vu_guard_current;

static struct sigaction previous;

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    struct vu_guard *guard = vu_guard_current;
    bool sent = info->si_code <= 0; /* by kill(): no address comes with it, and no instruction to repeat */

    if (guard && !sent &&
        (vu_memory_owner(guard->memory, info->si_addr) || vu_log_owns(guard->log, info->si_addr) ||
         vu_inflight_owns(guard->inflight, info->si_addr))) {
        vu_guard_current = NULL;
        guard->address = (uintptr_t)info->si_addr;
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
