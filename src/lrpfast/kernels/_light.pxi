# The light operations: one or a few passes over buffers. Each kernel is registered by its operation's name.


cdef inline Span span_of(const Code* code, const Operation* op, const Batch* batch) noexcept nogil:
    """The values of the output that a kernel computes each by itself: all, or those of the batch's part."""
    return part_of(op, batch, batch.samples * code.size[op.writes[0]], 16)


cdef void evaluate_some(const Code* code, const Operation* op, Py_ssize_t n, const real* x, real* out) noexcept nogil:
    """An elementwise function of some values, in vectors where there is one as accurate."""
    cdef Py_ssize_t j
    if code.kernels.function(op.function, op.p[0], n, x, out):
        return
    for j in range(n):
        out[j] = <real>evaluate(op.function, x[j], op.p)


cdef int activate(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef Span span = span_of(code, op, batch)
    cdef Py_ssize_t size = code.size[op.reads[0]], n = span.count, j
    cdef const real* x = <const real*>batch.base[op.reads[0]] + span.first
    cdef const real* slopes = <const real*>op.values
    cdef real* out = <real*>batch.base[op.writes[0]] + span.first
    cdef double slope
    if op.function == SOFTMAX:
        if x != out:
            memcpy(out, x, n * sizeof(real))
        for j from 0 <= j < n by op.columns:
            code.kernels.softmax(op.columns, out + j, NULL, 0)
    elif op.function == LOG_SOFTMAX:
        for j from 0 <= j < n by op.columns:
            log_softmax(x + j, op.columns, out + j)
    elif op.function == PRELU:
        for j in range(n):
            out[j] = <real>leak(x[j], slopes[(span.first + j) % size])
    elif op.function == RELU and isinf(op.p[0]) and op.p[1] == 0 and op.p[2] == 0:
        code.kernels.relu(n, x, out)
    elif op.function == RELU and op.p[0] >= 0 and op.p[1] == 0 and op.p[2] == 0:
        limit(x, n, <real>0, <real>op.p[0], out)
    elif op.function == RELU:
        for j in range(n):
            out[j] = <real>rectify(x[j], op.p)
    elif op.function == LEAKY_RELU:
        slope = op.p[0]
        for j in range(n):
            out[j] = <real>leak(x[j], slope)
    elif op.function == CLIP:
        limit(x, n, <real>op.p[0], <real>op.p[1], out)
    else:
        for j from 0 <= j < n by SOME:
            if lrpfast_stopped(SOME * LIGHT):
                return STOPPED
            evaluate_some(code, op, min(<Py_ssize_t>SOME, n - j), x + j, out + j)
    return FINE if code.kernels.finite(n, out) else NOT_FINITE

register("activate", activate[float], activate[double], EACH_VALUE)


cdef int activate_back(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef Span span = span_of(code, op, batch)
    cdef Py_ssize_t size = code.size[op.writes[0]], n = span.count, j
    cdef const real* x = <const real*>batch.base[op.reads[0]] + span.first
    cdef const real* relevance = <const real*>batch.base[op.reads[1]] + span.first
    cdef const real* slopes = <const real*>op.values
    cdef real* out = <real*>batch.base[op.writes[0]] + span.first
    cdef double p
    if op.function == PRELU:
        for j in range(n):
            p = slopes[(span.first + j) % size]
            out[j] = <real>(relevance[j] * slope_of(PRELU, x[j], &p))
    elif op.function == RELU:
        for j in range(n):
            out[j] = <real>(relevance[j] * rectify_slope(x[j], op.p))
    else:
        for j in range(n):
            if j % SOME == 0 and lrpfast_stopped(SOME * LIGHT):
                return STOPPED
            out[j] = <real>(relevance[j] * slope_of(op.function, x[j], op.p))
    return FINE

register("activate_back", activate_back[float], activate_back[double], EACH_VALUE)


cdef int softmax_back(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef Py_ssize_t n = batch.samples * code.size[op.writes[0]], at, j
    cdef const real* x = <const real*>batch.base[op.reads[0]] if op.reads[0] >= 0 else NULL
    cdef const real* y = <const real*>batch.base[op.reads[1]]
    cdef const real* relevance = <const real*>batch.base[op.reads[2]]
    cdef real* out = <real*>batch.base[op.writes[0]]
    cdef double total
    for at from 0 <= at < n by op.columns:
        total = 0
        for j in range(at, at + op.columns):
            total += relevance[j]
        for j in range(at, at + op.columns):
            out[j] = <real>((x[j] if x != NULL else 1) * (relevance[j] - y[j] * total))
    return FINE

register("softmax_back", softmax_back[float], softmax_back[double], NO_SCRATCH)


cdef int mask_nan(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef const real* x = <const real*>batch.base[op.reads[0]]
    cdef real* clean = <real*>batch.base[op.writes[0]]
    cdef real* present = <real*>batch.base[op.writes[1]]
    cdef Py_ssize_t j
    for j in range(batch.samples * code.size[op.reads[0]]):
        present[j] = 0 if isnan(<double>x[j]) else 1
        clean[j] = 0 if isnan(<double>x[j]) else x[j]
    return FINE

register("mask_nan", mask_nan[float], mask_nan[double], NO_SCRATCH)


cdef int scale(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef Py_ssize_t size = code.size[op.reads[0]], i, j
    cdef const real* x = <const real*>batch.base[op.reads[0]]
    cdef const real* values = <const real*>op.values
    cdef real* out = <real*>batch.base[op.writes[0]]
    for i in range(batch.samples):
        for j in range(size):
            out[j] = x[j] * values[j]
        x += size
        out += size
    return FINE

register("scale", scale[float], scale[double], NO_SCRATCH)


cdef int restore_nan(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef const real* present = <const real*>batch.base[op.reads[0]]
    cdef real* out = <real*>batch.base[op.writes[0]]
    cdef Py_ssize_t j
    for j in range(batch.samples * code.size[op.writes[0]]):
        if present[j] == 0:
            out[j] = <real>NAN
    return FINE

register("restore_nan", restore_nan[float], restore_nan[double], NO_SCRATCH)


cdef inline void copy_first(const Operation* op, const Batch* batch, Span span, real* out) noexcept nogil:
    """The first of any number of sources into the output, which it may be."""
    cdef const real* x = <const real*>batch.base[op.sources[0]] + span.first
    if x != out:
        memcpy(out, x, span.count * sizeof(real))


cdef int accumulate_sources(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef Span span = span_of(code, op, batch)
    cdef real* out = <real*>batch.base[op.writes[0]] + span.first
    cdef int i
    copy_first(op, batch, span, out)
    for i in range(1, op.sources_count):
        code.kernels.add(span.count, <const real*>batch.base[op.sources[i]] + span.first, out)
    return FINE

register("accumulate", accumulate_sources[float], accumulate_sources[double], EACH_VALUE)


cdef int multiply_op(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef Span span = span_of(code, op, batch)
    cdef Py_ssize_t j
    cdef real* out = <real*>batch.base[op.writes[0]] + span.first
    cdef const real* x
    cdef int i
    copy_first(op, batch, span, out)
    for i in range(1, op.sources_count):
        x = <const real*>batch.base[op.sources[i]] + span.first
        for j in range(span.count):
            out[j] = out[j] * x[j]
    return FINE

register("multiply_op", multiply_op[float], multiply_op[double], EACH_VALUE)


cdef int extremum(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef Span span = span_of(code, op, batch)
    cdef Py_ssize_t j
    cdef real* out = <real*>batch.base[op.writes[0]] + span.first
    cdef real* winner = NULL
    cdef const real* x
    cdef int i, better
    copy_first(op, batch, span, out)
    if op.writes[1] >= 0:
        winner = <real*>batch.base[op.writes[1]] + span.first
        memset(winner, 0, span.count * sizeof(real))
    for i in range(1, op.sources_count):
        x = <const real*>batch.base[op.sources[i]] + span.first
        for j in range(span.count):
            better = x[j] > out[j] if op.flag > 0 else x[j] < out[j]
            out[j] = x[j] if better else out[j]
            if winner != NULL:
                winner[j] = i if better else winner[j]
    return FINE

register("extremum", extremum[float], extremum[double], EACH_VALUE)


cdef int select(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef Span span = span_of(code, op, batch)
    cdef const real* relevance = <const real*>batch.base[op.reads[0]] + span.first
    cdef const real* winner = <const real*>batch.base[op.reads[1]] + span.first
    cdef real* out = <real*>batch.base[op.writes[0]] + span.first
    cdef real number = op.flag
    cdef Py_ssize_t j
    for j in range(span.count):
        out[j] = relevance[j] if winner[j] == number else 0
    return FINE

register("select", select[float], select[double], EACH_VALUE)


cdef int copy(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef Span span = span_of(code, op, batch)
    memcpy(<real*>batch.base[op.writes[0]] + span.first, <const real*>batch.base[op.reads[0]] + span.first,
           span.count * sizeof(real))
    return FINE

register("copy", copy[float], copy[double], EACH_VALUE)


cdef int gather(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef Py_ssize_t size = code.size[op.reads[0]], out_size = code.size[op.writes[0]], i, j
    cdef const real* x = <const real*>batch.base[op.reads[0]]
    cdef real* out = <real*>batch.base[op.writes[0]]
    for i in range(batch.samples):
        if op.run > 1:
            for j from 0 <= j < out_size by op.run:
                if op.index[j] >= 0:
                    memcpy(out + j, x + op.index[j], op.run * sizeof(real))
                else:
                    memset(out + j, 0, op.run * sizeof(real))
        else:
            for j in range(out_size):
                out[j] = x[op.index[j]] if op.index[j] >= 0 else 0
        x += size
        out += out_size
    return FINE

register("gather", gather[float], gather[double], NO_SCRATCH)


cdef int scatter(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef Py_ssize_t size = code.size[op.reads[0]], out_size = code.size[op.writes[0]], i, j
    cdef const real* x = <const real*>batch.base[op.reads[0]]
    cdef real* out = <real*>batch.base[op.writes[0]]
    memset(out, 0, batch.samples * out_size * sizeof(real))
    for i in range(batch.samples):
        if op.run > 1:
            for j from 0 <= j < size by op.run:
                if op.index[j] >= 0:
                    code.kernels.add(op.run, x + j, out + op.index[j])
        else:
            for j in range(size):
                if op.index[j] >= 0:
                    out[op.index[j]] += x[j]
        x += size
        out += out_size
    return FINE

register("scatter", scatter[float], scatter[double], NO_SCRATCH)


cdef int strided(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef Py_ssize_t size = code.size[op.reads[0]], out_size = code.size[op.writes[0]], i, j
    cdef const real* x = <const real*>batch.base[op.reads[0]] + op.source_offset
    cdef real* out = <real*>batch.base[op.writes[0]] + op.out_offset
    for i in range(batch.samples):
        for j in range(op.count):
            memcpy(out + j * op.out_step, x + j * op.source_step, op.run * sizeof(real))
        x += size
        out += out_size
    return FINE

register("strided", strided[float], strided[double], NO_SCRATCH)


cdef int normalize(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef const real* x = <const real*>batch.base[op.reads[0]]
    cdef real* out = <real*>batch.base[op.writes[0]]
    cdef Py_ssize_t i
    for i in range(batch.samples * code.size[op.reads[0]] // op.columns):
        code.kernels.normalize(op.columns, x, op.values, op.more_values, op.p[0], op.flag, op.length, out)
        x += op.columns
        out += op.columns
    return FINE

register("normalize", normalize[float], normalize[double], NO_SCRATCH)


cdef int normalize_back(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef const real* x = <const real*>batch.base[op.reads[0]]
    cdef const real* s = <const real*>batch.base[op.reads[1]]
    cdef real* out = <real*>batch.base[op.writes[0]]
    cdef Py_ssize_t i
    for i in range(batch.samples * code.size[op.reads[0]] // op.columns):
        code.kernels.normalize_back(op.columns, x, s, op.values, op.p[0], op.flag, op.length, op.detached, op.count,
                                    out)
        x += op.columns
        s += op.columns
        out += op.columns
    return FINE

register("normalize_back", normalize_back[float], normalize_back[double], NO_SCRATCH)


cdef int local_normalize(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef const real* x = <const real*>batch.base[op.reads[0]]
    cdef real* out = <real*>batch.base[op.writes[0]]
    cdef double total                           # p: alpha / size, beta, k
    cdef Py_ssize_t i, j, c
    for i in range(batch.samples * code.size[op.reads[0]] // op.columns):
        for c in range(op.columns):
            total = 0
            for j in range(max(0, c - op.run // 2), min(op.columns, c + (op.run - 1) // 2 + 1)):
                total += <double>x[j] * x[j]
            out[c] = <real>(x[c] / pow(op.p[2] + op.p[0] * total, op.p[1]))
        x += op.columns
        out += op.columns
    return FINE

register("local_normalize", local_normalize[float], local_normalize[double], NO_SCRATCH)


cdef int lookup(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    """Returns a fault where an index is not in the table."""
    cdef const real* x = <const real*>batch.base[op.reads[0]]
    cdef const real* table = <const real*>op.values
    cdef real* out = <real*>batch.base[op.writes[0]]
    cdef Py_ssize_t i
    for i in range(batch.samples * code.size[op.reads[0]]):
        if not (x[i] >= 0 and x[i] < op.count):
            return INPUT_OUT_OF_RANGE
        memcpy(out + i * op.columns, table + <Py_ssize_t>x[i] * op.columns, op.columns * sizeof(real))
    return FINE

register("lookup", lookup[float], lookup[double], NO_SCRATCH)


cdef int sum_channels(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef const real* x = <const real*>batch.base[op.reads[0]]
    cdef real* out = <real*>batch.base[op.writes[0]]
    cdef real total
    cdef Py_ssize_t i, c
    for i in range(batch.samples * code.size[op.writes[0]]):
        total = 0
        for c in range(op.columns):
            total = total + x[i * op.columns + c]
        out[i] = total
    return FINE

register("sum_channels", sum_channels[float], sum_channels[double], NO_SCRATCH)


cdef int share_remainder(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef const real* relevance = <const real*>batch.base[op.reads[0]]
    cdef const real* x = <const real*>batch.base[op.reads[1]]
    cdef real* out = <real*>batch.base[op.writes[0]]
    cdef double total
    cdef Py_ssize_t i, j
    for i in range(batch.samples * code.size[op.writes[0]] // op.columns):
        total = 0
        for j in range(op.n):
            total += relevance[j]
        for j in range(op.columns):
            total -= x[j]
        for j in range(op.columns):
            out[j] = <real>(x[j] + total / op.columns)
        relevance += op.n
        x += op.columns
        out += op.columns
    return FINE

register("share_remainder", share_remainder[float], share_remainder[double], NO_SCRATCH)


cdef enum:
    RECTIFIED = 1               # flags of init_relevance
    UNIT = 2


cdef inline real start_value(real y, int flag) noexcept nogil:
    """Where relevance starts at an output: its value, max(y, 0), or 1 for gradients."""
    if flag == UNIT:
        return 1
    return 0 if flag == RECTIFIED and y < 0 else y


cdef int init_relevance(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    """The starting relevance of some samples for one of their targets."""
    cdef const Job* job = batch.job
    cdef Py_ssize_t size = code.size[op.reads[0]], low = job.window_first, high = low + job.window_size, i, j, at
    cdef const real* y
    cdef real* out
    for i in range(batch.samples):
        y = <const real*>batch.base[op.reads[0]] + i * size
        out = <real*>batch.base[op.writes[0]] + i * size
        if job.mode == ARRAY:
            at = (batch.first + i) * (job.targets_count if job.passes == NULL else 1) + batch.target
            memcpy(out, <const real*>job.start + at * size, size * sizeof(real))
            continue
        memset(out, 0, size * sizeof(real))
        if job.mode == ALL:
            for j in range(low, high):
                out[j] = start_value(y[j], op.flag)
            continue
        if job.mode == PAIR:
            out[job.targets[0]] = 1 if op.flag == UNIT else y[job.targets[0]]
            out[job.targets[1]] = -1 if op.flag == UNIT else -y[job.targets[1]]
            continue
        at = low
        if job.mode == INDEX:
            at = job.targets[(batch.first + i) * job.target_step + batch.target]
        else:  # MAX: the first of the largest
            for j in range(low + 1, high):
                if y[j] > y[at]:
                    at = j
        out[at] = start_value(y[at], op.flag)
    if job.judged:
        note_starts(op, batch, <real*>NULL)
    return FINE

register("init_relevance", init_relevance[float], init_relevance[double], NO_SCRATCH)


cdef inline void mask_some(Py_ssize_t n, const unsigned char* mask, const real* r, real* out) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        out[j] = r[j] if mask[j] else 0


cdef int mask_relevance(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    """Relevance where the mask of the pass lets it through; the mask is repeated over each sample's values."""
    cdef Span span = span_of(code, op, batch)
    cdef const real* r = <const real*>batch.base[op.reads[0]]
    cdef real* out = <real*>batch.base[op.writes[0]]
    cdef Py_ssize_t size = batch.mask_size, at = span.first, end = span.first + span.count, j, count
    while at < end:
        j = at % size
        count = min(size - j, end - at)
        mask_some(count, batch.mask + j, r + at, out + at)
        at += count
    return FINE

register("mask_relevance", mask_relevance[float], mask_relevance[double], EACH_VALUE)


cdef int divide(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef Span span = span_of(code, op, batch)
    cdef Py_ssize_t size = span.count, at
    cdef const real* z
    if op.values != NULL:  # sample by sample
        size = min(size, code.size[op.writes[0]])
    for at from span.first <= at < span.first + span.count by size:
        z = <const real*>op.values + at % code.size[op.writes[0]]
        if op.values == NULL:
            z = <const real*>batch.base[op.reads[1]] + at
        code.kernels.divide(size, <const real*>batch.base[op.reads[0]] + at, z, op.p[0], op.stabilizer, op.flag,
                            <const real*>batch.base[op.reads[2]] + at if op.flag else NULL,
                            <real*>batch.base[op.writes[0]] + at)
    return FINE

register("divide", divide[float], divide[double], EACH_VALUE)


cdef int divide_by_sign(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef Span span = span_of(code, op, batch)
    cdef real* at[6]
    cdef int i
    for i in range(6):
        at[i] = <real*>batch.base[op.reads[i] if i < 4 else op.writes[i - 4]] + span.first
    code.kernels.divide_by_sign(span.count, at[0], at[1], at[2], at[3], op.p[0], op.stabilizer, at[4], at[5])
    return FINE

register("divide_by_sign", divide_by_sign[float], divide_by_sign[double], EACH_VALUE)
