# The light operations: one or a few passes over buffers.


cdef inline double rectify(double x, const double* p) noexcept nogil:
    """relu: max_value, negative_slope, threshold."""
    cdef double t = x if x > p[2] else p[1] * (x - p[2])
    return p[0] if t > p[0] else t


cdef inline double leak(double x, double slope) noexcept nogil:
    return x if x > 0 else slope * x


cdef double evaluate(int function, double x, const double* p) noexcept nogil:
    """An elementwise activation function of one value, of those that `activate` has no loop for; p: its parameters."""
    cdef double t
    if function == 3:                                   # elu
        return x if x > 0 else p[0] * expm1(x)
    if function == 4:                                   # selu (Klambauer et al. 2017)
        return 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * expm1(x))
    if function == 5:                                   # gelu, exact or by tanh
        if p[0]:                                        # 1 + tanh(u) as 2 · sigmoid(2 u), and 1 + erf as
            return x * evaluate(8, 1.5957691216057308 * (x + 0.044715 * x * x * x), p)
        return 0.5 * x * erfc(x * -0.7071067811865476)  # erfc: no digits lost far below zero
    if function == 6:                                   # silu
        return x * evaluate(8, x, p)
    if function == 7:
        return tanh(x)
    if function == 8:                                   # sigmoid
        t = exp(-fabs(x))
        return 1 / (1 + t) if x >= 0 else t / (1 + t)
    if function == 9:                                   # hard_sigmoid: slope, offset
        t = p[0] * x + p[1]
        return 0 if t < 0 else 1 if t > 1 else t
    if function == 10:                                  # softplus
        return (x if x > 0 else 0) + log1p(exp(-fabs(x)))
    if function == 11:                                  # softsign
        return x / (1 + fabs(x))
    if function == 12:
        return exp(x)
    if function == 13:                                  # mish
        return x * tanh(evaluate(10, x, p))
    if function == 15:                                  # celu
        return x if x > 0 else p[0] * expm1(x / p[0])
    if function == 16:                                  # shrink: threshold, shift
        return x + p[1] if x < -p[0] else x - p[1] if x > p[0] else 0
    if function == 17:                                  # log_sigmoid
        return -evaluate(10, -x, p)
    if function == 18:                                  # power
        return pow(x, p[0])
    return x if x > 3 else x * (x + 3) / 6 if x > -3 else 0  # hard_silu


cdef inline double rectify_slope(double x, const double* p) noexcept nogil:
    cdef double t = x if x > p[2] else p[1] * (x - p[2])
    return 0 if t > p[0] else 1 if x > p[2] else p[1]


cdef double slope_of(int function, double x, const double* p) noexcept nogil:
    """An activation function's derivative, from the left at a kink; `slope` has a loop for ReLU."""
    cdef double t, u
    if function == 1 or function == 2:                  # leaky_relu, prelu
        return 1 if x > 0 else p[0]
    if function == 3:
        return 1 if x > 0 else p[0] * exp(x)
    if function == 4:
        return 1.0507009873554805 * (1 if x > 0 else 1.6732632423543772 * exp(x))
    if function == 5 and p[0]:
        u = 1.5957691216057308 * (x + 0.044715 * x * x * x)
        t = evaluate(8, u, p)
        u = t * evaluate(8, -u, p)
        return t + (x * u * 1.5957691216057308 * (1 + 0.134145 * x * x) if u > 0 else 0)
    if function == 5:
        return 0.5 * erfc(x * -0.7071067811865476) + 0.3989422804014327 * x * exp(-0.5 * x * x)
    if function == 6:
        return evaluate(8, x, p) * (1 + x * evaluate(8, -x, p))
    if function == 7:
        t = 1 / cosh(x)
        return t * t
    if function == 8:
        return evaluate(8, x, p) * evaluate(8, -x, p)
    if function == 9:
        t = p[0] * x + p[1]
        return p[0] if t > 0 and t <= 1 else 0
    if function == 10:
        return evaluate(8, x, p)
    if function == 11:
        return 1 / ((1 + fabs(x)) * (1 + fabs(x)))
    if function == 12:
        return exp(x)
    if function == 13:
        t = evaluate(10, x, p)
        u = 1 / cosh(t)
        return tanh(t) + x * (u * u) * evaluate(8, x, p)
    if function == 14:                                  # clip: low, high
        return 1 if x > p[0] and x <= p[1] else 0
    if function == 15:
        return 1 if x > 0 else exp(x / p[0])
    if function == 16:
        return 0 if x > -p[0] and x <= p[0] else 1
    if function == 17:
        return evaluate(8, -x, p)
    if function == 18:
        return p[0] * pow(x, p[0] - 1)
    return 1 if x > 3 else x / 3 + 0.5 if x > -3 else 0


