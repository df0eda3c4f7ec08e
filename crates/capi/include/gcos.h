/* GCOS: a cache for the KV blocks of language models on NVMe drives.
 *
 * This file is made from the Rust source: cargo run -p gcos-capi --example header.
 *
 * Every call that returns gcos_status returns GCOS_OK (0) or a negative code; gcos_last_error
 * says what was expected and what to do. All calls may be made from many threads at once, with
 * any handle, but for gcos_close of one handle, which waits for the others. In a child process
 * (fork) the pools of the parent are GCOS_FORKED; a child may open its own.
 *
 * What is asked of callers: a pointer is null or valid for the length that goes with it, for
 * the time of the call, and what is written to through it is used by nobody else meanwhile.
 * Texts end with a zero byte and are UTF-8. Null pointers where something is needed, lengths
 * that cannot be, unknown flags and handles that were closed are found out and answered with a
 * status. */
#ifndef GCOS_H
#define GCOS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version that this header is of; gcos_version tells that of the library. */
#define GCOS_VERSION "0.1.0"
#define GCOS_VERSION_MAJOR 0
#define GCOS_VERSION_MINOR 1
#define GCOS_VERSION_PATCH 0

/* ---- Types ---- */

/* How a call ended: one of the codes below, 0 or negative. */
typedef int32_t gcos_status;

enum {
    /* It went well. */
    GCOS_OK = 0,
    /* An argument is out of its range, or does not go with the others. Nothing was done. */
    GCOS_INVALID_ARGUMENT = -1,
    /* The configuration cannot be read, or says what cannot be. */
    GCOS_CONFIG = -2,
    /* A drive holds no pool, one that cannot be opened, or something else that would be lost. */
    GCOS_NOT_A_POOL = -3,
    /* The pool, a drive or memory is in use by somebody else. */
    GCOS_BUSY = -4,
    /* A drive that the pool needs is not there, or does not answer. */
    GCOS_MISSING_DRIVE = -5,
    /* A miss: no such key, or its object cannot be had. It is no failure of the store. */
    GCOS_NO_SUCH_KEY = -6,
    /* There is no room, and nothing may be evicted. */
    GCOS_FULL = -7,
    /* The memory does not have the length of the object. */
    GCOS_WRONG_SIZE = -8,
    /* A drive, a file or the system failed. */
    GCOS_IO = -9,
    /* It did not end in time. */
    GCOS_TIMEOUT = -10,
    /* The store has been closed. */
    GCOS_CLOSED = -11,
    /* There is no memory left, or no addresses that drives reach. */
    GCOS_OUT_OF_MEMORY = -12,
    /* A GPU or its driver failed. */
    GCOS_GPU = -13,
    /* It cannot be had here. */
    GCOS_UNSUPPORTED = -14,
    /* The store was opened by the parent of this process: open it again here. */
    GCOS_FORKED = -15,
    /* A fault of the library. The store may be used on, or closed. */
    GCOS_INTERNAL = -16
};

/* An open pool. Opaque; the value of a pool that was closed is never used again. */
typedef struct gcos_store gcos_store;

/* Flag of gcos_open: files that are missing are made, and drives of which every one holds
 * nothing are formatted. A pool that is there, and anything that is not known, is never erased. */
#define GCOS_CREATE 1

/* Durability: acknowledged when it survives the loss of power. */
#define GCOS_SYNC 0

/* Durability: acknowledged at once; a crash may undo the last moments, whole operations at a
 * time. */
#define GCOS_RELAXED 1

/* A put replaces an object that is there, atomically. */
#define GCOS_REPLACE 0

/* A put keeps an object that is there: right for keys that are hashes of the content. */
#define GCOS_KEEP 1

/* Levels of the log; 0 is none. */
#define GCOS_LOG_ERROR 1

/* Something is not as it should be. */
#define GCOS_LOG_WARN 2

/* What an operator should know. */
#define GCOS_LOG_INFO 3

/* For finding faults. */
#define GCOS_LOG_DEBUG 4

/* Everything. */
#define GCOS_LOG_TRACE 5

/* The drive wrote into the GPU's memory, or read from it (nvidia-fs or P2PDMA). */
#define GCOS_MODE_GDS_DIRECT 1

