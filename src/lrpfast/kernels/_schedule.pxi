# How a batch is cut into micro-batches, and who takes what: each thread whole micro-batches, or all threads pieces of
# every operation of one.


cdef inline int run_kernel(const Code* code, const Operation* op, const Batch* batch, real* sums) noexcept nogil:
    if real is float:
        return op.run_f32(code, op, batch, sums)
    else:
        return op.run_f64(code, op, batch, sums)


cdef int step(const Code* code, const Operation* op, const Batch* batch, real* sums) noexcept nogil:
    """One operation on one micro-batch; returns a fault, or FINE."""
    cdef int fault = run_kernel(code, op, batch, sums)
    if op.checked >= 0 and not fault:
        if not code.kernels.finite(batch.samples * code.size[op.checked], batch.base[op.checked]):
            return NOT_FINITE
    if not fault and op.writes[0] >= 0 and lrpfast_stopped(batch.samples * LIGHT * <double>code.size[op.writes[0]]):
        return STOPPED
    return fault


cdef int examine(const Code* code, const real* x, Py_ssize_t n) noexcept nogil:
    """The first fault of the input, or FINE."""
    cdef Py_ssize_t j
    if code.allow_nan:
        for j in range(n):
            if isinf(<double>x[j]):
                return INPUT_NOT_FINITE
    elif not code.inspects and not code.kernels.finite(n, x):
        return INPUT_NOT_FINITE
    if code.ranged:
        for j in range(n):
            if x[j] < code.low or x[j] > code.high:
                return INPUT_OUT_OF_RANGE
    return FINE


cdef inline char** bases(const Job* job, int slot) noexcept nogil:
    """A thread's own table of buffers, at the end of its workspace."""
    return <char**>(job.workspace + (slot + 1) * job.workspace_bytes) - job.code.buffers


cdef void set_bases(const Batch* batch, char* buffers) noexcept nogil:
    """Where every buffer lies for a micro-batch."""
    cdef const Job* job = batch.job
    cdef const Code* code = job.code
    cdef Py_ssize_t b, itemsize = 8 if code.f64 else 4
    for b in range(code.buffers):
        if job.outside[b] != NULL:
            batch.base[b] = job.outside[b] + batch.first * code.size[b] * itemsize
        elif code.inner[b]:
            batch.base[b] = buffers + (code.width * job.micro_batch + code.offset[b] * job.stage_samples) * itemsize
        else:
            batch.base[b] = buffers + code.offset[b] * job.micro_batch * itemsize


cdef inline void next_target(Batch* batch, int target) noexcept nogil:
    """Go on to another target, whose relevance lies after those of all samples for the one before."""
    cdef const Code* code = batch.job.code
    batch.target = target
    if target:
        batch.base[code.result] += batch.job.samples * code.size[code.result] * (8 if code.f64 else 4)


cdef inline int64_t passes_of(const Batch* batch, int64_t* first) noexcept nogil:
    """How many passes a target takes, and which is the first."""
    cdef const Job* job = batch.job
    if job.passes == NULL:
        first[0] = 0
        return 1
    first[0] = job.passes_first[batch.target]
    return job.passes_first[batch.target + 1] - first[0]


cdef inline int begin_pass(Batch* batch, int64_t which, int* count) noexcept nogil:
    """Take a pass's mask; the first of its operations, and how many they are."""
    cdef const Job* job = batch.job
    cdef const Code* code = job.code
    cdef const int64_t* record
    cdef int64_t segment = 0
    if job.passes != NULL:
        record = job.passes + 3 * which
        segment, batch.mask, batch.mask_size = record[0], job.masks + record[1], record[2]
    count[0] = code.segments[segment + 1] - code.segments[segment]
    return code.segments[segment]


cdef void note_fault(const Job* job, int slot, int fault, Py_ssize_t first) noexcept nogil:
    if fault and (not job.fault[slot] or first < job.fault_at[slot]):
        job.fault[slot] = fault
        job.fault_at[slot] = first


# Per sample: every thread takes whole micro-batches, each through the whole program.

cdef int run_stage(const Code* code, const Batch* batch, int first, real* sums) noexcept nogil:
    """Operations one after the other for some samples, then for the next: what they leave is in the cache still."""
    cdef Batch some = batch[0]
    cdef const Operation* op = &code.operations[first]
    cdef Py_ssize_t b, after = batch.first + batch.samples
    cdef int t, fault
    while some.first < after:
        some.samples = min(op.stage_samples, after - some.first)
        for t in range(first, op.stage_end):
            fault = step(code, &code.operations[t], &some, sums)
            if fault:
                return fault
        some.first += some.samples
        for b in range(code.buffers):  # what the stage alone uses stays where it is
            if not code.inner[b]:
                some.base[b] += some.samples * code.size[b] * <Py_ssize_t>sizeof(real)
    for b in range(code.buffers):
        if not code.inner[b]:
            some.base[b] -= batch.samples * code.size[b] * <Py_ssize_t>sizeof(real)
    return FINE


cdef int run_operations(const Code* code, const Batch* batch, int first, int count, real* sums) noexcept nogil:
    cdef const Operation* op
    cdef int t = first, fault
    while t < first + count:
        op = &code.operations[t]
        if 0 < op.stage_samples < batch.samples:
            fault = run_stage(code, batch, t, sums)
            t = op.stage_end
        else:
            fault = step(code, op, batch, sums)
            t += 1
        if fault:
            return fault
    return FINE


