# How relevance grows from its start to the input: growth.py says what is counted and why.


cdef void note_starts(const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    """Σ|R| and ΣR that some samples begin with."""
    cdef Py_ssize_t size = batch.job.code.size[op.writes[0]], i, j
    cdef const real* r
    cdef double* start = batch.job.starts + 2 * batch.first
    cdef double total, sizes
    for i in range(batch.samples):
        r = <const real*>batch.base[op.writes[0]] + i * size
        total = sizes = 0
        for j in range(size):
            total += r[j]
            sizes += fabs(r[j])
        start[2 * i], start[2 * i + 1] = sizes, total


cdef void judge(const Batch* batch, int slot, real* unused) noexcept nogil:
    """Count what became of some samples' relevance."""
    cdef const Job* job = batch.job
    cdef const Code* code = job.code
    cdef Growth* g = &job.growth[slot]
    cdef Py_ssize_t size = code.size[code.result], sample, i, at
    cdef const real* r
    cdef double before, total, after
    for i in range(batch.samples):
        sample = batch.first + i
        before, total = job.starts[2 * sample], job.starts[2 * sample + 1]
        if job.mode == ARRAY and before == 0:
            continue  # nothing was asked for
        r = <const real*>batch.base[code.result] + i * size
        if not job.exact and size >= LARGE:  # a part of it first: all of it would take a fair part of the time
            after = 0
            for at from 0 <= at < size - EVERY by EVERY:
                after += code.kernels.absolute(GLANCE, r + at)
            after *= EVERY / <double>GLANCE
            if 2 * LEAST * fabs(total) < after < MOST / 2 * before:
                continue
        after = code.kernels.absolute(size, r)
        if after == 0:
            if not g.zero or sample < g.zero_at:
                g.zero_at = sample
            g.zero += 1
            g.nothing += before == 0
            g.negative += total < 0
        elif after > MOST * before:
            g.amplified += 1
            if before == 0 or after / before > g.largest:
                g.largest, g.largest_at = after / before if before else INFINITY, sample
        elif after < LEAST * fabs(total):
            if not g.vanished or after / fabs(total) < g.smallest:
                g.smallest, g.smallest_at = after / fabs(total), sample
            g.vanished += 1


cdef object run_growth(const Growth* growth, int slots):
    """The growth of a run, over all threads; None where there is nothing to warn of."""
    cdef Growth all = growth[0]
    cdef int s
    for s in range(1, slots):
        if growth[s].zero and (not all.zero or growth[s].zero_at < all.zero_at):
            all.zero_at = growth[s].zero_at
        if growth[s].amplified and growth[s].largest > all.largest:
            all.largest, all.largest_at = growth[s].largest, growth[s].largest_at
        if growth[s].vanished and (not all.vanished or growth[s].smallest < all.smallest):
            all.smallest, all.smallest_at = growth[s].smallest, growth[s].smallest_at
        all.amplified += growth[s].amplified
        all.vanished += growth[s].vanished
        all.zero += growth[s].zero
        all.nothing += growth[s].nothing
        all.negative += growth[s].negative
    if not (all.amplified or all.vanished or all.zero):
        return None
    return RunGrowth(
        amplified=all.amplified, vanished=all.vanished, zero=all.zero, nothing=all.nothing, negative=all.negative,
        largest=all.largest, largest_sample=all.largest_at,
        smallest=all.smallest if all.vanished else INFINITY, smallest_sample=all.smallest_at,
        first_zero=all.zero_at,
    )