/* cuFile moved the bytes with the processor. */
#define GCOS_MODE_COMPATIBILITY 2

/* They went through pinned host memory, without cuFile. */
#define GCOS_MODE_STAGING 3

/* Options of a put. Set all of it to 0 and struct_size to its size; a null pointer means the
 * same. */
typedef struct gcos_put_options {
    /* sizeof(gcos_put_options). */
    size_t struct_size;
    /* GCOS_SYNC or GCOS_RELAXED. */
    uint32_t durability;
    /* GCOS_REPLACE or GCOS_KEEP. */
    uint32_t if_exists;
    /* Lifetime in milliseconds, rounded up to whole seconds; 0 for no limit. */
    uint64_t ttl_ms;
    /* Not 0: the new object is pinned at once. */
    uint32_t pin;
    /* 0. */
    uint32_t reserved;
} gcos_put_options;

/* A key: 0 to 1024 bytes of any kind. */
typedef struct gcos_key {
    /* The bytes; may be null if there are none. */
    const void *data;
    /* How many. */
    size_t len;
} gcos_key;

/* One object of a batch. */
typedef struct gcos_item {
    /* Key. */
    gcos_key key;
    /* Memory that the payload is in, or goes to: of the host, or of the GPU for the calls of
     * devices. */
    void *data;
    /* Its length: 1 byte to 1 GiB; for a get exactly that of the object. */
    size_t len;
    /* Set by the call: how it ended for this object. GCOS_NO_SUCH_KEY is a miss. */
    gcos_status status;
    /* Set by puts: 1 if an object was there and was kept, else 0. */
    int32_t kept;
} gcos_item;

/* What is known of an object without reading it. Set struct_size before the call. */
typedef struct gcos_object_info {
    /* sizeof(gcos_object_info). */
    size_t struct_size;
    /* Payload length in bytes. */
    uint64_t len;
    /* Higher for objects stored later. */
    uint64_t generation;
    /* Expiry in seconds since 1970; 0 if it has none. */
    uint64_t expires_at;
    /* How many times it is pinned. */
    uint32_t pins;
    /* 0. */
    uint32_t reserved;
} gcos_object_info;

/* Called for each object of gcos_list, in the order of keys; what it gets is valid during the
 * call. It may call the library. It returns 0 to go on, anything else to end the list. It must
 * not throw. */
typedef int32_t (*gcos_list_callback)(void *user, const void *key, size_t key_len, const gcos_object_info *info);

/* Called for each line of the log, from a thread of the library's, one line at a time; the
 * texts are valid during the call. Lines that calls of its own would write are left out. It
 * must not throw, nor call gcos_set_log. */
typedef void (*gcos_log_callback)(void *user, int32_t level, const char *target, const char *message);

/* ---- Messages ---- */

/* The version of the library, such as "0.1.0". Static. */
const char *gcos_version(void);

/* Why the last call of this thread failed, what was expected and what to do; empty if it did
 * not fail. Valid until the thread's next call. */
const char *gcos_last_error(void);

/* The name of a status, such as "no_such_key"; "unknown" for a number that is none. Static. */
const char *gcos_status_name(gcos_status status);

/* ---- Opening and closing ---- */

/* Opens the pool of a configuration file; null: the file that GCOS_CONFIG names, else gcos.json
 * here. Flags: 0 or GCOS_CREATE. Close it with gcos_close. */
gcos_status gcos_open(const char *config_path, uint32_t flags, gcos_store **store);

/* As gcos_open, with the configuration itself: a JSON document. */
gcos_status gcos_open_json(const char *json, uint32_t flags, gcos_store **store);

/* Ends use of the pool in order: waits for calls of other threads, makes everything durable,
 * lets go of the drives. Calls that begin meanwhile end with GCOS_CLOSED. The handle is of no
 * use then, whatever this returns, with two exceptions in which nothing was closed:
 * GCOS_TIMEOUT when calls had not ended after deadline_ms, and GCOS_BUSY when memory of
 * gcos_alloc has not been freed. Memory that is registered is unregistered, which is waited for
 * within deadline_ms: it may be freed, or used for something else, after GCOS_OK alone; after
 * GCOS_IO, or whatever else but those two exceptions, a drive may still use it, and it must
 * stay as long as the process. A process that ends without this loses no put that was
 * acknowledged with GCOS_SYNC. */
