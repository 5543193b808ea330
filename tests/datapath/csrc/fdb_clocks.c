/* SPDX-License-Identifier: Apache-2.0 */
/* The filtering database under two workers of which one is in the next second already. */
#include <stdio.h>

#include "fdb.h"

#define NOW 1000u
#define AGE 300u

static int failures;

static void expect(const char *what, uint32_t found, uint32_t wanted)
{
    if (found != wanted) {
        printf("%s: %u, not %u\n", what, found, wanted);
        failures++;
    }
}

static struct vu_fdb fdb;

int main(void)
{
    vu_fdb_init(&fdb, AGE, 12345);
    vu_fdb_learn(&fdb, 0xa0, 1, NOW + 1);
    expect("seen a second ahead", vu_fdb_find(&fdb, 0xa0, NOW), 1);

    vu_fdb_learn(&fdb, 0xa0, 1, NOW);
    expect("seen moved back", vu_fdb_find(&fdb, 0xa0, NOW + 1 + AGE), 1);
    expect("old", vu_fdb_find(&fdb, 0xa0, NOW + 2 + AGE), 0);

    /* A member that has used up its share has old entries swept, and only these. */
    for (uint64_t mac = 0x1000; mac < 0x3000; mac++)
        vu_fdb_learn(&fdb, mac, 2, NOW + AGE);
    vu_fdb_learn(&fdb, 0xb0, 3, NOW + AGE + 1);
    vu_fdb_learn(&fdb, 0x3000, 2, NOW + AGE);
    expect("of another, swept", vu_fdb_find(&fdb, 0xb0, NOW + AGE), 3);

    vu_fdb_forget(&fdb, 1);
    vu_fdb_forget(&fdb, 2);
    vu_fdb_forget(&fdb, 3);
    expect("forgotten", fdb.count, 0);
    vu_fdb_destroy(&fdb);
    return failures != 0;
}
