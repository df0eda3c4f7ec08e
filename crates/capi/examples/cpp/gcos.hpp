// The C interface as C++ likes it: a pool that closes itself, exceptions, misses as an empty optional. Copy it into a
// program and change it: it is an example, not an interface of its own.
#pragma once

#include <gcos.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gcos {

/// A call that failed.
class Error : public std::runtime_error {
public:
    Error(gcos_status status, const std::string &message)
        : std::runtime_error(std::string(gcos_status_name(status)) + ": " + message),
          status_(status) {}

    gcos_status status() const noexcept { return status_; }

private:
    gcos_status status_;
};

/// Throws unless a call went well.
inline void check(gcos_status status) {
    if (status != GCOS_OK) {
        throw Error(status, gcos_last_error());
    }
}

/// An open pool.
class Store {
public:
    static Store open(const char *config_path, bool create = false) {
        gcos_store *store = nullptr;
        check(gcos_open(config_path, create ? GCOS_CREATE : 0, &store));
        return Store(store);
    }

    static Store open_json(const std::string &json, bool create = false) {
        gcos_store *store = nullptr;
        check(gcos_open_json(json.c_str(), create ? GCOS_CREATE : 0, &store));
        return Store(store);
    }

    Store(Store &&other) noexcept : store_(std::exchange(other.store_, nullptr)) {}
    Store &operator=(Store &&other) noexcept {
        std::swap(store_, other.store_);
        return *this;
    }
    Store(const Store &) = delete;
    Store &operator=(const Store &) = delete;

    ~Store() {
        if (store_ != nullptr) {
            // Nothing acknowledged is lost if this fails: the next open recovers.
            gcos_close(store_, 30000);
        }
    }

    /// Closes it and says whether that went well.
    void close(std::uint64_t deadline_ms = 30000) {
        check(gcos_close(store_, deadline_ms));
        store_ = nullptr;
    }

    void put(std::string_view key, const void *data, std::size_t len) {
        check(gcos_put(store_, key.data(), key.size(), data, len, nullptr, nullptr));
    }

    /// The bytes of an object; nothing for a miss.
    std::optional<std::vector<unsigned char>> get(std::string_view key) {
        for (;;) {
            gcos_object_info info{};
            info.struct_size = sizeof info;
            gcos_status status = gcos_info(store_, key.data(), key.size(), &info);
            if (status == GCOS_NO_SUCH_KEY) {
                return std::nullopt;
            }
            check(status);
            std::vector<unsigned char> bytes(static_cast<std::size_t>(info.len));
            status = gcos_get(store_, key.data(), key.size(), bytes.data(), bytes.size());
            switch (status) {
            case GCOS_OK:
                return bytes;
            case GCOS_NO_SUCH_KEY:
                return std::nullopt;
            case GCOS_WRONG_SIZE:
                // Replaced by an object of another length meanwhile.
                continue;
            default:
                check(status);
            }
        }
    }

    bool remove(std::string_view key) {
        const gcos_status status = gcos_remove(store_, key.data(), key.size(), GCOS_SYNC);
        if (status == GCOS_NO_SUCH_KEY) {
            return false;
        }
        check(status);
        return true;
    }

    /// Calls f(key, info) for each object.
    template <typename F> void list(std::string_view prefix, F f) {
        auto call = [](void *user, const void *key, std::size_t len, const gcos_object_info *info) {
            const auto name = std::string_view(static_cast<const char *>(key), len);
            return static_cast<std::int32_t>((*static_cast<F *>(user))(name, *info) ? 0 : 1);
        };
        check(gcos_list(store_, prefix.data(), prefix.size(), nullptr, 0, 0, call, &f));
    }

    gcos_store *raw() const noexcept { return store_; }

private:
    explicit Store(gcos_store *store) : store_(store) {}

    gcos_store *store_;
};

} // namespace gcos
