/* SPDX-License-Identifier: Apache-2.0 */
/* What the compiler is told: inlining, branch weights, layout.  Nothing here knows virtio. */
#ifndef VU_COMPILER_H
#define VU_COMPILER_H

#define VU_CACHE_LINE 64

#define vu_likely(condition) __builtin_expect(!!(condition), 1)
#define vu_unlikely(condition) __builtin_expect(!!(condition), 0)
#ifndef vu_always_inline /* under a sanitizer, a loop for each format and port takes minutes to compile */
#define vu_always_inline inline __attribute__((always_inline))
#endif
/* From here on the object is what it is: no later use of it is a second look at where it was copied from. */
#define vu_settle(object) __asm__ volatile("" : "+m"(object))
#define vu_noinline __attribute__((noinline))
#define vu_cache_aligned __attribute__((aligned(VU_CACHE_LINE)))
#define VU_ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define VU_MIN(a, b) ((a) < (b) ? (a) : (b))
#define VU_MAX(a, b) ((a) > (b) ? (a) : (b))

#if __SIZEOF_POINTER__ != 8
#error "64-bit hosts only: guest addresses and mappings share one address space"
#endif

#endif
