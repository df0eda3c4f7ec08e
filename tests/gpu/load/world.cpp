// See world.h.
#include "world.h"

#include <algorithm>

namespace gcos_test {

namespace {

std::uint32_t scrambled(std::uint32_t seed) {
  seed ^= seed >> 16;
  seed *= 0x7feb352du;
  seed ^= seed >> 15;
  seed *= 0x846ca68bu;
  return seed ^ (seed >> 16);
}

constexpr std::uint32_t kNsid = 7;

}  // namespace

World::World(Backend& backend, const Shape& shape) : backend_(backend), shape_(shape) {
  if (!backend_.open(shape.memory_bytes, &image_, &base_)) return;
  std::memset(image_, 0, shape.memory_bytes);
  pairs_at_ = place(shape.pairs * 128, 128);
  models_at_ = place(shape.pairs * sizeof(Model), 128);
  for (std::uint32_t i = 0; i < shape.pairs; ++i) make_pair(i);
  data_start_ = used_;
}

std::size_t World::place(std::size_t bytes, std::size_t align) {
  used_ = (used_ + align - 1) / align * align;
  const std::size_t at = used_;
  used_ += bytes;
  return at;
}

void World::make_pair(std::uint32_t index) {
  const Shape& s = shape_;
  gcos::QueuePair pair{};
  pair.sq = base_ + place(64ull * s.entries, 4096);
  pair.cq = base_ + place(16ull * s.entries, 4096);
  pair.sq_doorbell = base_ + place(4, 128);
  pair.cq_doorbell = base_ + place(4, 128);
  pair.lists = base_ + place(4096ull * s.entries * s.list_pages, 4096);
  pair.lists_iova = pair.lists;
  pair.tickets = base_ + place(256 + 16ull * s.entries, 128);
  pair.entries = s.entries;
  pair.list_pages = s.list_pages;
  pair.nsid = kNsid;
  pair.lba_shift = s.lba_shift;
  pair.flags = s.sgl ? gcos::kQueueSgl : 0;
  pair.max_transfer = s.max_transfer;
  pair.phase = 1;
  media_.push_back(place(s.medium_bytes, 4096));
  for (std::uint32_t i = 0; i < s.medium_bytes / 4; ++i) {
    put(media_[index] + 4ull * i, scrambled(i + 0x10000000u * index));
  }
  Model model{};
  model.sq = pair.sq;
  model.cq = pair.cq;
  model.sq_doorbell = pair.sq_doorbell;
  model.cq_doorbell = pair.cq_doorbell;
  model.medium = base_ + media_[index];
  model.memory = base_;
  model.memory_bytes = s.memory_bytes;
  model.budget_ns = 150000000000ull;
  model.entries = s.entries;
  model.nsid = kNsid;
  model.lba_shift = s.lba_shift;
  model.medium_blocks = s.medium_bytes >> s.lba_shift;
  model.phase = 1;
  pairs_.push_back(pair);
  models_.push_back(model);
}

Piece World::take(std::uint32_t bytes, std::uint32_t in_page) {
  const std::size_t start = (used_ + 4095) / 4096 * 4096 + in_page;
  used_ = start + bytes;
  return Piece{start, bytes};
}

std::uint32_t World::add(std::uint32_t opcode, std::uint64_t lba, const std::vector<Piece>& pieces,
                         bool as_segments) {
  gcos::Command command{};
  command.lba = lba;
  command.opcode = opcode;
  for (const Piece& piece : pieces) command.bytes += piece.bytes;
  if (pieces.size() == 1 && !as_segments) {
    command.data = base_ + pieces[0].offset;
  } else {
    command.data = segments_.size();
    command.segments = static_cast<std::uint32_t>(pieces.size());
    for (const Piece& p : pieces) segments_.push_back(gcos::Segment{base_ + p.offset, p.bytes});
  }
  const std::uint32_t index = command_count();
  if (opcode == gcos::kOpcodeWrite) {
    for (const Piece& piece : pieces) {
      for (std::uint32_t i = 0; i + 4 <= piece.bytes; i += 4) {
        put(piece.offset + i, scrambled(0x55000000u + index * 4099 + i));
      }
    }
  }
  commands_.push_back(command);
  known_.push_back(Known{pieces, lba, 0});
  return index;
}

std::uint32_t World::read(std::uint64_t lba, std::uint32_t bytes) {
  return add(gcos::kOpcodeRead, lba, {take(bytes)});
}

std::uint32_t World::write(std::uint64_t lba, std::uint32_t bytes) {
  return add(gcos::kOpcodeWrite, lba, {take(bytes)});
}

void World::share(std::uint32_t pair) {
  const std::uint32_t count = command_count() - shared_until_;
  for (std::uint32_t i = shared_until_; i < command_count(); ++i) known_[i].pair = pair;
  shares_.push_back(gcos::Share{base_ + pairs_at_ + 128ull * pair, shared_until_, count});
  shared_until_ = command_count();
}

void World::clear() {
  commands_.clear();
  known_.clear();
  segments_.clear();
  shares_.clear();
  statuses_.clear();
  shared_until_ = 0;
  used_ = data_start_;
}

bool World::run(const char* kernel, std::uint32_t threads, std::uint64_t budget_ns) {
  const std::size_t end = used_;
  const std::size_t shares = place(sizeof(gcos::Share) * shares_.size(), 128);
  const std::size_t commands = place(sizeof(gcos::Command) * commands_.size(), 128);
  const std::size_t segments = place(sizeof(gcos::Segment) * segments_.size(), 128);
  const std::size_t statuses = place(4 * commands_.size(), 128);
  const std::size_t abort = place(4, 128);
  const std::size_t done = place(4, 128);
  if (image_ == nullptr || used_ > shape_.memory_bytes) return false;
  const auto shares_bytes = sizeof(gcos::Share) * shares_.size();
  std::memcpy(image_ + shares, shares_.data(), shares_bytes);
  std::memcpy(image_ + commands, commands_.data(), sizeof(gcos::Command) * commands_.size());
  if (!segments_.empty()) {
    std::memcpy(image_ + segments, segments_.data(), sizeof(gcos::Segment) * segments_.size());
  }
  std::memset(image_ + statuses, 0, 4 * commands_.size());
  put(abort, std::uint32_t{raise_abort ? 1u : 0u});
  put(done, std::uint32_t{0});
  gcos::Batch batch{};
  batch.shares = base_ + shares;
  batch.commands = base_ + commands;
  batch.segments = base_ + segments;
  batch.statuses = base_ + statuses;
  batch.abort = base_ + abort;
  batch.done = base_ + done;
  batch.budget_ns = budget_ns;
  batch.share_count = static_cast<std::uint32_t>(shares_.size());
  batch.command_count = command_count();
  batch.segment_count = static_cast<std::uint32_t>(segments_.size());
  for (std::uint32_t i = 0; i < shape_.pairs; ++i) {
    models_[i].abort = batch.abort;
    models_[i].done = batch.done;
    models_[i].done_at = rest ? 0 : batch.share_count;
    put(models_at_ + i * sizeof(Model), models_[i]);
    put(pairs_at_ + 128ull * i, pairs_[i]);
  }
  const bool ran = backend_.launch(kernel, batch.share_count, threads, batch, base_ + models_at_,
                                   shape_.pairs);
  for (std::uint32_t i = 0; i < shape_.pairs; ++i) {
    std::memcpy(&models_[i], image_ + models_at_ + i * sizeof(Model), sizeof(Model));
    std::memcpy(&pairs_[i], image_ + pairs_at_ + 128ull * i, sizeof(gcos::QueuePair));
  }
  statuses_.resize(command_count());
  std::memcpy(statuses_.data(), image_ + statuses, 4 * statuses_.size());
  std::memcpy(&done_, image_ + done, 4);
  used_ = end;
  return ran;
}

bool World::moved(std::uint32_t index) const {
  const Known& known = known_[index];
  std::size_t medium = media_[known.pair] + (known.lba << shape_.lba_shift);
  for (const Piece& piece : known.pieces) {
    if (std::memcmp(image_ + piece.offset, image_ + medium, piece.bytes) != 0) return false;
    medium += piece.bytes;
  }
  return true;
}

std::uint32_t World::count(std::uint32_t wanted) const {
  std::uint32_t n = 0;
  for (std::uint32_t i = 0; i < statuses_.size(); ++i) n += ended(i) && kind(i) == wanted ? 1 : 0;
  return n;
}

std::string World::wrong(bool expect_violation) const {
  for (std::uint32_t i = 0; i < statuses_.size(); ++i) {
    if (!ended(i)) return "command " + std::to_string(i) + " has not ended";
    const bool good = kind(i) == gcos::kCompleted && (statuses_[i] & 0x7fff) == 0;
    if (good && !expect_violation && !moved(i)) return "command " + std::to_string(i) + " did not move its data";
  }
  if (done_ != shares_.size()) return "shares counted: " + std::to_string(done_);
  for (const Model& model : models_) {
    if (model.violation != kNone && !expect_violation) {
      return "the controller complains: " + std::to_string(model.violation);
    }
  }
  return {};
}

}  // namespace gcos_test
