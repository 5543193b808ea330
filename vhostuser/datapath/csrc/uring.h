/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many reads or writes by one system call (io_uring).  Every entry is one that does not wait (RWF_NOWAIT), so
 * the kernel carries it out, in order, inside the call, and it is over when the call returns.
 */
#ifndef VU_URING_H
#define VU_URING_H

#include <stdint.h>
#include <sys/uio.h>

#define VU_URING_ENTRIES 64
#define VU_URING_NOT_DONE (-125) /* -ECANCELED: nothing has come of the entry */

struct vu_uring;

/* NULL where the kernel has none for us: too old, or forbidden. */
struct vu_uring *vu_uring_new(void);
/* Also NULL. */
void vu_uring_free(struct vu_uring *ring);
/* The next entry of at most VU_URING_ENTRIES, whose result is to be put into *result; header, list and what
   they point to stay as they are until vu_uring_run has returned. */
void vu_uring_writev(struct vu_uring *ring, int fd, const struct iovec *list, uint32_t count,
                     int32_t *result);
/* The same for one piece, which the kernel takes quicker; the struct may change. */
void vu_uring_write(struct vu_uring *ring, int fd, const struct iovec *piece, int32_t *result);
void vu_uring_readv(struct vu_uring *ring, int fd, const struct iovec *list, uint32_t count, int32_t *result);
void vu_uring_read(struct vu_uring *ring, int fd, const struct iovec *piece, int32_t *result);
/* Carries them out.  Each *result is bytes moved, -errno, or VU_URING_NOT_DONE; none is still on its way.
 */
void vu_uring_run(struct vu_uring *ring);

#endif
