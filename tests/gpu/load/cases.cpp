// Tests of the kernels that drive queue pairs. See cases.h.
#include "cases.h"

#include <cstdio>

namespace gcos_test {

namespace {

using gcos::kAborted;
using gcos::kBadCommand;
using gcos::kBadCompletion;
using gcos::kCompleted;
using gcos::kNotStarted;
using gcos::kOpcodeRead;
using gcos::kOpcodeWrite;
using gcos::kTimedOut;

// No case that goes well comes near it, even on a busy machine.
constexpr std::uint64_t kBudgetNs = 120000000000ull;

// One run of one case: on a backend, by a kernel, with blocks of so many threads.
struct Trial {
  Backend& backend;
  const char* kernel;
  std::uint32_t threads;
  std::string failure;

  bool check(bool holds, const std::string& what) {
    if (!holds && failure.empty()) failure = what;
    return holds;
  }
  void check_sane(World& world) {
    const std::string wrong = world.wrong();
    check(wrong.empty(), wrong);
  }
  void run(World& world, std::uint64_t budget_ns = kBudgetNs) {
    check(world.run(kernel, threads, budget_ns), "the kernel did not run");
  }
  void all_completed(World& world) {
    check_sane(world);
    check(world.count(kCompleted) == world.command_count(), "a command was not completed");
  }
};

#define CHECK(condition) trial.check(condition, #condition)

// Block size of the medium.
constexpr std::uint32_t kBlock = 512;

void small_commands_wrap_the_queues(Trial& trial) {
  for (const std::uint32_t entries : {2u, 7u, 64u, 100u}) {
    const std::uint32_t count = entries < 10 ? 40 : 230;
    Shape shape;
    shape.entries = entries;
    World world(trial.backend, shape);
    for (int batch = 0; batch < 2; ++batch) {
      world.clear();
      // Reads below, writes above, so that what ran first does not matter.
      for (std::uint32_t i = 0; i < count; ++i) {
        i % 3 != 0 ? world.read(i, kBlock) : world.write(1000 + i, kBlock);
      }
      world.share(0);
      trial.run(world);
      trial.all_completed(world);
    }
    CHECK(world.model(0).fetched == 2 * count);
    CHECK(world.pair(0).broken == 0);
  }
}

void completions_out_of_order_reach_their_commands(Trial& trial) {
  Shape shape;
  shape.entries = 48;
  World world(trial.backend, shape);
  world.model(0).hold = kMostHeld;
  for (std::uint32_t i = 0; i < 300; ++i) world.read(3 * i, kBlock);
  world.share(0);
  trial.run(world);
  trial.all_completed(world);
}

void shares_of_one_pair_run_side_by_side(Trial& trial) {
  // A block that owns a pair must not share it.
  if (std::strcmp(trial.kernel, "gcos_io_shared") != 0) return;
  for (const std::uint32_t entries : {5u, 40u, 256u}) {
    Shape shape;
    shape.entries = entries;
    World world(trial.backend, shape);
    world.model(0).hold = entries > 20 ? 3 : 0;
    for (int batch = 0; batch < 2; ++batch) {
      world.clear();
      for (std::uint32_t share = 0; share < 4; ++share) {
        for (std::uint32_t i = 0; i < 90; ++i) {
          const std::uint64_t lba = 4 * i + share;
          i % 2 == 0 ? world.read(lba, kBlock) : world.write(lba, kBlock);
        }
        world.share(0);
      }
      trial.run(world);
      trial.all_completed(world);
    }
    CHECK(world.model(0).fetched == 720);
    CHECK(world.pair(0).broken == 0);
  }
}

void several_shares_run_side_by_side(Trial& trial) {
  Shape shape;
  shape.pairs = 3;
  World world(trial.backend, shape);
  for (std::uint32_t pair = 0; pair < shape.pairs; ++pair) {
    for (std::uint32_t i = 0; i < 40 * pair; ++i) world.write(2 * i, 2 * kBlock);
    world.share(pair);
  }
  trial.run(world);
  trial.all_completed(world);
  CHECK(world.model(0).fetched == 0);
  CHECK(world.model(2).fetched == 80);
}

void long_runs_get_prp_lists(Trial& trial) {
  Shape shape;
  shape.entries = 16;
  shape.memory_bytes = 16u << 20;
  World world(trial.backend, shape);
  std::uint64_t lba = 0;
  for (const std::uint32_t in_page : {0u, 4u, 512u, 4092u}) {
    for (const std::uint32_t bytes : {512u, 4096u, 4608u, 8192u, 8704u, 12288u, 65536u}) {
      world.add(kOpcodeRead, lba, {world.take(bytes, in_page)});
      world.add(kOpcodeWrite, 1024 + lba, {world.take(bytes, in_page)}, true);
      lba += bytes / kBlock;
    }
  }
  world.share(0);
  trial.run(world);
  trial.all_completed(world);
}

void lists_longer_than_a_page_are_chained(Trial& trial) {
  Shape shape;
  shape.entries = 3;
  shape.list_pages = 3;
  shape.medium_bytes = 8u << 20;
  shape.memory_bytes = 40u << 20;
  shape.max_transfer = 6u << 20;
  World world(trial.backend, shape);
  // 513 pages fill one list page; 514 need a second; 1024 fill two; 1025 need a third.
  for (const std::uint32_t pages : {513u, 514u, 1024u, 1025u}) {
    world.add(kOpcodeRead, 8, {world.take(pages * 4096)});
  }
  // A list of pages that do not follow one another, over two list pages.
  std::vector<Piece> scattered;
  for (std::uint32_t i = 0; i < 300; ++i) {
    scattered.push_back(world.take(i % 3 == 0 ? 4096 : 8192));
    world.take(4096);
  }
  world.add(kOpcodeRead, 0, scattered);
  world.share(0);
  trial.run(world);
  trial.all_completed(world);
}

void a_list_that_does_not_fit_is_a_bad_command(Trial& trial) {
  Shape shape;
  shape.medium_bytes = 4u << 20;
  shape.memory_bytes = 16u << 20;
  World world(trial.backend, shape);
  world.add(kOpcodeRead, 0, {world.take(513 * 4096)});
  world.add(kOpcodeRead, 0, {world.take(514 * 4096)});
  world.share(0);
  trial.run(world);
  trial.check_sane(world);
  CHECK(world.kind(0) == kCompleted);
  CHECK(world.kind(1) == kBadCommand);
}

void scattered_segments_get_prp_lists(Trial& trial) {
  Shape shape;
  shape.memory_bytes = 24u << 20;
  World world(trial.backend, shape);
  const auto pages = [&](std::uint32_t first, std::uint32_t in_page, std::uint32_t middle,
                         std::uint32_t each, std::uint32_t last) {
    std::vector<Piece> pieces{world.take(first, in_page)};
    for (std::uint32_t i = 0; i < middle; ++i) pieces.push_back(world.take(each * 4096));
    if (last != 0) pieces.push_back(world.take(last));
    return pieces;
  };
  std::uint64_t at = 0;
  const auto put = [&](const std::vector<Piece>& pieces, std::uint32_t opcode) {
    std::uint32_t bytes = 0;
    for (const Piece& piece : pieces) bytes += piece.bytes;
    world.add(opcode, at, pieces);
    at += bytes / kBlock;
  };
  for (const std::uint32_t opcode : {kOpcodeRead, kOpcodeWrite}) {
    put(pages(4096, 0, 0, 1, 4096), opcode);          // two pages: PRP2 is the second
    put(pages(512, 3584, 0, 1, 1024), opcode);        // a piece of a page each
    put(pages(512, 3584, 1, 2, 512), opcode);         // a run of two pages between
    put(pages(4096, 0, 9, 1, 0), opcode);             // single pages
    put(pages(1024, 3072, 35, 1, 2048), opcode);      // more segments than a warp has lanes
    put(pages(8192, 0, 3, 5, 4096), opcode);          // longer runs
    put(pages(4096 + 512, 3584, 33, 1, 512), opcode);
  }
  world.share(0);
  trial.run(world);
  trial.all_completed(world);
}

void segments_off_page_boundaries_need_sgls(Trial& trial) {
  for (const bool sgl : {false, true}) {
    Shape shape;
    shape.sgl = sgl;
    World world(trial.backend, shape);
    std::vector<Piece> pieces;
    for (std::uint32_t i = 0; i < 41; ++i) pieces.push_back(world.take(100, 4 * i));
    pieces.push_back(world.take(508));
    pieces.push_back(world.take(512));
    pieces.push_back(world.take(1024 - 100));
    std::uint32_t bytes = 0;
    for (const Piece& piece : pieces) bytes += piece.bytes;
    pieces.back().bytes += (kBlock - bytes % kBlock) % kBlock;
    for (std::uint32_t i = 0; i < 40; ++i) world.read(100 + i, kBlock);
    world.add(kOpcodeRead, 0, pieces);
    world.share(0);
    trial.run(world);
    trial.check_sane(world);
    CHECK(world.kind(40) == (sgl ? kCompleted : kBadCommand));
    CHECK(world.count(kCompleted) == (sgl ? 41u : 40u));
  }
}

void a_run_too_long_for_its_list_goes_as_one_sgl_block(Trial& trial) {
  Shape shape;
  shape.sgl = true;
  shape.medium_bytes = 4u << 20;
  shape.memory_bytes = 16u << 20;
  World world(trial.backend, shape);
  world.add(kOpcodeRead, 0, {world.take(514 * 4096)});
  world.share(0);
  trial.run(world);
  trial.all_completed(world);
}

void commands_without_sense_take_no_slot(Trial& trial) {
  Shape shape;
  shape.max_transfer = 65536;
  World world(trial.backend, shape);
  std::vector<std::uint32_t> bad;
  const auto spoil = [&]() -> gcos::Command& {
    bad.push_back(world.read(0, 4096));
    return world.command(bad.back());
  };
  for (std::uint32_t i = 0; i < 20; ++i) world.read(8 * i, 4096);
  spoil().bytes = 0;
  spoil().bytes = 700;
  spoil().bytes = 65536 + kBlock;
  spoil().opcode = 0;
  spoil().opcode = 9;
  spoil().data += 2;
  world.read(0, 4096);
  spoil().segments = 1;          // an index past the list
  {
    gcos::Command& c = spoil();  // a range past the list
    c.data = 0;
    c.segments = 0xffffffffu;
  }
  for (std::uint32_t i = 0; i < 80; ++i) world.read(8 * i, 4096);
  std::vector<Piece> pieces{world.take(4096), world.take(4096)};
  bad.push_back(world.add(kOpcodeRead, 0, pieces));
  world.command(bad.back()).bytes = 4096;  // less than its segments
  bad.push_back(world.add(kOpcodeRead, 0, pieces));
  world.command(bad.back()).bytes = 12288;  // more than its segments
  bad.push_back(world.add(kOpcodeRead, 0, {world.take(4096), world.take(0), world.take(4096)}));
  bad.push_back(world.add(kOpcodeRead, 0, {world.take(4096), world.take(510), world.take(3586)}));
  world.share(0);
  trial.run(world);
  trial.check_sane(world);
  for (const std::uint32_t index : bad) {
    trial.check(world.kind(index) == kBadCommand,
                "command " + std::to_string(index) + " was not found bad");
  }
  CHECK(world.count(kBadCommand) == bad.size());
  CHECK(world.count(kCompleted) == world.command_count() - bad.size());
  CHECK(world.model(0).fetched == 101);
  CHECK(world.pair(0).broken == 0);
}

void an_error_status_is_the_commands_alone(Trial& trial) {
  World world(trial.backend, Shape{});
  world.model(0).fault = kStatus;
  world.model(0).fault_at = 70;
  for (std::uint32_t i = 0; i < 150; ++i) world.read(i, kBlock);
  world.share(0);
  trial.run(world);
  trial.all_completed(world);
  std::uint32_t failed = 0;
  for (std::uint32_t i = 0; i < 150; ++i) {
    failed += (world.status(i) & 0x7fff) == kFailedStatus ? 1 : 0;
  }
  CHECK(failed == 1);
  CHECK(world.pair(0).broken == 0);
}

// What holds when a pair broke: what was in flight ended so, at least one command, and then nothing is
// started any more.
void broke(Trial& trial, World& world, std::uint32_t kind, std::uint32_t before) {
  const std::string wrong = world.wrong(true);
  trial.check(wrong.empty(), wrong);
  // On a shared pair the others may have landed before the warps noticed.
  const bool shared = std::strcmp(trial.kernel, "gcos_io_shared") == 0;
  CHECK(world.count(kind) + (shared ? world.count(kNotStarted) : 0) >= 1);
  CHECK(world.count(kCompleted) >= before);
  CHECK(world.count(kind) + world.count(kCompleted) + world.count(kNotStarted) ==
        world.command_count());
  CHECK(world.pair(0).broken == kind);
  // The controller may still touch the memory of the batch that broke the pair: it rests now.
  world.rest = true;
  world.clear();
  for (std::uint32_t i = 0; i < 50; ++i) world.read(i, kBlock);
  world.share(0);
  trial.run(world);
  CHECK(world.count(kNotStarted) == 50);
}

void fault_breaks(Trial& trial, Fault fault, std::uint32_t kind, std::uint64_t budget_ns) {
  World world(trial.backend, Shape{});
  world.model(0).fault = fault;
  world.model(0).fault_at = 75;
  for (std::uint32_t i = 0; i < 300; ++i) world.read(i, kBlock);
  world.share(0);
  trial.run(world, budget_ns);
  // Completions that came together with the bad one may be lost; a warp's worth at most.
  broke(trial, world, kind, 11);
}

void a_lost_completion_times_out(Trial& trial) {
  fault_breaks(trial, kDrop, kTimedOut, 300000000);
}

void a_completion_of_an_empty_slot_breaks_the_pair(Trial& trial) {
  fault_breaks(trial, kUnknown, kBadCompletion, kBudgetNs);
}

void a_completion_of_a_slot_past_the_queue_breaks_the_pair(Trial& trial) {
  fault_breaks(trial, kOutOfRange, kBadCompletion, kBudgetNs);
}

void a_command_completed_twice_breaks_the_pair(Trial& trial) {
  fault_breaks(trial, kRepeat, kBadCompletion, kBudgetNs);
}

void the_abort_flag_ends_what_is_in_flight(Trial& trial) {
  fault_breaks(trial, kAbort, kAborted, kBudgetNs);
}

void a_completion_too_many_at_the_end_breaks_the_pair(Trial& trial) {
  World world(trial.backend, Shape{});
  world.model(0).fault = kRepeat;
  world.model(0).fault_at = 9;
  for (std::uint32_t i = 0; i < 10; ++i) world.read(i, kBlock);
  world.share(0);
  trial.run(world);
  const std::string wrong = world.wrong(true);
  trial.check(wrong.empty(), wrong);
  CHECK(world.count(kCompleted) == 10);
  // The kernel may end before the second completion is there; then the next batch finds it.
  for (int next = 0; next < 2 && world.pair(0).broken == 0; ++next) {
    world.clear();
    world.read(0, kBlock);
    world.share(0);
    trial.run(world);
  }
  CHECK(world.pair(0).broken == kBadCompletion);
}

void a_raised_abort_flag_starts_nothing(Trial& trial) {
  World world(trial.backend, Shape{});
  world.raise_abort = true;
  for (std::uint32_t i = 0; i < 100; ++i) world.read(i, kBlock);
  world.share(0);
  trial.run(world);
  trial.check_sane(world);
  CHECK(world.count(kNotStarted) == 100);
  CHECK(world.model(0).fetched == 0);
  CHECK(world.pair(0).broken == 0);
}

void a_broken_or_undrivable_pair_starts_nothing(Trial& trial) {
  for (const bool too_long : {false, true}) {
    World world(trial.backend, Shape{});
    if (too_long) {
      world.pair(0).entries = gcos::kMaxQueueEntries + 1;
    } else {
      world.pair(0).broken = kTimedOut;
    }
    for (std::uint32_t i = 0; i < 100; ++i) world.read(i, kBlock);
    world.share(0);
    trial.run(world);
    trial.check_sane(world);
    CHECK(world.count(kNotStarted) == 100);
    CHECK(world.model(0).fetched == 0);
  }
}

struct Case {
  const char* name;
  void (*run)(Trial& trial);
};

#define CASE(function) Case{#function, function}
constexpr Case kCases[] = {
    CASE(small_commands_wrap_the_queues),
    CASE(completions_out_of_order_reach_their_commands),
    CASE(shares_of_one_pair_run_side_by_side),
    CASE(several_shares_run_side_by_side),
    CASE(long_runs_get_prp_lists),
    CASE(lists_longer_than_a_page_are_chained),
    CASE(a_list_that_does_not_fit_is_a_bad_command),
    CASE(scattered_segments_get_prp_lists),
    CASE(segments_off_page_boundaries_need_sgls),
    CASE(a_run_too_long_for_its_list_goes_as_one_sgl_block),
    CASE(commands_without_sense_take_no_slot),
    CASE(an_error_status_is_the_commands_alone),
    CASE(a_lost_completion_times_out),
    CASE(a_completion_of_an_empty_slot_breaks_the_pair),
    CASE(a_completion_of_a_slot_past_the_queue_breaks_the_pair),
    CASE(a_command_completed_twice_breaks_the_pair),
    CASE(the_abort_flag_ends_what_is_in_flight),
    CASE(a_completion_too_many_at_the_end_breaks_the_pair),
    CASE(a_raised_abort_flag_starts_nothing),
    CASE(a_broken_or_undrivable_pair_starts_nothing),
};

}  // namespace

Tally run_cases(Backend& backend, const std::vector<std::uint32_t>& block_threads,
                const std::string& filter) {
  Tally tally;
  for (const char* kernel : {"gcos_io", "gcos_io_shared"}) {
    for (const std::uint32_t threads : block_threads) {
      for (const Case& one : kCases) {
        const std::string name = std::string(kernel) + "/" + std::to_string(threads) + "/" + one.name;
        if (name.find(filter) == std::string::npos) continue;
        Trial trial{backend, kernel, threads, {}};
        one.run(trial);
        const bool good = trial.failure.empty();
        std::printf("test %s ... %s%s\n", name.c_str(), good ? "ok" : "FAILED: ",
                    trial.failure.c_str());
        std::fflush(stdout);
        (good ? tally.passed : tally.failed) += 1;
      }
    }
  }
  return tally;
}

}  // namespace gcos_test
