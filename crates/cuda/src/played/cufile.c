/* A stand-in for libcufile, for tests: the functions of the real one, over memory of a GPU that host threads
 * play, so that a transfer is a read or write of the file. Everything goes through memory of its own, as in the
 * compatibility mode of the real library.
 *
 * Faults are planted with gcos_played_cufile_fault. Each copy of the file that is loaded has faults and counts
 * of its own. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    int err;
    int cu_err;
} Error;

typedef struct {
    struct {
        unsigned major, minor;
        size_t poll, max_direct_io;
        unsigned dstatus, dcontrol;
    } nvfs;
    unsigned fflags, max_cache, per_buffer_cache, max_pinned, max_batch, max_batch_timeout;
} Properties;

typedef struct {
    unsigned type;
    union {
        int fd;
        void* handle;
    } handle;
    const void* operations;
} Descriptor;

typedef struct {
    unsigned mode;
    void* base;
    off_t file_offset;
    off_t base_offset;
    size_t size;
    void* file;
    unsigned opcode;
    void* cookie;
} Params;

typedef struct {
    void* cookie;
    unsigned status;
    size_t ret;
} Event;

typedef struct {
    unsigned capacity;
    unsigned count;
    Event* events;
} Batch;

/* What can be planted; the numbers are those of `played::CuFileFault`. */
enum {
    FAULT_OPEN,            /* cuFileDriverOpen answers with this code */
    FAULT_REGISTER,        /* cuFileHandleRegister does */
    FAULT_BUF_REGISTER,    /* cuFileBufRegister does */
    FAULT_READ_CODE,       /* transfers end with this code of cuFile */
    FAULT_WRITE_CODE,
    FAULT_READ_ERRNO,      /* they end with -1 and this errno */
    FAULT_WRITE_ERRNO,
    FAULT_SHORT,           /* they move at most so many bytes at a time */
    FAULT_DELAY_US,        /* they take so long before they begin */
    FAULT_NVIDIA_FS,       /* the major version of nvidia-fs that is claimed */
    FAULT_SKIP,            /* so many transfers are spared from the codes and errnos above */
    FAULT_BATCH_STUCK,     /* transfers of a batch end only when they are cancelled */
    FAULT_COUNT
};

static _Atomic long faults[FAULT_COUNT];

/* What was done so far; the numbers are those of `played::CuFileCount`. */
enum {
    COUNT_OPENED,
    COUNT_HANDLES,
    COUNT_BUFFERS,
    COUNT_READS,
    COUNT_WRITES,
    COUNT_BATCHES,
    COUNT_STREAMS,
    COUNT_COUNT
};

static _Atomic long counts[COUNT_COUNT];

void gcos_played_cufile_fault(int which, long value) {
    if (which >= 0 && which < FAULT_COUNT) {
        atomic_store(&faults[which], value);
    }
}

long gcos_played_cufile_count(int which) {
    return which >= 0 && which < COUNT_COUNT ? atomic_load(&counts[which]) : -1;
}

static Error answer(int code) {
    Error error = {code, 0};
    return error;
}

Error cuFileDriverOpen(void) {
    int code = (int)atomic_load(&faults[FAULT_OPEN]);
    if (code == 0) {
        atomic_fetch_add(&counts[COUNT_OPENED], 1);
    }
    return answer(code);
}

Error cuFileDriverClose_v2(void) {
    atomic_fetch_sub(&counts[COUNT_OPENED], 1);
    return answer(0);
}

Error cuFileDriverGetProperties(Properties* properties) {
    memset(properties, 0, sizeof *properties);
    properties->nvfs.major = (unsigned)atomic_load(&faults[FAULT_NVIDIA_FS]);
    properties->nvfs.dcontrol = 1u << 1;
    properties->nvfs.dstatus = properties->nvfs.major != 0 ? 1u << 4 : 0;
    properties->nvfs.max_direct_io = 16384;
    properties->max_cache = 131072;
    properties->max_pinned = 1u << 20;
    properties->max_batch = 128;
    return answer(0);
}