cdef void softmax(const real* x, Py_ssize_t n, int logarithm, real* out) noexcept nogil:
    cdef Py_ssize_t j
    cdef double top = x[0], total = 0
    for j in range(1, n):
        top = max(top, <double>x[j])
    for j in range(n):
        total += exp(x[j] - top)
    if logarithm:
        total = log(total)
        for j in range(n):
            out[j] = <real>((x[j] - top) - total)
        return
    for j in range(n):
        out[j] = <real>(exp(x[j] - top) / total)


cdef void limit(const real* x, Py_ssize_t n, real low, real high, real* out) noexcept nogil:
    """min(max(x, low), high), without branches that the processor would have to guess."""
    cdef Py_ssize_t j
    cdef real v
    for j in range(n):
        v = x[j]
        v = low if v < low else v
        out[j] = high if v > high else v


cdef int activate(const Code* code, const Operation* op, char** base, Py_ssize_t samples, real* unused) noexcept nogil:
    cdef Py_ssize_t size = code.size[op.reads[0]], n = samples * size, j
    cdef const real* x = <const real*>base[op.reads[0]]
    cdef const real* slopes = <const real*>op.values
    cdef real* out = <real*>base[op.writes[0]]
    cdef double slope
    if op.function >= 20:                               # softmax, log_softmax
        for j from 0 <= j < n by op.columns:
            softmax(x + j, op.columns, op.function == 21, out + j)
    elif op.function == 2:
        for j in range(n):
            out[j] = <real>leak(x[j], slopes[j % size])
    elif op.function == 0 and isinf(op.p[0]) and op.p[1] == 0 and op.p[2] == 0:
        k_relu(code, n, x, out)
    elif op.function == 0 and op.p[0] >= 0 and op.p[1] == 0 and op.p[2] == 0:
        limit(x, n, <real>0, <real>op.p[0], out)
    elif op.function == 0:
        for j in range(n):
            out[j] = <real>rectify(x[j], op.p)
    elif op.function == 1:
        slope = op.p[0]
        for j in range(n):
            out[j] = <real>leak(x[j], slope)
    elif op.function == 14:
        limit(x, n, <real>op.p[0], <real>op.p[1], out)
    else:
        for j in range(n):
            if j % SOME == 0 and lrpfast_stopped(SOME * LIGHT):
                return STOPPED
            out[j] = <real>evaluate(op.function, x[j], op.p)
    return FINE if k_finite(code, n, out) else NOT_FINITE


cdef void slope(const Code* code, const Operation* op, char** base, Py_ssize_t samples, real* unused) noexcept nogil:
    cdef Py_ssize_t size = code.size[op.writes[0]], n = samples * size, j
    cdef const real* x = <const real*>base[op.reads[0]]
    cdef const real* relevance = <const real*>base[op.reads[1]]
    cdef const real* slopes = <const real*>op.values
    cdef real* out = <real*>base[op.writes[0]]
    cdef double p
    if op.function == 2:
        for j in range(n):
            p = slopes[j % size]
            out[j] = <real>(relevance[j] * slope_of(2, x[j], &p))
    elif op.function == 0:
        for j in range(n):
            out[j] = <real>(relevance[j] * rectify_slope(x[j], op.p))
    else:
        for j in range(n):
            if j % SOME == 0 and lrpfast_stopped(SOME * LIGHT):
                return
            out[j] = <real>(relevance[j] * slope_of(op.function, x[j], op.p))


