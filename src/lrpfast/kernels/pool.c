#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

/* One job at a time. The caller never waits for a helper that has not joined: a
 * helper that the system does not schedule costs nothing, where a barrier (as in
 * libgomp) would stall the job for a whole time slice. */

static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER; /* held by the caller whose job runs */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* guards what follows */
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static pthread_cond_t idle = PTHREAD_COND_INITIALIZER;
static int helpers = 0;              /* threads that exist */
static unsigned long generation = 0; /* jobs begun */
static int open_slots = 0;           /* helpers that may still join the job */
static int next_slot = 1;
static int active = 0; /* helpers at work */

static lrpfast_task job_task;
static void *job_argument;
static long job_count;
static atomic_long job_next;

static void claim(int slot)
{
    long index;
    while ((index = atomic_fetch_add(&job_next, 1)) < job_count)
        job_task(job_argument, index, slot);
}

static void *help(void *unused)
{
    (void)unused;
    unsigned long seen = 0;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (generation == seen || !open_slots) {
            seen = generation;
            pthread_cond_wait(&wake, &lock);
        }
        seen = generation;
        open_slots--;
        int slot = next_slot++;
        active++;
        pthread_mutex_unlock(&lock);
        claim(slot);
        pthread_mutex_lock(&lock);
        if (--active == 0)
            pthread_cond_signal(&idle);
    }
    return 0;
}

/* A forked child has the caller's thread only; its pool starts anew. */
static void forget(void)
{
    pthread_mutex_init(&owner, 0);
    pthread_mutex_init(&lock, 0);
    pthread_cond_init(&wake, 0);
    pthread_cond_init(&idle, 0);
    helpers = active = open_slots = 0;
}

static void grow(int wanted)
{
    static int watching = 0;
    if (!watching) {
        watching = 1;
        pthread_atfork(0, 0, forget);
    }
    sigset_t all, before;
    sigfillset(&all); /* signals belong to the interpreter's threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (helpers < wanted) {
        pthread_t thread;
        if (pthread_create(&thread, 0, help, 0))
            break; /* fewer helpers only means less speed */
        pthread_detach(thread);
        helpers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, 0);
}

void lrpfast_pool_run(lrpfast_task task, void *argument, long count, int threads)
{
    if (threads > count)
        threads = (int)count;
    if (threads <= 1 || pthread_mutex_trylock(&owner)) {
        for (long index = 0; index < count; index++)
            task(argument, index, 0);
        return;
    }
    pthread_mutex_lock(&lock);
    if (helpers < threads - 1)
        grow(threads - 1);
    job_task = task;
    job_argument = argument;
    job_count = count;
    atomic_store(&job_next, 0);
    open_slots = threads - 1;
    next_slot = 1;
    generation++;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);

    claim(0);

    pthread_mutex_lock(&lock);
    open_slots = 0;
    while (active)
        pthread_cond_wait(&idle, &lock);
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&owner);
}
