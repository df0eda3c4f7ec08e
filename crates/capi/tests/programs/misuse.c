/* What is done wrong is answered with a status and a message: nothing ends the process. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define INVALID(call)                                                                    \
    do {                                                                                 \
        CHECK_STATUS(call, GCOS_INVALID_ARGUMENT);                                       \
        CHECK(strlen(gcos_last_error()) > 10);                                           \
    } while (0)

static void arguments(gcos_store *store) {
    char data[16] = "0123456789";
    static char long_key[2000];
    gcos_put_options options;
    gcos_item items[2];
    gcos_key keys[2];
    size_t hits;
    int32_t found;
    const void *wild = (const void *)(uintptr_t)-16;

    INVALID(gcos_put(store, NULL, 3, data, 4, NULL, NULL));
    INVALID(gcos_put(store, "key", 3, NULL, 4, NULL, NULL));
    INVALID(gcos_put(store, "key", 3, data, 0, NULL, NULL));
    INVALID(gcos_put(store, "key", 3, data, (size_t)-1, NULL, NULL));
    INVALID(gcos_put(store, "key", 3, wild, 100, NULL, NULL));
    INVALID(gcos_put(store, long_key, sizeof long_key, data, 4, NULL, NULL));
    INVALID(gcos_put(store, "key", 3, data, 4, NULL, (int32_t *)(void *)(data + 1)));
    memset(&options, 0, sizeof options);
    INVALID(gcos_put(store, "key", 3, data, 4, &options, NULL));
    options.struct_size = sizeof options;
    options.durability = 9;
    INVALID(gcos_put(store, "key", 3, data, 4, &options, NULL));
    options.durability = 0;
    options.if_exists = 9;
    INVALID(gcos_put(store, "key", 3, data, 4, &options, NULL));
    options.if_exists = 0;
    options.reserved = 1;
    INVALID(gcos_put(store, "key", 3, data, 4, &options, NULL));
    INVALID(gcos_get(store, NULL, 1, data, 4));
    OK(gcos_put(store, "key", 3, data, 4, NULL, NULL));
    INVALID(gcos_get(store, "key", 3, NULL, 4));
    CHECK_STATUS(gcos_get(store, "key", 3, NULL, 0), GCOS_WRONG_SIZE);
    INVALID(gcos_contains(store, "key", 3, NULL));
    INVALID(gcos_info(store, "key", 3, NULL));
    INVALID(gcos_prefix(store, NULL, 5, &hits));
    INVALID(gcos_prefix(store, keys, (size_t)-1, &hits));
    INVALID(gcos_put_many(store, NULL, 2, NULL, NULL));
    memset(items, 0, sizeof items);
    items[1].key.len = 3;
    INVALID(gcos_put_many(store, items, 2, NULL, NULL));
    INVALID(gcos_get_many(store, items, 2, NULL));
    INVALID(gcos_remove(store, "key", 3, 7));
    INVALID(gcos_describe(store, NULL, 10, NULL));
    OK(gcos_contains(store, "key", 3, &found));
    CHECK(found == 1);
    CHECK(strcmp(gcos_status_name(12345), "unknown") == 0);
}

static void handles(void) {
    gcos_store *first = NULL, *second = NULL;
    gcos_store *wild = (gcos_store *)(uintptr_t)0xdeadbeef;
    char byte;

    INVALID(gcos_flush(NULL));
    INVALID(gcos_flush(wild));
    INVALID(gcos_close(wild, 100));
    INVALID(gcos_close(NULL, 100));
    OK(gcos_open_json(IN_MEMORY, 0, &first));
    OK(gcos_open_json(IN_MEMORY, GCOS_CREATE, &second));
    CHECK(first != second);
    OK(gcos_put(first, "key", 3, "x", 1, NULL, NULL));
    CHECK_STATUS(gcos_get(second, "key", 3, &byte, 1), GCOS_NO_SUCH_KEY);
    OK(gcos_close(first, 10000));
    CHECK_STATUS(gcos_get(first, "key", 3, &byte, 1), GCOS_CLOSED);
    CHECK_STATUS(gcos_close(first, 100), GCOS_CLOSED);
    OK(gcos_open_json(IN_MEMORY, 0, &first));
    CHECK_STATUS(gcos_get(first, "key", 3, &byte, 1), GCOS_NO_SUCH_KEY);
    OK(gcos_close(first, 10000));
    OK(gcos_close(second, 10000));
}

static void configurations(const char *folder) {
    gcos_store *store = (gcos_store *)(uintptr_t)1;
    char path[1024], json[4096];
    FILE *file;
    int round;

    INVALID(gcos_open_json(NULL, 0, &store));
    CHECK(store == (gcos_store *)(uintptr_t)1 || store == NULL);
    INVALID(gcos_open_json(IN_MEMORY, 0, NULL));
    INVALID(gcos_open_json(IN_MEMORY, 6, &store));
    CHECK(store == NULL);
    INVALID(gcos_open_json("{\"\xff\"}", 0, &store));
    CHECK_STATUS(gcos_open_json("{", 0, &store), GCOS_CONFIG);
    CHECK_STATUS(gcos_open_json("{\"disk\": {\"number\": 3}}", 0, &store), GCOS_CONFIG);
    CHECK(strstr(gcos_last_error(), "disk.paths") != NULL);
    CHECK_STATUS(gcos_open("/no/such/file.json", 0, &store), GCOS_CONFIG);
    CHECK(strstr(gcos_last_error(), "/no/such/file.json") != NULL);

    sprintf(path, "%s/gcos.json", folder);
    sprintf(json,
            "{\"disk\": {\"number\": 1, \"paths\": [\"emulated:%s/pool.img\"], "
            "\"capacity_bytes\": 67108864}}",
            folder);
    file = fopen(path, "w");
    CHECK(file != NULL && fputs(json, file) >= 0 && fclose(file) == 0);
    CHECK_STATUS(gcos_open(path, 0, &store), GCOS_MISSING_DRIVE);
    for (round = 0; round < 2; round++) {
        gcos_store *again = NULL;
        char byte = 0;
        OK(gcos_open(path, GCOS_CREATE, &store));
        CHECK_STATUS(gcos_open(path, 0, &again), GCOS_BUSY);
        CHECK(again == NULL);
        if (round == 1) {
            OK(gcos_get(store, "key", 3, &byte, 1));
            CHECK(byte == 'x');
        }
        OK(gcos_put(store, "key", 3, "x", 1, NULL, NULL));
        OK(gcos_close(store, 10000));
    }
    setenv("GCOS_CONFIG", path, 1);
    OK(gcos_open(NULL, 0, &store));
    OK(gcos_close(store, 10000));
}

enum { THREADS = 8, ROUNDS = 200 };

struct worker { gcos_store *store; unsigned number; };

static void *work(void *argument) {
    struct worker *worker = argument;
    unsigned char in[3000], out[3000];
    char key[32];
    unsigned round;
    for (round = 0; round < ROUNDS; round++) {
        gcos_status status;
        sprintf(key, "%u of %u", round % 20, worker->number % 4);
        memset(in, (int)(worker->number % 4), sizeof in);
        OK(gcos_put(worker->store, key, strlen(key), in, sizeof in, NULL, NULL));
        status = gcos_get(worker->store, key, strlen(key), out, sizeof out);
        CHECK(status == GCOS_OK || status == GCOS_NO_SUCH_KEY);
        CHECK(status != GCOS_OK || memcmp(in, out, sizeof in) == 0);
        if (round % 10 == 9) {
            status = gcos_remove(worker->store, key, strlen(key), GCOS_RELAXED);
            CHECK(status == GCOS_OK || status == GCOS_NO_SUCH_KEY);
        }
        /* Messages are each thread's own. */
        CHECK_STATUS(gcos_flush(NULL), GCOS_INVALID_ARGUMENT);
        CHECK(strstr(gcos_last_error(), "null") != NULL);
    }
    return NULL;
}

