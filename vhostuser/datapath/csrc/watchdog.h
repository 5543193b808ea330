/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A notification fd is one file with the front-end, O_NONBLOCK included: who clears it, and fills the
 * eventfd or empties the pipe, has our next write or read sleep for ever.  No call on an eventfd is
 * non-blocking by itself, and to look first leaves a gap.  So a timer signal ends such a sleep: EINTR from a
 * notification fd means that it blocks, which only a hostile front-end brings about.
 */
#ifndef VU_WATCHDOG_H
#define VU_WATCHDOG_H

/* What the timer sends to its thread, which must not block it. */
#define VU_WATCHDOG_SIGNAL (SIGRTMAX - 3)

/* Before each read or write of a notification fd: within 2 ms or so a sleep of this thread is interrupted.
   The timer runs on while it is fed, and ends by itself: a quiet process has none. */
void vu_watchdog_feed(void);
/* Before a thread that has fed it ends: the kernel would keep the timer. */
void vu_watchdog_end(void);

#endif
