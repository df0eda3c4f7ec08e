// Data pointers: PRP1 and PRP2, PRP lists, SGL descriptors.
//
// In two steps. plan_pointer looks at a command and says what its pointer will be, without writing anything,
// so that a command without sense never takes a slot. write_pointer writes the list of the slot that the
// command got. Both are called by all 32 lanes, each with a command of its own; lanes build the lists that
// are needed together, one after another, 32 entries at a time.
#pragma once

#include "gcos/abi.h"
#include "gcos/platform.h"
#include "gcos/queue.h"

namespace gcos {

constexpr std::uint64_t kPageMask = kPageBytes - 1;
// Entries of one PRP list page. In a page that is not the last, the last entry leads to the next page.
constexpr std::uint32_t kPrpEntries = kPageBytes / 8;
constexpr std::uint32_t kPrpChained = kPrpEntries - 1;
// SGL descriptors in one list page.
constexpr std::uint32_t kSglEntries = kPageBytes / 16;
// Identifier bytes of SGL descriptors: data block, last segment; addresses, not offsets.
constexpr std::uint32_t kSglDataBlock = 0x00;
constexpr std::uint32_t kSglLastSegment = 0x30;

// What the pointer of a command will be.
enum class PointerKind : std::uint32_t {
  kNone,       // the lane has no command
  kBad,        // the command makes no sense, or cannot be expressed on this pair
  kDirect,     // PRP1 and PRP2 hold all, without a list
  kRunList,    // a PRP list of one run
  kPageList,   // a PRP list of several segments
  kSglBlock,   // one SGL data block
  kSglList,    // SGL data blocks in a list page
};

struct Plan {
  PointerKind kind = PointerKind::kNone;
  // Entries of the list; of kDirect 0 or 1, those in PRP2.
  std::uint32_t entries = 0;
  // Address of the first byte.
  std::uint64_t first = 0;
};

struct Pointer {
  std::uint64_t first = 0;
  std::uint64_t second = 0;
  bool sgl = false;
};

// What pointers need to know of a pair.
struct ListMemory {
  std::uint64_t lists;
  std::uint64_t lists_iova;
  std::uint32_t pages;
  bool sgl;

