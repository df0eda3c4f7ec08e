// Compiled in before the kernels to break them: the doorbells of queue.h publish nothing.
#pragma once

#include "gcos/platform.h"

#define store_release store_relaxed
#include "gcos/queue.h"
#undef store_release
