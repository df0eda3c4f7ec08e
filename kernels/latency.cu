// The kernel that measures how long a doorbell takes to be answered.
#include "gcos/abi.h"
#include "gcos/module.h"
#include "gcos/platform.h"
#include "gcos/round_trip.h"

// Rings and waits for the answer, again and again. One block; its first thread works.
GCOS_KERNEL gcos_round_trip(gcos::RoundTrip trip) {
  if (gcos::block_index() == 0 && gcos::thread_index() == 0) gcos::make_round_trips(trip);
}