cdef void softmax_back(const Code* code, const Operation* op, char** base, Py_ssize_t samples,
                       real* unused) noexcept nogil:
    cdef Py_ssize_t n = samples * code.size[op.writes[0]], at, j
    cdef const real* x = <const real*>base[op.reads[0]] if op.reads[0] >= 0 else NULL
    cdef const real* y = <const real*>base[op.reads[1]]
    cdef const real* relevance = <const real*>base[op.reads[2]]
    cdef real* out = <real*>base[op.writes[0]]
    cdef double total
    for at from 0 <= at < n by op.columns:
        total = 0
        for j in range(at, at + op.columns):
            total += relevance[j]
        for j in range(at, at + op.columns):
            out[j] = <real>((x[j] if x != NULL else 1) * (relevance[j] - y[j] * total))


cdef void unmask(const Code* code, const Operation* op, char** base, Py_ssize_t samples, real* unused) noexcept nogil:
    cdef const real* x = <const real*>base[op.reads[0]]
    cdef real* clean = <real*>base[op.writes[0]]
    cdef real* present = <real*>base[op.writes[1]]
    cdef Py_ssize_t j
    for j in range(samples * code.size[op.reads[0]]):
        present[j] = 0 if isnan(<double>x[j]) else 1
        clean[j] = 0 if isnan(<double>x[j]) else x[j]


cdef void scale(const Code* code, const Operation* op, char** base, Py_ssize_t samples, real* unused) noexcept nogil:
    cdef Py_ssize_t size = code.size[op.reads[0]], j
    cdef const real* x = <const real*>base[op.reads[0]]
    cdef const real* values = <const real*>op.values
    cdef real* out = <real*>base[op.writes[0]]
    for j in range(samples * size):
        out[j] = x[j] * values[j % size]


cdef void remask(const Code* code, const Operation* op, char** base, Py_ssize_t samples, real* unused) noexcept nogil:
    cdef const real* present = <const real*>base[op.reads[0]]
    cdef real* out = <real*>base[op.writes[0]]
    cdef Py_ssize_t j
    for j in range(samples * code.size[op.writes[0]]):
        if present[j] == 0:
            out[j] = <real>NAN


cdef void combine_sources(const Code* code, const Operation* op, char** base, Py_ssize_t samples,
                          real* unused) noexcept nogil:
    """`Accumulate`, `Multiply` and `Extremum`: source by source into the output."""
    cdef Py_ssize_t n = samples * code.size[op.writes[0]], j
    cdef real* out = <real*>base[op.writes[0]]
    cdef real* winner = NULL
    cdef const real* x = <const real*>base[op.sources[0]]
    cdef int i, better
    if x != out:
        memcpy(out, x, n * sizeof(real))
    if op.kind == EXTREMUM and op.writes[1] >= 0:
        winner = <real*>base[op.writes[1]]
        memset(winner, 0, n * sizeof(real))
    for i in range(1, op.sources_count):
        x = <const real*>base[op.sources[i]]
        if op.kind == ACCUMULATE:
            k_add(code, n, x, out)
        elif op.kind == MULTIPLY:
            for j in range(n):
                out[j] = out[j] * x[j]
        else:
            for j in range(n):
                better = x[j] > out[j] if op.flag > 0 else x[j] < out[j]
                out[j] = x[j] if better else out[j]
                if winner != NULL:
                    winner[j] = i if better else winner[j]


cdef void select(const Code* code, const Operation* op, char** base, Py_ssize_t samples, real* unused) noexcept nogil:
    cdef const real* relevance = <const real*>base[op.reads[0]]
    cdef const real* winner = <const real*>base[op.reads[1]]
    cdef real* out = <real*>base[op.writes[0]]
    cdef real place = op.flag
    cdef Py_ssize_t j
    for j in range(samples * code.size[op.writes[0]]):
        out[j] = relevance[j] if winner[j] == place else 0


cdef void move(const Code* code, const Operation* op, char** base, Py_ssize_t samples, real* unused) noexcept nogil:
    """`Gather`, `Scatter` and `Strided`."""
    cdef Py_ssize_t size = code.size[op.reads[0]], out_size = code.size[op.writes[0]], i, j
    cdef const real* x = <const real*>base[op.reads[0]]
    cdef real* out = <real*>base[op.writes[0]]
    for i in range(samples):
        if op.kind == GATHER:
            for j in range(out_size):
                out[j] = x[op.index[j]] if op.index[j] >= 0 else 0
        elif op.kind == SCATTER:
            memset(out, 0, out_size * sizeof(real))
            for j in range(size):
                if op.index[j] >= 0:
                    out[op.index[j]] += x[j]
        else:
            for j in range(op.run_count):
                memcpy(out + op.out_offset + j * op.out_step, x + op.source_offset + j * op.source_step,
                       op.run_length * sizeof(real))
        x += size
        out += out_size


