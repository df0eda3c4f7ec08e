// A small world for tests of the kernels: queue pairs, data, a controller for each pair, and one batch, in one
// piece of memory that a backend runs kernels over.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "gcos/abi.h"
#include "gcos/outcome.h"
#include "model.h"

namespace gcos_test {

// Where kernels run.
class Backend {
 public:
  virtual ~Backend() = default;
  // Gives `bytes` of memory for one world, at least 4096-aligned: the host writes and reads `image`, and
  // the kernels see it at `base`.
  virtual bool open(std::size_t bytes, unsigned char** image, std::uint64_t* base) = 0;
  // Runs the kernel over the batch, with the controllers at `models`, to the end of both.
  virtual bool launch(const char* kernel, std::uint32_t grid, std::uint32_t block,
                      const gcos::Batch& batch, std::uint64_t models, std::uint32_t model_count) = 0;
};

struct Shape {
  std::uint32_t pairs = 1;
  std::uint32_t entries = 64;
  std::uint32_t list_pages = 1;
  std::uint32_t lba_shift = 9;
  std::uint32_t max_transfer = 4u << 20;
  bool sgl = false;
  std::uint32_t medium_bytes = 1u << 20;
  std::size_t memory_bytes = 8u << 20;
};

struct Piece {
  std::size_t offset;
  std::uint32_t bytes;
};

class World {
 public:
  World(Backend& backend, const Shape& shape);

  // Memory for data: `bytes` whose first lies `in_page` bytes after the start of a page.
  Piece take(std::uint32_t bytes, std::uint32_t in_page = 0);
  // Adds a command over these pieces, one run or a list of segments; gives back its index.
  std::uint32_t add(std::uint32_t opcode, std::uint64_t lba, const std::vector<Piece>& pieces,
                    bool as_segments = false);
  // Adds a command over a run of its own.
  std::uint32_t read(std::uint64_t lba, std::uint32_t bytes);
  std::uint32_t write(std::uint64_t lba, std::uint32_t bytes);
  // Commands added since the last share become one on this pair.
  void share(std::uint32_t pair);
  // Runs the batch; the next begins empty, with the pairs as they are.
  bool run(const char* kernel, std::uint32_t threads, std::uint64_t budget_ns);
  // Forgets the commands and shares of the batch that ran.
  void clear();

  gcos::Command& command(std::uint32_t index) { return commands_[index]; }
  std::uint32_t command_count() const { return static_cast<std::uint32_t>(commands_.size()); }
  Model& model(std::uint32_t pair) { return models_[pair]; }
  gcos::QueuePair& pair(std::uint32_t index) { return pairs_[index]; }
  std::uint32_t status(std::uint32_t index) const { return statuses_[index]; }
  std::uint32_t kind(std::uint32_t index) const {
    return (statuses_[index] & ~gcos::kOutcomeDone) >> gcos::kOutcomeKindShift;
  }
  bool ended(std::uint32_t index) const { return (statuses_[index] & gcos::kOutcomeDone) != 0; }
  std::uint32_t done() const { return done_; }
  // Whether the next run begins with the abort flag raised.
  bool raise_abort = false;
  // Whether the controllers do nothing in the next run.
  bool rest = false;

  // Whether the data of a command is the same in memory and on its pair's medium.
  bool moved(std::uint32_t index) const;
  // How many commands ended in this way.
  std::uint32_t count(std::uint32_t kind) const;
  // What is wrong in what every run must have: all ended, shares counted; and, unless the controller lied,
  // data where it belongs and no complaint of the controller. Empty: nothing.
  std::string wrong(bool expect_violation = false) const;

 private:
  struct Known {
    std::vector<Piece> pieces;
    std::uint64_t lba;
    std::uint32_t pair;
  };
  std::size_t place(std::size_t bytes, std::size_t align);
  template <class T>
  void put(std::size_t offset, const T& value) {
    std::memcpy(image_ + offset, &value, sizeof value);
  }
  void make_pair(std::uint32_t index);

  Backend& backend_;
  Shape shape_;
  unsigned char* image_ = nullptr;
  std::uint64_t base_ = 0;
  std::size_t used_ = 0;
  std::size_t data_start_ = 0;
  std::size_t pairs_at_ = 0;
  std::size_t models_at_ = 0;
  std::vector<std::size_t> media_;
  std::vector<gcos::QueuePair> pairs_;
  std::vector<Model> models_;
  std::vector<gcos::Command> commands_;
  std::vector<Known> known_;
  std::vector<gcos::Segment> segments_;
  std::vector<gcos::Share> shares_;
  std::vector<std::uint32_t> statuses_;
  std::uint32_t done_ = 0;
  std::uint32_t shared_until_ = 0;
};

}  // namespace gcos_test