gcos_status gcos_close(gcos_store *store, uint64_t deadline_ms);

/* ---- Objects ---- */

/* Stores an object: key of 0 to 1024 bytes, payload of 1 byte to 1 GiB. Least recently used
 * objects are evicted for it if they must. With GCOS_KEEP, kept (may be null) says whether an
 * object was there. If this fails, nothing of the object is visible. */
gcos_status gcos_put(
    gcos_store *store,
    const void *key,
    size_t key_len,
    const void *data,
    size_t len,
    const gcos_put_options *options,
    int32_t *kept);

/* Reads an object into memory of exactly its length: ask gcos_info for that. GCOS_NO_SUCH_KEY
 * is a miss, for the reason that gcos_last_error tells; what is in the memory is unspecified
 * then, as after every failure. After GCOS_TIMEOUT it may still be written to: see
 * gcos_register. */
gcos_status gcos_get(
    gcos_store *store,
    const void *key,
    size_t key_len,
    void *data,
    size_t len);

/* Reads part of an object: len bytes from offset on. GCOS_WRONG_SIZE when they are not inside
 * it. Only the 64 KiB grains that are touched are read and verified. */
gcos_status gcos_get_range(
    gcos_store *store,
    const void *key,
    size_t key_len,
    uint64_t offset,
    void *data,
    size_t len);

/* ---- Batches ---- */

/* Stores several objects, with their I/O overlapping and their records together: faster than
 * one by one. Each item's status says how it ended; failed (may be null) is how many did not
 * end with GCOS_OK. What is returned is of the call: GCOS_OK also if items failed. */
gcos_status gcos_put_many(
    gcos_store *store,
    gcos_item *items,
    size_t count,
    const gcos_put_options *options,
    size_t *failed);

/* Reads several objects, with their I/O overlapping, each into memory of exactly its length. No
 * two items may have memory in common. As gcos_put_many else; misses have GCOS_NO_SUCH_KEY and
 * count as failed. */
gcos_status gcos_get_many(gcos_store *store, gcos_item *items, size_t count, size_t *failed);

/* ---- Looking up ---- */

/* Whether an object is there: found is 1 or 0. A get may still miss, if a drive fails or the
 * object is damaged. */
gcos_status gcos_contains(gcos_store *store, const void *key, size_t key_len, int32_t *found);

/* How many keys from the start of the list are there without a gap: the longest cached prefix
 * of a chain of blocks. */
gcos_status gcos_prefix(gcos_store *store, const gcos_key *keys, size_t count, size_t *hits);

/* What is known of an object without reading it. GCOS_NO_SUCH_KEY if there is none. */
gcos_status gcos_info(
    gcos_store *store,
    const void *key,
    size_t key_len,
    gcos_object_info *info);

/* Protects an object from eviction until as many gcos_unpin calls. Pins end with the process.
 * GCOS_NO_SUCH_KEY when there is none, or when it has 65535 pins. */
gcos_status gcos_pin(gcos_store *store, const void *key, size_t key_len);

/* Takes one pin back. GCOS_NO_SUCH_KEY when there is no such object, or it is not pinned. */
gcos_status gcos_unpin(gcos_store *store, const void *key, size_t key_len);

/* Marks an object as just used, so that others are evicted first. GCOS_NO_SUCH_KEY when there
 * is none. */
gcos_status gcos_touch(gcos_store *store, const void *key, size_t key_len);

/* Removes an object, pinned or not. Durability: GCOS_SYNC or GCOS_RELAXED. GCOS_NO_SUCH_KEY
 * when there is none. */
gcos_status gcos_remove(
    gcos_store *store,
    const void *key,
    size_t key_len,
    uint32_t durability);

/* Calls back for each object whose key starts with prefix and comes behind the key after (null:
 * from the first), in the order of keys, at most limit (0: all). What is put or removed
 * meanwhile may be in the list or not. For people and tools: it looks at every object for each
 * 16384 that it lists. */
gcos_status gcos_list(
    gcos_store *store,
    const void *prefix,
    size_t prefix_len,
    const void *after,
    size_t after_len,
    size_t limit,
    gcos_list_callback callback,
    void *user);

