/* Objects: put, get, batches, lookups, lists, figures, memory. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

static void fill(unsigned char *bytes, size_t len, unsigned seed) {
    size_t i;
    for (i = 0; i < len; i++) {
        bytes[i] = (unsigned char)(i * 31 + seed * 17);
    }
}

static int holds(const unsigned char *bytes, size_t len, unsigned seed) {
    size_t i;
    for (i = 0; i < len; i++) {
        if (bytes[i] != (unsigned char)(i * 31 + seed * 17)) {
            return 0;
        }
    }
    return 1;
}

static void one_object(gcos_store *store) {
    enum { LEN = 200000 };
    static unsigned char in[LEN], out[LEN];
    gcos_put_options options;
    gcos_object_info info;
    int32_t kept = 7, found = 7;

    fill(in, LEN, 1);
    OK(gcos_put(store, "key", 3, in, LEN, NULL, NULL));
    OK(gcos_get(store, "key", 3, out, LEN));
    CHECK(holds(out, LEN, 1));
    CHECK(strcmp(gcos_last_error(), "") == 0);
    memset(out, 0, LEN);
    OK(gcos_get_range(store, "key", 3, 70001, out, 1000));
    CHECK(memcmp(out, in + 70001, 1000) == 0);

    CHECK_STATUS(gcos_get(store, "key", 3, out, LEN - 1), GCOS_WRONG_SIZE);
    CHECK(strstr(gcos_last_error(), "200000") != NULL);
    CHECK_STATUS(gcos_get_range(store, "key", 3, LEN - 1, out, 2), GCOS_WRONG_SIZE);
    CHECK_STATUS(gcos_get_range(store, "key", 3, (uint64_t)1 << 40, out, 2), GCOS_WRONG_SIZE);
    CHECK_STATUS(gcos_get_range(store, "other", 5, (uint64_t)1 << 40, out, 2), GCOS_NO_SUCH_KEY);
    CHECK_STATUS(gcos_get(store, "other", 5, out, LEN), GCOS_NO_SUCH_KEY);
    CHECK(strcmp(gcos_last_error(), "no such key") == 0);

    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.if_exists = GCOS_KEEP;
    options.durability = GCOS_RELAXED;
    options.pin = 1;
    OK(gcos_put(store, "key", 3, in, 10, &options, &kept));
    CHECK(kept == 1);
    OK(gcos_put(store, "", 0, in, 10, &options, &kept));
    CHECK(kept == 0);
    memset(&info, 0xff, sizeof info);
    info.struct_size = sizeof info;
    OK(gcos_info(store, NULL, 0, &info));
    CHECK(info.len == 10 && info.pins == 1 && info.expires_at == 0 && info.reserved == 0);
    OK(gcos_unpin(store, "", 0));
    CHECK_STATUS(gcos_unpin(store, "", 0), GCOS_NO_SUCH_KEY);
    OK(gcos_pin(store, "", 0));
    OK(gcos_touch(store, "", 0));
    CHECK_STATUS(gcos_pin(store, "other", 5), GCOS_NO_SUCH_KEY);
    CHECK_STATUS(gcos_touch(store, "other", 5), GCOS_NO_SUCH_KEY);
    options.ttl_ms = 3600000;
    OK(gcos_put(store, "for a while", 11, in, 10, &options, NULL));
    OK(gcos_info(store, "for a while", 11, &info));
    CHECK(info.expires_at > 1700000000);

    OK(gcos_contains(store, "", 0, &found));
    CHECK(found == 1);
    OK(gcos_remove(store, "", 0, GCOS_SYNC));
    CHECK_STATUS(gcos_remove(store, "", 0, GCOS_RELAXED), GCOS_NO_SUCH_KEY);
    OK(gcos_contains(store, "", 0, &found));
    CHECK(found == 0);
    OK(gcos_remove(store, "for a while", 11, GCOS_RELAXED));
    OK(gcos_flush(store));
    OK(gcos_checkpoint(store));
}

static void versions_of_structs(gcos_store *store) {
    struct { gcos_object_info info; uint64_t more[2]; } larger;
    struct { gcos_put_options options; uint64_t more; } options;
    gcos_object_info info;
    gcos_stats stats;

    /* A caller of an older version has fewer fields: no others are written. */
    memset(&info, 0xaa, sizeof info);
    info.struct_size = offsetof(gcos_object_info, generation);
    OK(gcos_info(store, "key", 3, &info));
    CHECK(info.len == 200000 && info.generation == 0xaaaaaaaaaaaaaaaa);
    /* One of a newer version has more: they are 0. */
    memset(&larger, 0xaa, sizeof larger);
    larger.info.struct_size = sizeof larger;
    OK(gcos_info(store, "key", 3, &larger.info));
    CHECK(larger.info.len == 200000 && larger.more[0] == 0 && larger.more[1] == 0);
    CHECK(larger.info.struct_size == sizeof larger);
    memset(&options, 0, sizeof options);
    options.options.struct_size = sizeof options;
    OK(gcos_put(store, "n", 1, "x", 1, &options.options, NULL));
    options.more = 1;
    CHECK_STATUS(gcos_put(store, "n", 1, "x", 1, &options.options, NULL), GCOS_UNSUPPORTED);
    OK(gcos_remove(store, "n", 1, GCOS_SYNC));
    stats.struct_size = 0;
    CHECK_STATUS(gcos_get_stats(store, &stats), GCOS_INVALID_ARGUMENT);
    stats.struct_size = (size_t)1 << 40;
    CHECK_STATUS(gcos_get_stats(store, &stats), GCOS_INVALID_ARGUMENT);
}