cdef void pool(const Code* code, const Operation* op, char** base, Py_ssize_t samples, real* sums) noexcept nogil:
    cdef const Region* region = &op.geometry.regions[0]
    cdef int64_t* sources = <int64_t*>(sums + code.sums)
    cdef const real* x
    cdef real* out
    cdef real* winner
    cdef Py_ssize_t m, row, tap, c
    cdef int begun
    cdef Place p = place_of(region, 0)
    for m in range(samples * region.rows):
        locate(op.geometry, region, m, 1, sources)
        row = (p.sample * region.rows + row_at(op.geometry, region, &p)) * op.columns
        next_place(region, &p)
        out = <real*>base[op.writes[0]] + row
        winner = <real*>base[op.writes[1]] + row if op.writes[1] >= 0 else <real*>(sources + region.taps)
        begun = 0
        for tap in range(region.taps):
            if sources[tap] < 0:
                continue
            x = <const real*>base[op.reads[0]] + sources[tap] * op.columns
            if begun:
                k_largest(code, op.columns, x, tap, out, winner)
                continue
            begun = 1
            for c in range(op.columns):
                out[c] = x[c]
                winner[c] = tap
        if not begun:
            for c in range(op.columns):
                out[c] = 0
                winner[c] = -1


cdef void unpool(const Code* code, const Operation* op, char** base, Py_ssize_t samples, real* sums) noexcept nogil:
    cdef const Region* region = &op.geometry.regions[0]
    cdef int64_t* sources = <int64_t*>(sums + code.sums)
    cdef real* out = <real*>base[op.writes[0]]
    cdef Py_ssize_t m, row, tap
    cdef Place p = place_of(region, 0)
    memset(out, 0, samples * code.size[op.writes[0]] * sizeof(real))
    for m in range(samples * region.rows):
        locate(op.geometry, region, m, 1, sources)
        row = (p.sample * region.rows + row_at(op.geometry, region, &p)) * op.columns
        next_place(region, &p)
        for tap in range(region.taps):
            if sources[tap] >= 0:
                k_won(code, op.columns, <const real*>base[op.reads[0]] + row, <const real*>base[op.reads[1]] + row,
                      tap, out + sources[tap] * op.columns)


cdef void statistics(const Operation* op, const real* x, double* mean, double* sigma) noexcept nogil:
    """What a normalization subtracts from some values and divides them by."""
    cdef double total = 0
    cdef Py_ssize_t j
    mean[0] = 0
    if op.flag:
        for j in range(op.columns):
            total += x[j]
        mean[0] = total / op.columns
    total = 0
    for j in range(op.columns):
        total += (x[j] - mean[0]) * (x[j] - mean[0])
    sigma[0] = sqrt((total if op.length else total / op.columns) + op.p[0])