Error cuFileGetVersion(int* version) {
    *version = 1150;
    return answer(0);
}

Error cuFileGetParameterBool(unsigned parameter, bool* value) {
    (void)parameter;
    *value = false;
    return answer(0);
}

Error cuFileHandleRegister(void** handle, Descriptor* descriptor) {
    int code = (int)atomic_load(&faults[FAULT_REGISTER]);
    int* file = malloc(sizeof *file);
    if (code != 0 || file == NULL || descriptor->type != 1) {
        free(file);
        return answer(code != 0 ? code : 5022);
    }
    *file = descriptor->handle.fd;
    *handle = file;
    atomic_fetch_add(&counts[COUNT_HANDLES], 1);
    return answer(0);
}

void cuFileHandleDeregister(void* handle) {
    atomic_fetch_sub(&counts[COUNT_HANDLES], 1);
    free(handle);
}

Error cuFileBufRegister(const void* base, size_t length, int flags) {
    (void)flags;
    int code = (int)atomic_load(&faults[FAULT_BUF_REGISTER]);
    if (code != 0 || base == NULL || length == 0) {
        return answer(code != 0 ? code : 5022);
    }
    atomic_fetch_add(&counts[COUNT_BUFFERS], 1);
    return answer(0);
}

Error cuFileBufDeregister(const void* base) {
    atomic_fetch_sub(&counts[COUNT_BUFFERS], 1);
    return answer(base == NULL ? 5022 : 0);
}

static void delay(void) {
    long us = atomic_load(&faults[FAULT_DELAY_US]);
    struct timespec time = {us / 1000000, us % 1000000 * 1000};
    if (us > 0) {
        nanosleep(&time, NULL);
    }
}

/* A result that was planted for a transfer, or 0. */
static ssize_t planted(int code_fault, int errno_fault) {
    long code = atomic_load(&faults[code_fault]);
    long number = atomic_load(&faults[errno_fault]);
    if (code == 0 && number == 0) {
        return 0;
    }
    if (atomic_load(&faults[FAULT_SKIP]) > 0) {
        atomic_fetch_sub(&faults[FAULT_SKIP], 1);
        return 0;
    }
    if (code != 0) {
        return -code;
    }
    errno = (int)number;
    return -1;
}

enum { PAGE = 4096 };

static size_t limited(size_t size) {
    size_t most = (size_t)atomic_load(&faults[FAULT_SHORT]);
    return most > 0 && size > most ? most : size;
}

ssize_t cuFileRead(void* handle, void* base, size_t size, off_t offset, off_t base_offset) {
    delay();
    ssize_t wrong = planted(FAULT_READ_CODE, FAULT_READ_ERRNO);
    if (wrong != 0) {
        return wrong;
    }
    atomic_fetch_add(&counts[COUNT_READS], 1);
    size = limited(size);
    size_t before = (size_t)(offset % PAGE);
    size_t room = (before + size + PAGE - 1) / PAGE * PAGE;
    void* bounce = NULL;
    if (posix_memalign(&bounce, PAGE, room) != 0) {
        return -5043;
    }
    ssize_t got = pread(*(int*)handle, bounce, room, offset - (off_t)before);
    int error = errno;
    if (got >= 0) {
        got = got > (ssize_t)before ? got - (ssize_t)before : 0;
        got = got > (ssize_t)size ? (ssize_t)size : got;
        memcpy((char*)base + base_offset, (char*)bounce + before, (size_t)got);
    }
    free(bounce);
    errno = error;
    return got;
}

ssize_t cuFileWrite(void* handle, const void* base, size_t size, off_t offset, off_t base_offset) {
    delay();
    ssize_t wrong = planted(FAULT_WRITE_CODE, FAULT_WRITE_ERRNO);
    if (wrong != 0) {
        return wrong;
    }
    atomic_fetch_add(&counts[COUNT_WRITES], 1);
    size = limited(size);
    int fd = *(int*)handle;
    /* Less than pages are none of it: whoever relies on that finds out here. */
    if (offset % PAGE != 0 || size % PAGE != 0) {
        return -5022;
    }
    void* bounce = NULL;
    if (posix_memalign(&bounce, PAGE, size) != 0) {
        return -5043;
    }
    memcpy(bounce, (const char*)base + base_offset, size);
    ssize_t put = pwrite(fd, bounce, size, offset);
    int error = errno;
    free(bounce);
    errno = error;
    return put;
}