static void *close_it(void *store) {
    /* Waits for the calls of the others. */
    OK(gcos_close(store, 60000));
    return NULL;
}

static void *until_closed(void *store) {
    for (;;) {
        gcos_status status = gcos_put(store, "key", 3, "value", 5, NULL, NULL);
        if (status == GCOS_CLOSED) {
            return NULL;
        }
        CHECK(status == GCOS_OK);
    }
}

static void threads(void) {
    gcos_store *store = NULL;
    pthread_t all[THREADS], closer;
    struct worker workers[THREADS];
    unsigned i;

    OK(gcos_open_json(IN_MEMORY, 0, &store));
    for (i = 0; i < THREADS; i++) {
        workers[i].store = store;
        workers[i].number = i;
        CHECK(pthread_create(&all[i], NULL, work, &workers[i]) == 0);
    }
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_join(all[i], NULL) == 0);
    }
    for (i = 0; i < 4; i++) {
        CHECK(pthread_create(&all[i], NULL, until_closed, store) == 0);
    }
    CHECK(pthread_create(&closer, NULL, close_it, store) == 0);
    CHECK(pthread_join(closer, NULL) == 0);
    for (i = 0; i < 4; i++) {
        CHECK(pthread_join(all[i], NULL) == 0);
    }
}

static void children(void) {
    gcos_store *store = NULL;
    char byte = 0;
    pid_t child;
    int status = 0;

    OK(gcos_open_json(IN_MEMORY, 0, &store));
    OK(gcos_put(store, "key", 3, "x", 1, NULL, NULL));
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        gcos_store *own = NULL;
        alarm(60);
        CHECK_STATUS(gcos_get(store, "key", 3, &byte, 1), GCOS_FORKED);
        CHECK(strstr(gcos_last_error(), "parent") != NULL);
        CHECK_STATUS(gcos_close(store, 1000), GCOS_FORKED);
        OK(gcos_open_json(IN_MEMORY, 0, &own));
        OK(gcos_put(own, "key", 3, "y", 1, NULL, NULL));
        CHECK_STATUS(gcos_get(store, "key", 3, &byte, 1), GCOS_FORKED);
        OK(gcos_get(own, "key", 3, &byte, 1));
        CHECK(byte == 'y');
        OK(gcos_close(own, 10000));
        /* GPUs were used before the fork. */
        CHECK_STATUS(gcos_gpu_file_read("/no/file", 999, &byte, 1, 0, NULL, NULL), GCOS_FORKED);
        CHECK_STATUS(gcos_gpu_file_write("/no/file", 0, &byte, 1, 0, NULL, NULL), GCOS_FORKED);
        INVALID(gcos_gpu_file_write("/no/file", -1, &byte, 1, 0, NULL, NULL));
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(gcos_get(store, "key", 3, &byte, 1));
    CHECK(byte == 'x');
    OK(gcos_close(store, 10000));
}