enum { MANY = 100, EACH = 5000 };

static void batches(gcos_store *store) {
    static unsigned char in[MANY][EACH], out[MANY][EACH];
    static char names[MANY][8];
    gcos_item items[MANY];
    gcos_key keys[MANY];
    size_t i, failed = 77, hits = 0;

    memset(items, 0, sizeof items);
    for (i = 0; i < MANY; i++) {
        fill(in[i], EACH, (unsigned)i);
        sprintf(names[i], "b%03u", (unsigned)i);
        items[i].key.data = names[i];
        items[i].key.len = 4;
        items[i].data = in[i];
        items[i].len = EACH;
        items[i].status = 99;
        keys[i] = items[i].key;
    }
    OK(gcos_put_many(store, items, MANY, NULL, &failed));
    CHECK(failed == 0);
    for (i = 0; i < MANY; i++) {
        CHECK(items[i].status == GCOS_OK && items[i].kept == 0);
        items[i].data = out[i];
    }
    OK(gcos_remove(store, "b050", 4, GCOS_SYNC));
    items[7].len = 1;
    OK(gcos_get_many(store, items, MANY, &failed));
    CHECK(failed == 2);
    for (i = 0; i < MANY; i++) {
        gcos_status expected = i == 50 ? GCOS_NO_SUCH_KEY : i == 7 ? GCOS_WRONG_SIZE : GCOS_OK;
        CHECK(items[i].status == expected);
        CHECK(expected != GCOS_OK || holds(out[i], EACH, (unsigned)i));
    }
    OK(gcos_prefix(store, keys, MANY, &hits));
    CHECK(hits == 50);
    OK(gcos_prefix(store, NULL, 0, &hits));
    CHECK(hits == 0);
    OK(gcos_get_many(store, NULL, 0, NULL));
    items[7].len = EACH;
    items[8].data = out[7] + 10;
    CHECK_STATUS(gcos_get_many(store, items, MANY, &failed), GCOS_INVALID_ARGUMENT);
    CHECK(strstr(gcos_last_error(), "overlap") != NULL);
}

struct listed { size_t count, stop_at; char last[8]; gcos_store *store; };