/* ---- Memory that drives reach ---- */

/* Lets the drives reach memory of the caller: puts from it and gets into it, or into parts of
 * it, move whole blocks of 4096 bytes without a copy. Address and length are multiples of 4096;
 * no two registrations overlap, and none overlaps memory of gcos_alloc; GCOS_BUSY for memory
 * that is registered already, or still on its way out. The memory stays what it is, and
 * allocated, until gcos_unregister or gcos_close has returned GCOS_OK. After a get into it that
 * ended with GCOS_TIMEOUT, a drive that is reached through the kernel may still write to the
 * part that was given: use that part for nothing else before then. */
gcos_status gcos_register(gcos_store *store, void *data, size_t len);

/* Takes memory back, given by its first address, once no drive uses it. GCOS_TIMEOUT when one
 * that was given up on still may after the I/O deadline: the memory must stay then, and this be
 * called again. */
gcos_status gcos_unregister(gcos_store *store, void *data);

/* Allocates memory that the drives reach, zeroed, at a multiple of 4096: as if it were
 * registered. Free it with gcos_free before gcos_close. */
gcos_status gcos_alloc(gcos_store *store, size_t len, void **data);

/* Frees memory of gcos_alloc. Null is fine. */
gcos_status gcos_free(gcos_store *store, void *data);

/* Allocates memory of a GPU that the drives reach, too: puts from it and gets into it move
 * without a copy. Its content is unspecified. GCOS_INVALID_ARGUMENT where there is none that
 * both reach. Free it with gcos_device_free before gcos_close. */
gcos_status gcos_device_alloc(gcos_store *store, int32_t device, size_t len, void **data);

/* Frees memory of gcos_device_alloc; work on the GPU that uses it must have ended. Null is
 * fine. */
gcos_status gcos_device_free(gcos_store *store, void *data);

/* ---- Memory of GPUs ---- */

/* Stores an object from memory of a GPU, which was allocated by anybody, after the work that is
 * in the stream (cudaStream_t or CUstream; null is the default stream), and returns when it is
 * stored. Memory of gcos_device_alloc moves without a copy. */
gcos_status gcos_put_device(
    gcos_store *store,
    const void *key,
    size_t key_len,
    int32_t device,
    const void *data,
    size_t len,
    void *stream,
    const gcos_put_options *options,
    int32_t *kept);

/* Reads an object into memory of a GPU, of exactly its length, after the work that is in the
 * stream, and returns when it is there and was verified. As gcos_get and gcos_put_device else.
 * Should the stream not pass in time, or the drive not deliver (GCOS_TIMEOUT), the memory must
 * stay, and be used for nothing else, until they have. */
gcos_status gcos_get_device(
    gcos_store *store,
    const void *key,
    size_t key_len,
    int32_t device,
    void *data,
    size_t len,
    void *stream);

/* As gcos_put_many, from memory of a GPU after the work that is in the stream. */
gcos_status gcos_put_many_device(
    gcos_store *store,
    int32_t device,
    void *stream,
    gcos_item *items,
    size_t count,
    const gcos_put_options *options,
    size_t *failed);

/* As gcos_get_many, into memory of a GPU after the work that is in the stream. */
gcos_status gcos_get_many_device(
    gcos_store *store,
    int32_t device,
    void *stream,
    gcos_item *items,
    size_t count,
    size_t *failed);

/* ---- Figures, and durability ---- */

/* Counters and gauges of an open pool. Counters run from open. Set struct_size before the call;
 * later versions add fields at the end. */
