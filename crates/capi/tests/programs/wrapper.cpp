// The interface from C++: the wrapper of examples/cpp.
#include "check.h"
#include "gcos.hpp"

#include <thread>

int main() {
    auto store = gcos::Store::open_json(IN_MEMORY);
    const std::vector<unsigned char> block(100000, 7);
    store.put("layer 0", block.data(), block.size());
    CHECK(store.get("layer 0") == block);
    CHECK(!store.get("layer 1"));

    std::vector<std::thread> threads;
    for (int number = 0; number < 4; number++) {
        threads.emplace_back([&store, &block, number] {
            const auto key = "thread " + std::to_string(number);
            store.put(key, block.data(), block.size());
            CHECK(store.get(key) == block);
        });
    }
    for (auto &thread : threads) {
        thread.join();
    }
    std::size_t listed = 0;
    store.list("thread", [&listed](std::string_view key, const gcos_object_info &info) {
        CHECK(key.substr(0, 7) == "thread " && info.len == 100000);
        listed++;
        return true;
    });
    CHECK(listed == 4);
    CHECK(store.remove("layer 0"));
    CHECK(!store.remove("layer 0"));

    try {
        gcos::Store::open_json("{}");
        CHECK(false);
    } catch (const gcos::Error &error) {
        CHECK(error.status() == GCOS_CONFIG && std::string(error.what()).size() > 20);
    }
    auto moved = std::move(store);
    CHECK(store.raw() == nullptr && moved.get("thread 1") == block);
    moved.close();
    // The wrapper closes one by itself.
    const auto other = gcos::Store::open_json(IN_MEMORY);
    return 0;
}
