#include "pool.h"

/* What the pool needs of the system. */
#if defined(_WIN32)

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <process.h>

typedef SRWLOCK mutex;
typedef CONDITION_VARIABLE condition;
#define MUTEX SRWLOCK_INIT
#define CONDITION CONDITION_VARIABLE_INIT
#define HELPER unsigned __stdcall

static int try_lock(mutex *m) { return TryAcquireSRWLockExclusive(m); }
static void lock(mutex *m) { AcquireSRWLockExclusive(m); }
static void unlock(mutex *m) { ReleaseSRWLockExclusive(m); }
static void wait_for(condition *c, mutex *m) { SleepConditionVariableSRW(c, m, INFINITE, 0); }
static void wait_a_while(condition *c, mutex *m) { SleepConditionVariableSRW(c, m, 50, 0); }
static double seconds(void) { return GetTickCount64() / 1e3; }
static void wake_one(condition *c) { WakeConditionVariable(c); }
static void wake_all(condition *c) { WakeAllConditionVariable(c); }

/* One more thread; 0 where the system gives none. */
static int start(unsigned(__stdcall *function)(void *))
{
    HANDLE thread = (HANDLE)_beginthreadex(0, 0, function, 0, 0, 0);
    return thread && CloseHandle(thread);
}

#else

#include <pthread.h>
#include <signal.h>
#include <time.h>

typedef pthread_mutex_t mutex;
typedef pthread_cond_t condition;
#define MUTEX PTHREAD_MUTEX_INITIALIZER
#define CONDITION PTHREAD_COND_INITIALIZER
#define HELPER void *

static int try_lock(mutex *m) { return !pthread_mutex_trylock(m); }
static void lock(mutex *m) { pthread_mutex_lock(m); }
static void unlock(mutex *m) { pthread_mutex_unlock(m); }
static void wait_for(condition *c, mutex *m) { pthread_cond_wait(c, m); }
static void wait_a_while(condition *c, mutex *m)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until); /* the condition's own clock */
    until.tv_nsec += 50000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_timedwait(c, m, &until);
}
static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + now.tv_nsec / 1e9;
}
static void wake_one(condition *c) { pthread_cond_signal(c); }
static void wake_all(condition *c) { pthread_cond_broadcast(c); }

static void forget(void);

static int start(void *(*function)(void *))
{
    static int watching = 0;
    if (!watching) {
        watching = 1;
        pthread_atfork(0, 0, forget);
    }
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all); /* signals belong to the interpreter's threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int started = !pthread_create(&thread, 0, function, 0) && !pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, 0);
    return started;
}

#endif

/* Whether work is to end. The thread that watches asks; its helpers read what it heard. */

#define SECONDS_BETWEEN_QUESTIONS 0.05
#define WORK_BETWEEN_LOOKS 4e6 /* at the clock: some milliseconds' */

static __thread lrpfast_watch *own_watch = 0; /* of a thread that watches */
static __thread const int *stop = 0;          /* what the job of this thread is ended by */

void lrpfast_watch_begin(lrpfast_watch *watch, int (*ask)(void))
{
    watch->ask = ask;
    watch->stopped = 0;
    watch->work = watch->asked = 0;
    watch->outer = own_watch;
    own_watch = watch;
    stop = &watch->stopped;
}

void lrpfast_watch_end(lrpfast_watch *watch)
{
    own_watch = watch->outer;
    stop = own_watch ? &own_watch->stopped : 0;
}

static void ask(lrpfast_watch *watch)
{
    double now = seconds();
    watch->work = 0;
    if (!watch->asked) /* a short job never asks */
        watch->asked = now;
    if (now - watch->asked < SECONDS_BETWEEN_QUESTIONS || watch->stopped)
        return;
    int answer = watch->ask(); /* which may take a while: another thread may hold the interpreter */
    watch->asked = seconds();
    if (answer)
        __atomic_store_n(&watch->stopped, 1, __ATOMIC_RELAXED);
}

int lrpfast_stopped(double work)
{
    if (own_watch && (own_watch->work += work) > WORK_BETWEEN_LOOKS)
        ask(own_watch);
    return stop && __atomic_load_n(stop, __ATOMIC_RELAXED);
}

/* One job at a time. The caller never waits for a helper that has not joined: a
 * helper that the system does not schedule costs nothing, where a barrier (as in
 * libgomp) would stall the job for a whole time slice. */

static mutex owner = MUTEX; /* held by the caller whose job runs */
static mutex guard = MUTEX; /* guards what follows */
static condition wake = CONDITION;
static condition idle = CONDITION;
static int helpers = 0;       /* threads that exist */
static size_t generation = 0; /* jobs begun */
static int open_slots = 0;    /* helpers that may still join the job */
static int next_slot = 1;
static int active = 0; /* helpers at work */

static lrpfast_task job_task;
static void *job_argument;
static ptrdiff_t job_count;
static const int *job_stop;
static ptrdiff_t job_next; /* claimed without the lock */

static void claim(int slot)
{
    ptrdiff_t index;
    while (!lrpfast_stopped(0) && (index = __atomic_fetch_add(&job_next, 1, __ATOMIC_SEQ_CST)) < job_count)
        job_task(job_argument, index, slot);
}

static HELPER help(void *unused)
{
    (void)unused;
    size_t seen = 0;
    lock(&guard);
    for (;;) {
        while (generation == seen || !open_slots) {
            seen = generation;
            wait_for(&wake, &guard);
        }
        seen = generation;
        open_slots--;
        int slot = next_slot++;
        active++;
        stop = job_stop;
        unlock(&guard);
        claim(slot);
        stop = 0; /* where it pointed to may be gone from now on */
        lock(&guard);
        if (--active == 0)
            wake_one(&idle);
    }
    return 0;
}

#if !defined(_WIN32)
/* A forked child has the caller's thread only; its pool starts anew. */
static void forget(void)
{
    pthread_mutex_init(&owner, 0);
    pthread_mutex_init(&guard, 0);
    pthread_cond_init(&wake, 0);
    pthread_cond_init(&idle, 0);
    helpers = active = open_slots = 0;
}
#endif

void lrpfast_pool_run(lrpfast_task task, void *argument, ptrdiff_t count, int threads)
{
    if (threads > count)
        threads = (int)count;
    if (threads <= 1 || !try_lock(&owner)) {
        for (ptrdiff_t index = 0; index < count && !lrpfast_stopped(0); index++)
            task(argument, index, 0);
        return;
    }
    lock(&guard);
    while (helpers < threads - 1 && start(help)) /* fewer helpers only means less speed */
        helpers++;
    job_task = task;
    job_argument = argument;
    job_count = count;
    job_stop = stop;
    __atomic_store_n(&job_next, 0, __ATOMIC_SEQ_CST);
    open_slots = threads - 1;
    next_slot = 1;
    generation++;
    wake_all(&wake);
    unlock(&guard);

    claim(0);

    lock(&guard);
    open_slots = 0;
    while (active && own_watch && !own_watch->stopped) {
        wait_a_while(&idle, &guard);
        unlock(&guard); /* helpers go on while it is asked */
        ask(own_watch);
        lock(&guard);
    }
    while (active)
        wait_for(&idle, &guard);
    unlock(&guard);
    unlock(&owner);
}