typedef struct gcos_stats {
    /* sizeof(gcos_stats). */
    size_t struct_size;
    /* Objects present. */
    uint64_t objects;
    /* Payload bytes of the objects present. */
    uint64_t payload_bytes;
    /* Bytes of slots in use, headers and rounding included. */
    uint64_t used_bytes;
    /* Bytes of all data chunks of the drives present. */
    uint64_t capacity_bytes;
    /* Bytes that metadata of the objects present takes in a checkpoint. */
    uint64_t meta_used_bytes;
    /* Bytes that it may take. */
    uint64_t meta_capacity_bytes;
    /* Objects with at least one pin. */
    uint64_t pinned;
    /* Bytes of memory that the index takes, keys included. */
    uint64_t index_bytes;
    /* Bytes of keys in the index. */
    uint64_t key_bytes;
    /* Puts that stored. */
    uint64_t puts;
    /* Puts that kept an existing object. */
    uint64_t puts_kept;
    /* Puts that failed on the drives they were placed on, also those that were then stored on
     * others. */
    uint64_t puts_failed;
    /* Payload bytes stored. */
    uint64_t put_bytes;
    /* Gets that hit. */
    uint64_t hits;
    /* Gets that missed, for any reason. */
    uint64_t misses;
    /* Misses because of damage. */
    uint64_t misses_damaged;
    /* Misses because of I/O errors and lost drives. */
    uint64_t misses_io;
    /* Payload bytes delivered. */
    uint64_t get_bytes;
    /* Objects removed by the caller. */
    uint64_t removed;
    /* Objects evicted for room. */
    uint64_t evicted;
    /* Payload bytes of them. */
    uint64_t evicted_bytes;
    /* Objects whose lifetime ended. */
    uint64_t expired;
    /* Journal frames written. */
    uint64_t journal_frames;
    /* Records in them. */
    uint64_t journal_records;
    /* Checkpoints written. */
    uint64_t checkpoints;
    /* Chunks deallocated. */
    uint64_t chunks_deallocated;
    /* Bytes copied through staging memory because the caller's memory was not device-visible. */
    uint64_t staged_bytes;
    /* Gets (layers counted each) that the GPU and the drives did by themselves: a part of the
     * hits. */
    uint64_t device_gets;
    /* Puts whose data the GPU and the drives moved by themselves. */
    uint64_t device_puts;
    /* Gets and puts on a GPU's stream that the host did, since the GPU and the drives could
     * not. */
    uint64_t device_fallbacks;
    /* Drives in use. */
    uint64_t drives_online;
    /* Drives of the pool that are missing or have failed. */
    uint64_t drives_lost;
    /* Times that drives left a way because of errors past the budget. */
    uint64_t demoted_errors;
    /* Times that they did because the device was gone. */
    uint64_t demoted_gone;
    /* Times that they did because of latency. */
    uint64_t demoted_latency;
    /* Times that they did because somebody asked for it. */
    uint64_t demoted_asked;
    /* Drives that are not written until the pool is opened again, since their journal or their
     * cache could not be written. */
    uint64_t demoted_unwritable;
    /* Times that drives went back to their first way. */
    uint64_t promotions;
    /* Requests that were carried out on another way after they had failed on theirs. */
    uint64_t requests_retried;
    /* Puts that were begun again on other drives, since a drive failed. */
    uint64_t puts_retried;
    /* Puts that went to the drive for spill. */
    uint64_t spilled;
    /* Bytes of slots in use on the drive for spill. */
    uint64_t spill_used_bytes;
    /* Bytes of all its data chunks; 0 where there is none. */
    uint64_t spill_capacity_bytes;
} gcos_stats;

/* Figures of the time since the call before. Set struct_size before the call; later versions
 * add fields at the end. */
typedef struct gcos_interval_stats {
    /* sizeof(gcos_interval_stats). */
    size_t struct_size;
    /* Length of the interval, in seconds. */
    double seconds;
    /* Calls that read, batches counted once. */
    uint64_t reads;
    /* Payload bytes that they delivered. */
    uint64_t read_bytes;
    /* The same in GB (10^9 bytes) per second of the time in which any of them was under way. */
    double read_throughput_gbs;
    /* Mean time of such a call, in milliseconds. */
    double read_latency_ms;
    /* Upper bound of the time that 99 % of them took at most, in milliseconds: a power of two
     * of microseconds. */
    double read_latency_p99_ms;
    /* Share of the interval in which any of them was under way, in percent. */
    double read_busy_percent;
    /* Calls that write, batches counted once. */
    uint64_t writes;
    /* Payload bytes that they stored. */
    uint64_t write_bytes;
    /* As for reads. */
    double write_throughput_gbs;
    /* As for reads. */
    double write_latency_ms;
    /* As for reads. */
    double write_latency_p99_ms;
    /* As for reads. */
    double write_busy_percent;
    /* Gets that hit. */
    uint64_t hits;
    /* Gets that missed. */
    uint64_t misses;
    /* Share of hits among both, in percent; 0 where there were none. */
    double cache_hit_rate_percent;
    /* Objects evicted for room. */
    uint64_t evicted;
    /* Use of the room for objects at the end of the interval, in percent. */
    double used_percent;
} gcos_interval_stats;

