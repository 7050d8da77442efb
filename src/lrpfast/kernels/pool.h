/* A small pool of threads that claim tasks; the caller works too. */
#ifndef LRPFAST_POOL_H
#define LRPFAST_POOL_H

#include <stddef.h>

/* task(argument, index, slot): slot is 0 for the caller, 1 … threads − 1 for helpers. */
typedef void (*lrpfast_task)(void *argument, ptrdiff_t index, int slot);

/* Run task for every index below count on at most `threads` threads. Runs them all
 * on the caller when the pool is busy with another caller's job. */
void lrpfast_pool_run(lrpfast_task task, void *argument, ptrdiff_t count, int threads);

/* How a thread's jobs are ended early, as by Ctrl-C: while they run, `ask` is called about
 * twenty times a second by the thread that watches; once it answers other than 0, work is
 * to end, on all threads. */
typedef struct lrpfast_watch {
    int (*ask)(void);
    int stopped;
    double work, asked;          /* work done since the clock was read; when ask was called, in seconds */
    struct lrpfast_watch *outer; /* what the thread watched before, as where a signal's handler runs jobs */
} lrpfast_watch;

/* Watch what this thread runs from here on, until `lrpfast_watch_end`. */
void lrpfast_watch_begin(lrpfast_watch *watch, int (*ask)(void));
void lrpfast_watch_end(lrpfast_watch *watch);

/* Whether the job that this thread works on is to end; to be called after about every
 * million multiplications or as many values, with the number of them. */
int lrpfast_stopped(double work);

#endif