static int32_t each(void *user, const void *key, size_t key_len, const gcos_object_info *info) {
    struct listed *listed = user;
    char name[8] = {0};
    int32_t found = 0;
    CHECK(key_len == 4);
    memcpy(name, key, key_len);
    CHECK(strcmp(name, listed->last) > 0);
    strcpy(listed->last, name);
    CHECK(info->len == EACH && info->struct_size == sizeof *info);
    /* It may call the library. */
    OK(gcos_contains(listed->store, key, key_len, &found));
    CHECK(found == 1);
    return ++listed->count == listed->stop_at;
}

static void lists(gcos_store *store) {
    struct listed listed = {0, 0, "", NULL};
    listed.store = store;
    OK(gcos_list(store, "b", 1, NULL, 0, 0, each, &listed));
    CHECK(listed.count == MANY - 1);
    memset(&listed, 0, sizeof listed);
    listed.store = store;
    OK(gcos_list(store, "b", 1, "b089", 4, 5, each, &listed));
    CHECK(listed.count == 5 && strcmp(listed.last, "b094") == 0);
    memset(&listed, 0, sizeof listed);
    listed.store = store;
    listed.stop_at = 3;
    OK(gcos_list(store, "b", 1, NULL, 0, 0, each, &listed));
    CHECK(listed.count == 3);
    CHECK_STATUS(gcos_list(store, "b", 1, NULL, 0, 0, NULL, NULL), GCOS_INVALID_ARGUMENT);
}

static void memory(gcos_store *store) {
    enum { LEN = 1 << 20 };
    unsigned char *memory, *own;
    void *data = NULL;
    gcos_stats before, after;
    gcos_item items[2];
    size_t failed = 0;

    CHECK(posix_memalign(&data, 4096, LEN) == 0);
    memory = data;
    fill(memory, LEN, 3);
    OK(gcos_register(store, memory, LEN));
    CHECK_STATUS(gcos_register(store, memory, LEN), GCOS_BUSY);
    CHECK_STATUS(gcos_register(store, memory + 4096, 4096), GCOS_INVALID_ARGUMENT);
    CHECK_STATUS(gcos_register(store, memory + LEN, 100), GCOS_INVALID_ARGUMENT);
    CHECK_STATUS(gcos_register(store, NULL, 4096), GCOS_INVALID_ARGUMENT);
    before.struct_size = after.struct_size = sizeof before;
    OK(gcos_get_stats(store, &before));
    /* Whole blocks from registered memory into memory of gcos_alloc: not a byte is copied. */
    OK(gcos_alloc(store, LEN, &data));
    own = data;
    CHECK(((uintptr_t)own & 4095) == 0 && own[LEN - 1] == 0);
    CHECK_STATUS(gcos_register(store, own, 4096), GCOS_INVALID_ARGUMENT);
    OK(gcos_put(store, "r", 1, memory + 8192, 128 << 10, NULL, NULL));
    OK(gcos_get(store, "r", 1, own + 4096, 128 << 10));
    CHECK(memcmp(own + 4096, memory + 8192, 128 << 10) == 0);
    memset(items, 0, sizeof items);
    items[0].key.data = "r0";
    items[1].key.data = "r1";
    items[0].key.len = items[1].key.len = 2;
    items[0].data = memory;
    items[1].data = memory + (256 << 10);
    items[0].len = items[1].len = 256 << 10;
    OK(gcos_put_many(store, items, 2, NULL, &failed));
    items[0].data = own;
    items[1].data = own + (256 << 10);
    OK(gcos_get_many(store, items, 2, &failed));
    CHECK(failed == 0 && memcmp(own, memory, 512 << 10) == 0);
    OK(gcos_get_stats(store, &after));
    CHECK(after.staged_bytes == before.staged_bytes);
    /* Odd places are right, too. */
    OK(gcos_put(store, "r", 1, memory + 1, 12345, NULL, NULL));
    OK(gcos_get(store, "r", 1, own + 3, 12345));
    CHECK(memcmp(own + 3, memory + 1, 12345) == 0);

    CHECK_STATUS(gcos_close(store, 1000), GCOS_BUSY);
    CHECK_STATUS(gcos_free(store, own + 1), GCOS_INVALID_ARGUMENT);
    OK(gcos_free(store, own));
    CHECK_STATUS(gcos_free(store, own), GCOS_INVALID_ARGUMENT);
    OK(gcos_free(store, NULL));
    CHECK_STATUS(gcos_unregister(store, memory + 1), GCOS_INVALID_ARGUMENT);
    OK(gcos_unregister(store, memory));
    CHECK_STATUS(gcos_unregister(store, memory), GCOS_INVALID_ARGUMENT);
    OK(gcos_register(store, memory, 4096));
    OK(gcos_unregister(store, memory));
    free(memory);
    CHECK_STATUS(gcos_alloc(store, 0, &data), GCOS_INVALID_ARGUMENT);
    CHECK(data == NULL);
    CHECK_STATUS(gcos_alloc(store, (size_t)-1, &data), GCOS_INVALID_ARGUMENT);
}

