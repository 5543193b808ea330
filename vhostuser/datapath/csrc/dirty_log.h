/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty log of live migration (vhost-user, "Migration"): one bit for each 4096 bytes of guest memory that
 * we wrote, whatever the host's page size.  The front-end reads and clears it while we write: a bit is set
 * after the bytes are, with an atomic or.
 */
#ifndef VU_DIRTY_LOG_H
#define VU_DIRTY_LOG_H

#include <stdint.h>

#define VU_LOG_PAGE_SHIFT 12

struct vu_log;

/* Maps `length` bytes of fd from `offset` (both multiples of the file's page size); the bits are the `size`
   bytes from `delta` on.  NULL with *failed_errno.  The caller owns the one reference; fd is not kept. */
struct vu_log *vu_log_map(int fd, uint64_t offset, uint64_t length, uint64_t delta, uint64_t size,
                          int *failed_errno);
/* Unmaps: not on the loop. */
void vu_log_free(struct vu_log *log);
/* Bytes that were written at addresses which the log does not reach; they are not marked. */
uint64_t vu_log_outside(const struct vu_log *log);

#endif