struct log { pthread_mutex_t lock; unsigned lines, wrong; };

static void take(void *user, int32_t level, const char *target, const char *message) {
    struct log *log = user;
    pthread_mutex_lock(&log->lock);
    log->lines++;
    log->wrong += level < GCOS_LOG_ERROR || level > GCOS_LOG_INFO || strlen(target) == 0;
    log->wrong += strlen(message) == 0;
    pthread_mutex_unlock(&log->lock);
    /* The log is not to be changed from here. */
    if (gcos_set_log(0, NULL, NULL) != GCOS_INVALID_ARGUMENT) {
        log->wrong++;
    }
}

static void logs(void) {
    struct log log = {PTHREAD_MUTEX_INITIALIZER, 0, 0};
    gcos_store *store = NULL;
    unsigned lines;
    pid_t child;
    int status = 0;

    INVALID(gcos_set_log(6, take, &log));
    INVALID(gcos_set_log(-1, take, &log));
    INVALID(gcos_set_log(GCOS_LOG_INFO, NULL, NULL));
    OK(gcos_set_log(GCOS_LOG_INFO, take, &log));
    OK(gcos_open_json(IN_MEMORY, 0, &store));
    OK(gcos_close(store, 10000));
    /* The function has had what was logged. */
    CHECK(log.lines > 0);
    /* A child has the log, too, from a thread of its own. */
    lines = log.lines;
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60);
        OK(gcos_open_json(IN_MEMORY, 0, &store));
        CHECK(log.lines > lines && log.wrong == 0);
        OK(gcos_set_log(0, NULL, NULL));
        lines = log.lines;
        OK(gcos_close(store, 10000));
        CHECK(log.lines == lines);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(gcos_set_log(0, NULL, NULL));
    lines = log.lines;
    CHECK(log.wrong == 0);
    OK(gcos_open_json(IN_MEMORY, 0, &store));
    OK(gcos_close(store, 10000));
    CHECK(log.lines == lines);
}

