/* What the test programs share. */
#ifndef CHECK_H
#define CHECK_H

#include <gcos.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(what)                                                                      \
    do {                                                                                 \
        if (!(what)) {                                                                   \
            fprintf(stderr, "%s:%d: %s; last error: %s\n", __FILE__, __LINE__, #what,    \
                    gcos_last_error());                                                  \
            exit(1);                                                                     \
        }                                                                                \
    } while (0)

#define CHECK_STATUS(call, expected)                                                     \
    do {                                                                                 \
        gcos_status got_ = (call);                                                       \
        if (got_ != (expected)) {                                                        \
            fprintf(stderr, "%s:%d: %s gave %s, not %s: %s\n", __FILE__, __LINE__, #call, \
                    gcos_status_name(got_), #expected, gcos_last_error());               \
            exit(1);                                                                     \
        }                                                                                \
    } while (0)

#define OK(call) CHECK_STATUS(call, GCOS_OK)

#define IN_MEMORY                                                                        \
    "{\"disk\": {\"number\": 1, \"paths\": [\"emulated:ram:64MiB\"], "                   \
    "\"capacity_bytes\": 67108864}}"

#endif