#ifndef GCOS_OLD_CUFILE
Error cuFileBatchIOSetUp(void** batch, unsigned capacity) {
    Batch* made = calloc(1, sizeof *made);
    if (made == NULL) {
        return answer(5043);
    }
    made->capacity = capacity;
    made->events = calloc(capacity, sizeof *made->events);
    *batch = made;
    atomic_fetch_add(&counts[COUNT_BATCHES], 1);
    return answer(made->events == NULL ? 5043 : 0);
}

enum { PENDING = 0x02, CANCELED = 0x08, COMPLETE = 0x10, FAILED = 0x40 };

Error cuFileBatchIOSubmit(void* handle, unsigned count, Params* params, unsigned flags) {
    (void)flags;
    Batch* batch = handle;
    if (count > batch->capacity - batch->count) {
        return answer(5037);
    }
    for (unsigned i = 0; i < count; i++) {
        Params* it = &params[i];
        Event* event = &batch->events[batch->count++];
        event->cookie = it->cookie;
        if (atomic_load(&faults[FAULT_BATCH_STUCK]) != 0) {
            event->status = PENDING;
            continue;
        }
        ssize_t rc = it->opcode == 0
            ? cuFileRead(it->file, it->base, it->size, it->file_offset, it->base_offset)
            : cuFileWrite(it->file, it->base, it->size, it->file_offset, it->base_offset);
        event->status = rc < 0 ? FAILED : COMPLETE;
        event->ret = (size_t)(rc == -1 ? -errno : rc);
    }
    return answer(0);
}

Error cuFileBatchIOGetStatus(
    void* handle, unsigned least, unsigned* count, Event* events, struct timespec* timeout) {
    Batch* batch = handle;
    unsigned given = 0, kept = 0;
    for (unsigned i = 0; i < batch->count; i++) {
        if (batch->events[i].status != PENDING && given < *count) {
            events[given++] = batch->events[i];
        } else {
            batch->events[kept++] = batch->events[i];
        }
    }
    batch->count = kept;
    *count = given;
    if (given < least && timeout != NULL) {
        nanosleep(timeout, NULL);
    }
    return answer(0);
}

Error cuFileBatchIOCancel(void* handle) {
    Batch* batch = handle;
    for (unsigned i = 0; i < batch->count; i++) {
        if (batch->events[i].status == PENDING) {
            batch->events[i].status = CANCELED;
        }
    }
    return answer(0);
}

void cuFileBatchIODestroy(void* handle) {
    Batch* batch = handle;
    free(batch->events);
    free(batch);
    atomic_fetch_sub(&counts[COUNT_BATCHES], 1);
}

Error cuFileStreamRegister(void* stream, unsigned flags) {
    (void)stream;
    (void)flags;
    atomic_fetch_add(&counts[COUNT_STREAMS], 1);
    return answer(0);
}

Error cuFileStreamDeregister(void* stream) {
    (void)stream;
    atomic_fetch_sub(&counts[COUNT_STREAMS], 1);
    return answer(0);
}

/* Whoever plays the stream calls it when the stream comes to it. */
Error cuFileReadAsync(
    void* handle,
    void* base,
    size_t* size,
    off_t* offset,
    off_t* base_offset,
    ssize_t* moved,
    void* stream) {
    (void)stream;
    *moved = cuFileRead(handle, base, *size, *offset, *base_offset);
    return answer(0);
}

Error cuFileWriteAsync(
    void* handle,
    void* base,
    size_t* size,
    off_t* offset,
    off_t* base_offset,
    ssize_t* moved,
    void* stream) {
    (void)stream;
    *moved = cuFileWrite(handle, base, *size, *offset, *base_offset);
    return answer(0);
}
#endif