static void gpus_and_files(gcos_store *store, const char *folder) {
    char path[1024], data[64];
    void *memory = data;
    int32_t created = 7, mode;
    size_t failed = 0;
    gcos_item item;
    gcos_status status;

    sprintf(path, "%s/new", folder);
    OK(gcos_create_file(path, 100000, &created));
    CHECK(created == 1);
    OK(gcos_create_file(path, 5, &created));
    CHECK(created == 0);
    CHECK_STATUS(gcos_create_file("/no/such/folder/file", 0, NULL), GCOS_IO);
    INVALID(gcos_create_file(NULL, 0, NULL));
    INVALID(gcos_gpu_file_write(NULL, 0, data, 64, 0, NULL, NULL));

    memset(&item, 0, sizeof item);
    item.data = data;
    item.len = sizeof data;
    INVALID(gcos_put_device(store, "key", 3, -1, data, 64, NULL, NULL, NULL));
    INVALID(gcos_device_free(store, data));
    OK(gcos_device_free(store, NULL));
    /* A GPU that no machine has. */
    CHECK_STATUS(gcos_put_device(store, "key", 3, 999, data, 64, NULL, NULL, NULL), GCOS_GPU);
    CHECK_STATUS(gcos_get_device(store, "key", 3, 999, data, 64, NULL), GCOS_GPU);
    CHECK_STATUS(gcos_put_many_device(store, 999, NULL, &item, 1, NULL, &failed), GCOS_GPU);
    CHECK_STATUS(gcos_get_many_device(store, 999, NULL, &item, 1, &failed), GCOS_GPU);
    CHECK_STATUS(gcos_device_alloc(store, 999, 4096, &memory), GCOS_GPU);
    CHECK(memory == NULL);
    CHECK_STATUS(gcos_gpu_file_write(path, 999, data, 64, 0, NULL, &mode), GCOS_GPU);
    CHECK_STATUS(gcos_gpu_file_read(path, 999, data, 64, 0, NULL, &mode), GCOS_GPU);
    /* Host memory is none of a GPU, if there is one at all. */
    status = gcos_put_device(store, "key", 3, 0, data, 64, NULL, NULL, NULL);
    CHECK(status == GCOS_GPU || status == GCOS_INVALID_ARGUMENT);
}

int main(int count, char **arguments_of_main) {
    gcos_store *store = NULL;

    CHECK(count == 2);
    handles();
    configurations(arguments_of_main[1]);
    OK(gcos_open_json(IN_MEMORY, 0, &store));
    arguments(store);
    gpus_and_files(store, arguments_of_main[1]);
    OK(gcos_close(store, 10000));
    threads();
    children();
    logs();
    return 0;
}