cdef void run_micro_batch(Job* job, Py_ssize_t index, int slot, real* unused) noexcept nogil:
    cdef const Code* code = job.code
    cdef real* sums = <real*>(job.workspace + slot * job.workspace_bytes)
    cdef Batch batch
    cdef int target, fault, begin, count = 0
    cdef int64_t which, first_pass = 0, passes
    batch.job, batch.base, batch.target, batch.part = job, bases(job, slot), 0, -1
    batch.first = index * job.samples // job.count
    batch.samples = (index + 1) * job.samples // job.count - batch.first
    set_bases(&batch, <char*>(sums + code.scratch))
    fault = examine(code, <const real*>batch.base[0], batch.samples * code.size[0])
    if not fault:
        fault = run_operations(code, &batch, 0, code.forward_count, sums)
    for target in range(job.targets_count):
        if fault:
            break
        next_target(&batch, target)
        passes = passes_of(&batch, &first_pass)
        for which in range(first_pass, first_pass + passes):
            begin = begin_pass(&batch, which, &count)
            fault = run_operations(code, &batch, begin, count, sums)
            if fault:
                break
        if job.judged and not fault:
            judge(&batch, slot, <real*>NULL)
    note_fault(job, slot, fault, batch.first)


cdef void micro_batch_f32(void* job, Py_ssize_t index, int slot) noexcept nogil:
    run_micro_batch(<Job*>job, index, slot, <float*>NULL)

cdef void micro_batch_f64(void* job, Py_ssize_t index, int slot) noexcept nogil:
    run_micro_batch(<Job*>job, index, slot, <double*>NULL)


# Cooperative: all threads share every operation of one micro-batch, for samples that are few or large.

cdef void team_piece(Team* team, Py_ssize_t index, int slot, real* unused) noexcept nogil:
    cdef const Job* job = team.batch.job
    cdef const Code* code = job.code
    cdef real* sums = <real*>(job.workspace + slot * job.workspace_bytes)
    cdef Batch sample
    cdef Py_ssize_t b
    cdef int fault
    if divisible(team.op):
        fault = contract_numbered(code, team.op, team.batch.base, team.batch.samples, index, team.columns, sums)
    else:
        sample = team.batch
        if team.op.parts > 1:
            sample.part = index % team.op.parts
            index //= team.op.parts
        sample.base, sample.first, sample.samples = bases(job, slot), team.batch.first + index, 1
        for b in range(code.buffers):
            sample.base[b] = team.batch.base[b] + index * code.size[b] * sizeof(real)
        if sample.part < 0:
            fault = step(code, team.op, &sample, sums)
        else:  # what it writes is checked when all parts are
            fault = run_kernel(code, team.op, &sample, sums)
    note_fault(job, slot, fault, team.batch.first)


cdef void piece_f32(void* team, Py_ssize_t index, int slot) noexcept nogil:
    team_piece(<Team*>team, index, slot, <float*>NULL)

cdef void piece_f64(void* team, Py_ssize_t index, int slot) noexcept nogil:
    team_piece(<Team*>team, index, slot, <double*>NULL)


cdef int share_operations(Team* team, int first, int count, int threads) noexcept nogil:
    """Operations by all threads, one after the other; returns the first fault that any thread noted, or FINE."""
    cdef const Job* job = team.batch.job
    cdef Py_ssize_t samples = team.batch.samples
    cdef int t, slot
    for t in range(first, first + count):
        team.op = &job.code.operations[t]
        team.columns = columns_of_piece(team.op, samples, threads)
        lrpfast_pool_run(piece_f64 if job.code.f64 else piece_f32, team, count_pieces(team.op, samples, team.columns),
                         threads)
        if team.op.parts > 1 and team.op.checked >= 0 and not job.code.kernels.finite(
                samples * job.code.size[team.op.checked], team.batch.base[team.op.checked]):
            note_fault(job, 0, NOT_FINITE, team.batch.first)
        for slot in range(threads):
            if job.fault[slot]:
                return job.fault[slot]
    return FINE


cdef void run_cooperative(Job* job, char** base, char* buffers, int threads) noexcept nogil:
    """The whole batch, a micro-batch after the other; stops at the first fault."""
    cdef const Code* code = job.code
    cdef Team team
    cdef Batch* batch = &team.batch
    cdef int target, fault, begin, count = 0
    cdef int64_t which, first_pass = 0, passes
    batch.job, batch.base, batch.first, batch.part = job, base, 0, -1
    while batch.first < job.samples:
        batch.samples, batch.target = min(job.micro_batch, job.samples - batch.first), 0
        set_bases(batch, buffers)
        if code.f64:
            fault = examine(code, <const double*>base[0], batch.samples * code.size[0])
        else:
            fault = examine(code, <const float*>base[0], batch.samples * code.size[0])
        note_fault(job, 0, fault, batch.first)
        if fault or share_operations(&team, 0, code.forward_count, threads):
            return
        for target in range(job.targets_count):
            next_target(batch, target)
            passes = passes_of(batch, &first_pass)
            for which in range(first_pass, first_pass + passes):
                begin = begin_pass(batch, which, &count)
                if share_operations(&team, begin, count, threads):
                    return
            if job.judged and code.f64:
                judge(batch, 0, <double*>NULL)
            elif job.judged:
                judge(batch, 0, <float*>NULL)
        batch.first += job.micro_batch