/* Whether somebody listens at this port of this machine. */
static int listens(uint16_t port) {
    struct sockaddr_in address;
    int connection = socket(AF_INET, SOCK_STREAM, 0), connected;
    CHECK(connection >= 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected = connect(connection, (struct sockaddr *)&address, sizeof address) == 0;
    close(connection);
    return connected;
}

static void figures(gcos_store *store) {
    gcos_stats stats;
    gcos_interval_stats interval;
    char *text;
    size_t len = 0, again = 0;
    uint16_t port = 0, again_port = 0;
    char address[32];

    stats.struct_size = sizeof stats;
    OK(gcos_get_stats(store, &stats));
    CHECK(stats.objects >= MANY && stats.capacity_bytes > stats.used_bytes && stats.hits > MANY);
    interval.struct_size = sizeof interval;
    OK(gcos_get_interval_stats(store, &interval));
    CHECK(interval.reads > 0 && interval.read_throughput_gbs > 0 && interval.seconds > 0);
    OK(gcos_get_interval_stats(store, &interval));
    CHECK(interval.reads == 0 && interval.cache_hit_rate_percent == 0);

    OK(gcos_describe(store, NULL, 0, &len));
    text = malloc(len + 1);
    CHECK_STATUS(gcos_describe(store, text, len, &again), GCOS_WRONG_SIZE);
    CHECK(again == len);
    OK(gcos_describe(store, text, len + 1, NULL));
    CHECK(strlen(text) == len && text[0] == '{' && strstr(text, "\"pool_uuid\"") != NULL);
    free(text);
    text = malloc(1 << 20);
    OK(gcos_metrics_text(store, text, 1 << 20, &len));
    CHECK(strlen(text) == len && strstr(text, "\ngcos_hits_total ") != NULL);
    free(text);

    OK(gcos_serve_metrics(store, "127.0.0.1:0", &port));
    CHECK(port != 0);
    sprintf(address, "127.0.0.1:%u", (unsigned)port);
    CHECK(listens(port));
    OK(gcos_serve_metrics(store, address, &again_port));
    CHECK(again_port == port && listens(port));
    /* What cannot be served leaves what is served. */
    CHECK_STATUS(gcos_serve_metrics(store, "localhost:0", &port), GCOS_INVALID_ARGUMENT);
    CHECK_STATUS(gcos_serve_metrics(store, "192.0.2.1:1", &port), GCOS_INVALID_ARGUMENT);
    CHECK(listens(port));
    OK(gcos_serve_metrics(store, "127.0.0.1:0", &again_port));
    CHECK(again_port != port && listens(again_port) && !listens(port));
    OK(gcos_serve_metrics(store, NULL, NULL));
    CHECK(!listens(again_port));
    CHECK_STATUS(gcos_serve_metrics(store, "nowhere", &port), GCOS_INVALID_ARGUMENT);
}

int main(void) {
    gcos_store *store = NULL;

    CHECK(strcmp(gcos_version(), GCOS_VERSION) == 0);
    OK(gcos_open_json(IN_MEMORY, 0, &store));
    CHECK(store != NULL);
    one_object(store);
    versions_of_structs(store);
    batches(store);
    lists(store);
    memory(store);
    figures(store);
    OK(gcos_close(store, 10000));
    return 0;
}