/* Counters and gauges. */
gcos_status gcos_get_stats(gcos_store *store, gcos_stats *stats);

/* Figures since the last call of this, or since the pool was opened: throughput, latency, hit
 * rate. */
gcos_status gcos_get_interval_stats(gcos_store *store, gcos_interval_stats *stats);

/* What is open, as a JSON document: the pool, what recovery found, each drive with its health
 * and way, drives that were left out. len (may be null) gets the length of the text;
 * GCOS_WRONG_SIZE when it and a zero byte do not fit in capacity. With capacity 0 only the
 * length is told, and text may be null. */
gcos_status gcos_describe(gcos_store *store, char *text, size_t capacity, size_t *len);

/* All figures in the text format of Prometheus: see docs/metrics.md. The buffer as of
 * gcos_describe; the text grows and shrinks between calls, so ask again where it does not fit. */
gcos_status gcos_metrics_text(gcos_store *store, char *text, size_t capacity, size_t *len);

/* Serves that text to Prometheus at an address in digits such as "127.0.0.1:9090", in the place
 * of an address before; null ends it. With port 0 any free one is taken; port (may be null)
 * says which. If this fails, the address before is served on: so one that overlaps it, the same
 * port of another address, is refused until it was ended with null. There is neither encryption
 * nor a password. */
gcos_status gcos_serve_metrics(gcos_store *store, const char *address, uint16_t *port);

/* Makes everything that was acknowledged so far durable. */
gcos_status gcos_flush(gcos_store *store);

/* Writes a checkpoint of every drive, so that the next open has little to replay. */
gcos_status gcos_checkpoint(gcos_store *store);

/* ---- The log ---- */

/* Gives the log of the library, up to this level (GCOS_LOG_ERROR to GCOS_LOG_TRACE), to a
 * function, for the whole process and in the place of one before; level 0 and a null pointer
 * end it. The function is called from a thread of the library's, one line at a time, soon after
 * the line was logged; it may call the library, but for gcos_set_log, and what that logs is
 * left out. When it is slow and more than 1024 lines wait, lines are left out, and it is told
 * how many. gcos_open, gcos_close and this wait for it to get the lines so far, 1 second at
 * most. When this returns, no call of the function before is under way, and none follows;
 * GCOS_TIMEOUT when one goes on for 10 seconds, and nothing is changed. GCOS_BUSY when another
 * part of the process takes the log of all Rust libraries. */
gcos_status gcos_set_log(int32_t level, gcos_log_callback callback, void *user);

/* ---- Files and GPUs, beside the pool ---- */

/* Makes a file for its owner alone, with room for size bytes. A file that is there is left as
 * it is: created (may be null) is 0 then, else 1. */
gcos_status gcos_create_file(const char *path, uint64_t size, int32_t *created);

/* Writes size bytes of a GPU's memory to a file from offset on, after the work that is in the
 * stream (cudaStream_t or CUstream; null is the default stream), and returns when they are
 * written, not when they survive the loss of power. The file is made if it does not exist. Any
 * file, no pool. mode (may be null) gets GCOS_MODE_.... GCOS_FORKED in a child of a process
 * that has used GPUs. */
gcos_status gcos_gpu_file_write(
    const char *path,
    int32_t device,
    const void *data,
    size_t size,
    uint64_t offset,
    void *stream,
    int32_t *mode);

/* Reads size bytes of a file from offset on to a GPU's memory, after the work that is in the
 * stream, and returns when they are there. GCOS_WRONG_SIZE when the file ends before. As
 * gcos_gpu_file_write else. */
gcos_status gcos_gpu_file_read(
    const char *path,
    int32_t device,
    void *data,
    size_t size,
    uint64_t offset,
    void *stream,
    int32_t *mode);

#ifdef __cplusplus
}
#endif

#endif
