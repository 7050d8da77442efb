/* A small pool of threads that claim tasks; the caller works too. */
#ifndef LRPFAST_POOL_H
#define LRPFAST_POOL_H

#include <stddef.h>

/* task(argument, index, slot): slot is 0 for the caller, 1 … threads − 1 for helpers. */
typedef void (*lrpfast_task)(void *argument, ptrdiff_t index, int slot);

/* Run task for every index below count on at most `threads` threads. Runs them all
 * on the caller when the pool is busy with another caller's job. */
void lrpfast_pool_run(lrpfast_task task, void *argument, ptrdiff_t count, int threads);

#endif