  GCOS_DEVICE std::uint64_t offset(std::uint32_t slot) const {
    return static_cast<std::uint64_t>(slot) * pages * kPageBytes;
  }
  GCOS_DEVICE std::uint64_t address(std::uint32_t slot) const { return lists + offset(slot); }
  GCOS_DEVICE std::uint64_t iova(std::uint32_t slot) const { return lists_iova + offset(slot); }
};

// List pages that `entries` PRP entries take. The last page has no entry that leads on.
GCOS_DEVICE std::uint32_t prp_list_pages(std::uint32_t entries) {
  return entries <= kPrpEntries ? 1u : (entries - 2) / kPrpChained + 1;
}

// Where entry `index` of a PRP list of `pages` pages stands, in entries from the start of the first page.
GCOS_DEVICE std::uint32_t prp_place(std::uint32_t index, std::uint32_t pages) {
  const std::uint32_t page = index / kPrpChained;
  const std::uint32_t last = pages - 1;
  return page < last ? page * kPrpEntries + index % kPrpChained
                     : last * kPrpEntries + (index - last * kPrpChained);
}

// Pages that a run touches.
GCOS_DEVICE std::uint64_t pages_of(std::uint64_t address, std::uint64_t bytes) {
  return ((address & kPageMask) + bytes + kPageMask) / kPageBytes;
}

GCOS_DEVICE Segment load_segment(const Segment* from) {
  const Chunk c = load_chunk(from);
  return Segment{c.words[0] | static_cast<std::uint64_t>(c.words[1]) << 32,
                 c.words[2] | static_cast<std::uint64_t>(c.words[3]) << 32};
}

namespace detail {

// Sum over the lanes up to and with this one.
GCOS_DEVICE std::uint32_t running_sum(std::uint32_t value) {
  for (std::uint32_t delta = 1; delta < kWarpThreads; delta *= 2) {
    const std::uint32_t below = shuffle_up(value, delta);
    if (lane_index() >= delta) value += below;
  }
  return value;
}

// The plan for memory that is one run.
GCOS_DEVICE Plan plan_run(std::uint64_t address, std::uint32_t bytes, const ListMemory& memory) {
  if ((address & 3) != 0) return Plan{PointerKind::kBad, 0, 0};
  const std::uint32_t after_first = static_cast<std::uint32_t>(pages_of(address, bytes)) - 1;
  if (after_first <= 1) return Plan{PointerKind::kDirect, after_first, address};
  if (prp_list_pages(after_first) <= memory.pages) {
    return Plan{PointerKind::kRunList, after_first, address};
  }
  return Plan{memory.sgl ? PointerKind::kSglBlock : PointerKind::kBad, 0, address};
}

// What the warp found of one list of segments. The same in every lane.
struct Walk {
  std::uint64_t bytes = 0;
  std::uint64_t pages = 0;
  bool dwords = true;   // all addresses and lengths are multiples of 4, no length is 0
  bool aligned = true;  // inner boundaries are those of pages
};

// Looks at the `count` segments from `segments` on, all lanes together.
GCOS_DEVICE Walk walk(const Segment* segments, std::uint32_t count) {
  Walk found;
  for (std::uint32_t group = 0; group < count; group += kWarpThreads) {
    const std::uint32_t k = group + lane_index();
    Segment s{0, 0};
    if (k < count) s = load_segment(segments + k);
    const bool sound = k >= count || (s.bytes != 0 && s.bytes <= 0xffffffffull &&
                                      ((s.iova | s.bytes) & 3) == 0);
    const bool starts = k == 0 || k >= count || (s.iova & kPageMask) == 0;
    const bool ends = k + 1 >= count || ((s.iova + s.bytes) & kPageMask) == 0;
    found.dwords = all(sound) && found.dwords;
    found.aligned = all(starts && ends) && found.aligned;
    // In units of 4 bytes, capped, so that a sum over the lanes fits 32 bits and a longer one is noticed.
    const std::uint64_t cap = 1ull << 26;
    const std::uint64_t dwords = s.bytes / 4 < cap ? s.bytes / 4 : cap;
    const std::uint64_t pages = pages_of(s.iova, s.bytes) < cap ? pages_of(s.iova, s.bytes) : cap;
    const std::uint32_t last = kWarpThreads - 1;
    found.bytes += 4ull * shuffle(running_sum(static_cast<std::uint32_t>(dwords)), last);
    found.pages += shuffle(running_sum(static_cast<std::uint32_t>(pages)), last);
  }
  return found;
}

// The plan for `count` segments of `bytes` in all, whose first byte is at `first`.
GCOS_DEVICE Plan plan_walk(const Walk& found, std::uint32_t count, std::uint32_t bytes,
                           std::uint64_t first, const ListMemory& memory) {
  if (found.bytes != bytes || !found.dwords) return Plan{PointerKind::kBad, 0, 0};
  if (found.aligned) {
    const std::uint32_t after_first = static_cast<std::uint32_t>(found.pages) - 1;
    if (after_first == 0) return Plan{PointerKind::kDirect, 0, first};
    if (prp_list_pages(after_first) <= memory.pages) {
      return Plan{PointerKind::kPageList, after_first, first};
    }
  }
  if (memory.sgl && count <= memory.pages * kSglEntries) {
    return Plan{PointerKind::kSglList, count, first};
  }
  return Plan{PointerKind::kBad, 0, 0};
}

}  // namespace detail

// Says what the pointer of this lane's command will be, if `active`. Memory is read where there are several
// segments, written nowhere. `segment_count` is the length of the batch's list.
GCOS_DEVICE Plan plan_pointer(bool active, const Command& command, const Segment* segments,
                              std::uint32_t segment_count, const ListMemory& memory) {
  Plan plan;
  bool several = false;
  std::uint64_t first = 0;
  if (active) {
    plan.kind = PointerKind::kBad;
    if (command.segments == 0) {
      plan = detail::plan_run(command.data, command.bytes, memory);
    } else if (command.data < segment_count && command.segments <= segment_count - command.data) {
      const Segment s = load_segment(segments + command.data);
      several = command.segments > 1;
      first = s.iova;
      if (!several && s.bytes == command.bytes) plan = detail::plan_run(s.iova, command.bytes, memory);
    }
  }
  for (std::uint32_t left = ballot(several); left != 0; left &= left - 1) {
    const std::uint32_t lane = lowest_bit(left);
    const std::uint64_t start = shuffle_wide(command.data, lane);
    const std::uint32_t count = shuffle(command.segments, lane);
    const detail::Walk found = detail::walk(segments + start, count);
    if (lane_index() == lane) {
      plan = detail::plan_walk(found, command.segments, command.bytes, first, memory);
    }
  }
  return plan;
}

namespace detail {

// Makes each page of a list of `entries` but the last lead to the next.
GCOS_DEVICE void write_chain(std::uint64_t list, std::uint64_t list_iova, std::uint32_t pages) {
  for (std::uint32_t page = lane_index(); page + 1 < pages; page += kWarpThreads) {
    at<std::uint64_t>(list)[page * kPrpEntries + kPrpChained] =
        list_iova + (page + 1ull) * kPageBytes;
  }
}

GCOS_DEVICE void write_run_list(std::uint64_t list, std::uint64_t first, std::uint32_t entries,
                                std::uint32_t pages) {
  const std::uint64_t page_address = first & ~kPageMask;
  for (std::uint32_t e = lane_index(); e < entries; e += kWarpThreads) {
    at<std::uint64_t>(list)[prp_place(e, pages)] = page_address + (e + 1ull) * kPageBytes;
  }
}

// Writes the pages of the segments as a list, and gives back the address of the second page of the data.
GCOS_DEVICE std::uint64_t write_page_list(std::uint64_t list, const Segment* segments,
                                          std::uint32_t count, std::uint32_t pages) {
  std::uint64_t second = 0;
  // Page of the data with which the group begins; page 0 is PRP1's.
  std::uint32_t base = 0;
  for (std::uint32_t group = 0; group < count; group += kWarpThreads) {
    const std::uint32_t k = group + lane_index();
    Segment s{0, 0};
    if (k < count) s = load_segment(segments + k);
    const std::uint32_t own = static_cast<std::uint32_t>(pages_of(s.iova, s.bytes));
    const std::uint32_t sum = running_sum(own);
    const std::uint32_t begin = base + sum - own;
    const std::uint64_t page_address = s.iova & ~kPageMask;
    if (ballot(own > 2) == 0) {
      // Scattered pages: each lane writes those of its own segment.
      for (std::uint32_t p = 0; p < own; ++p) {
        if (begin + p != 0) {
          at<std::uint64_t>(list)[prp_place(begin + p - 1, pages)] = page_address + p * kPageBytes;
        }
      }
    } else {
      // Longer segments: all lanes write each.
      for (std::uint32_t lane = 0; lane < kWarpThreads && group + lane < count; ++lane) {
        const std::uint64_t address = shuffle_wide(page_address, lane);
        const std::uint32_t from = shuffle(begin, lane);
        const std::uint32_t length = shuffle(own, lane);
        for (std::uint32_t p = lane_index(); p < length; p += kWarpThreads) {
          if (from + p != 0) {
            at<std::uint64_t>(list)[prp_place(from + p - 1, pages)] =
                address + static_cast<std::uint64_t>(p) * kPageBytes;
          }
        }
      }
    }
    const bool has_second = begin <= 1 && begin + own > 1;
    const std::uint32_t who = ballot(has_second);
    const std::uint64_t mine = page_address + (1 - (begin < 1 ? begin : 1)) * kPageBytes;
    if (who != 0) second = shuffle_wide(mine, lowest_bit(who));
    base += shuffle(sum, kWarpThreads - 1);
  }
  return second;
}

GCOS_DEVICE void write_sgl_list(std::uint64_t list, const Segment* segments, std::uint32_t count) {
  for (std::uint32_t k = lane_index(); k < count; k += kWarpThreads) {
    const Segment s = load_segment(segments + k);
    store_chunk(at<Chunk>(list) + k,
                Chunk{{low(s.iova), high(s.iova), low(s.bytes), kSglDataBlock << 24}});
  }
}

}  // namespace detail

// Makes the pointer of this lane's command, which got the slot `slot`, and writes the lists that the lanes'
// plans ask for. A lane with no command, or a bad one, gets an empty pointer. Orders nothing: the lists are
// ordered before the doorbell with the entries.
GCOS_DEVICE Pointer write_pointer(const Plan& plan, const Command& command, const Segment* segments,
                                  std::uint32_t slot, const ListMemory& memory) {
  Pointer pointer{plan.first, plan.entries != 0 ? (plan.first & ~kPageMask) + kPageBytes : 0, false};
  if (!any(plan.kind > PointerKind::kDirect)) return pointer;
  const bool listed = plan.kind == PointerKind::kRunList || plan.kind == PointerKind::kPageList ||
                      plan.kind == PointerKind::kSglList;
  if (plan.kind == PointerKind::kRunList || plan.kind == PointerKind::kPageList) {
    pointer.second = memory.iova(slot);
  } else if (plan.kind == PointerKind::kSglBlock) {
    pointer.second = command.bytes | (static_cast<std::uint64_t>(kSglDataBlock) << 56);
    pointer.sgl = true;
  } else if (plan.kind == PointerKind::kSglList) {
    pointer.first = memory.iova(slot);
    pointer.second = plan.entries * 16ull | (static_cast<std::uint64_t>(kSglLastSegment) << 56);
    pointer.sgl = true;
  }
  for (std::uint32_t left = ballot(listed); left != 0; left &= left - 1) {
    const std::uint32_t lane = lowest_bit(left);
    const auto kind = static_cast<PointerKind>(shuffle(static_cast<std::uint32_t>(plan.kind), lane));
    const std::uint32_t entries = shuffle(plan.entries, lane);
    const std::uint32_t its_slot = shuffle(slot, lane);
    const std::uint64_t list = memory.address(its_slot);
    const std::uint32_t pages = prp_list_pages(entries);
    if (kind == PointerKind::kRunList) {
      detail::write_run_list(list, shuffle_wide(plan.first, lane), entries, pages);
      detail::write_chain(list, memory.iova(its_slot), pages);
      continue;
    }
    const std::uint64_t start = shuffle_wide(command.data, lane);
    const std::uint32_t count = shuffle(command.segments, lane);
    if (kind == PointerKind::kSglList) {
      detail::write_sgl_list(list, segments + start, count);
      continue;
    }
    const std::uint64_t second = detail::write_page_list(list, segments + start, count, pages);
    detail::write_chain(list, memory.iova(its_slot), pages);
    if (entries == 1 && lane_index() == lane) pointer.second = second;
  }
  return pointer;
}

}  // namespace gcos