cdef void normalize(const Code* code, const Operation* op, char** base, Py_ssize_t samples,
                    real* unused) noexcept nogil:
    cdef const real* x = <const real*>base[op.reads[0]]
    cdef const real* gamma = <const real*>op.values
    cdef const real* beta = <const real*>op.more_values
    cdef real* out = <real*>base[op.writes[0]]
    cdef double mean, sigma, scale
    cdef Py_ssize_t i, j
    for i in range(samples * code.size[op.reads[0]] // op.columns):
        statistics(op, x, &mean, &sigma)
        for j in range(op.columns):
            scale = gamma[j] if gamma != NULL else 1
            out[j] = <real>((x[j] - mean) / sigma * scale + (beta[j] if beta != NULL else 0))
        x += op.columns
        out += op.columns


cdef void normalize_back(const Code* code, const Operation* op, char** base, Py_ssize_t samples,
                         real* unused) noexcept nogil:
    cdef const real* x = <const real*>base[op.reads[0]]
    cdef const real* s = <const real*>base[op.reads[1]]
    cdef const real* gamma = <const real*>op.values
    cdef real* out = <real*>base[op.writes[0]]
    cdef double mean, sigma, t, total, along
    cdef Py_ssize_t i, j
    for i in range(samples * code.size[op.reads[0]] // op.columns):
        statistics(op, x, &mean, &sigma)
        total = along = 0
        for j in range(op.columns):
            t = <double>s[j] * (gamma[j] if gamma != NULL else 1)
            total += t
            along += t * ((x[j] - mean) / sigma)
        total = total / op.columns if op.flag else 0
        along = 0 if op.detached else along if op.length else along / op.columns
        for j in range(op.columns):
            t = <double>s[j] * (gamma[j] if gamma != NULL else 1)
            out[j] = <real>(x[j] * ((t - total - (x[j] - mean) / sigma * along) / sigma))
        x += op.columns
        s += op.columns
        out += op.columns


cdef void local_normalize(const Code* code, const Operation* op, char** base, Py_ssize_t samples,
                          real* unused) noexcept nogil:
    cdef const real* x = <const real*>base[op.reads[0]]
    cdef real* out = <real*>base[op.writes[0]]
    cdef double total                           # p: alpha / size, beta, k
    cdef Py_ssize_t i, j, c
    for i in range(samples * code.size[op.reads[0]] // op.columns):
        for c in range(op.columns):
            total = 0
            for j in range(max(0, c - op.run_length // 2), min(op.columns, c + (op.run_length - 1) // 2 + 1)):
                total += <double>x[j] * x[j]
            out[c] = <real>(x[c] / pow(op.p[2] + op.p[0] * total, op.p[1]))
        x += op.columns
        out += op.columns


cdef int lookup(const Code* code, const Operation* op, char** base, Py_ssize_t samples, real* unused) noexcept nogil:
    """Returns a fault where an index is not in the table."""
    cdef const real* x = <const real*>base[op.reads[0]]
    cdef const real* table = <const real*>op.values
    cdef real* out = <real*>base[op.writes[0]]
    cdef Py_ssize_t i
    for i in range(samples * code.size[op.reads[0]]):
        if not (x[i] >= 0 and x[i] < op.rows):
            return INPUT_OUT_OF_RANGE
        memcpy(out + i * op.columns, table + <Py_ssize_t>x[i] * op.columns, op.columns * sizeof(real))
    return FINE


cdef void add_channels(const Code* code, const Operation* op, char** base, Py_ssize_t samples,
                       real* unused) noexcept nogil:
    cdef const real* x = <const real*>base[op.reads[0]]
    cdef real* out = <real*>base[op.writes[0]]
    cdef real total
    cdef Py_ssize_t i, c
    for i in range(samples * code.size[op.writes[0]]):
        total = 0
        for c in range(op.columns):
            total = total + x[i * op.columns + c]
        out[i] = total


cdef void begin(const Job* job, const Operation* op, char** base, Py_ssize_t first, Py_ssize_t samples, int which,
                real* unused) noexcept nogil:
    """The starting relevance of some samples for the which-th target."""
    cdef const Code* code = job.code
    cdef Py_ssize_t size = code.size[op.reads[0]], low = job.window_first, high = low + job.window_size, i, j, at
    cdef const real* y
    cdef real* out
    for i in range(samples):
        y = <const real*>base[op.reads[0]] + i * size
        out = <real*>base[op.writes[0]] + i * size
        if job.mode == START_ARRAY:
            memcpy(out, <const real*>job.start + (first + i) * size, size * sizeof(real))
            continue
        memset(out, 0, size * sizeof(real))
        if job.mode == START_ALL:
            for j in range(low, high):
                out[j] = 0 if op.flag and y[j] < 0 else y[j]
            continue
        if job.mode == START_PAIR:
            out[job.targets[0]] = y[job.targets[0]]
            out[job.targets[1]] = -y[job.targets[1]]
            continue
        at = low
        if job.mode == START_MAX:
            for j in range(low + 1, high):
                if y[j] > y[at]:
                    at = j
        else:
            at = job.targets[(first + i) * job.target_step + which]
        out[at] = 0 if op.flag and y[at] < 0 else y[at]
