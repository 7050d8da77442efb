# Softmax over the keys that are seen, and attention: blocks of queries against all keys, so that weights of only one
# block exist at a time. Blocks have a fixed size and are added in order.


cdef int masked_softmax(const Code* code, const Operation* op, const Batch* batch, real* unused) noexcept nogil:
    cdef Py_ssize_t n = batch.samples * code.size[op.writes[0]], at, j
    cdef const real* x = <const real*>batch.base[op.reads[0]]
    cdef const real* mask = <const real*>batch.base[op.reads[1]] if op.flag else NULL
    cdef const real* seen = <const real*>op.values
    cdef real* out = <real*>batch.base[op.writes[0]]
    cdef const real* here = NULL
    for at from 0 <= at < n by op.columns:
        if seen != NULL:
            here = seen + at % code.size[op.writes[0]] % op.run
        for j in range(op.columns):
            out[at + j] = x[at + j]
            if (here != NULL and here[j] == 0) or (mask != NULL and mask[at + j] == 0):
                out[at + j] = <real>(-INFINITY)
        code.kernels.softmax(op.columns, out + at, NULL, 0)
    return FINE

register("masked_softmax", masked_softmax[float], masked_softmax[double], NO_SCRATCH)


cdef struct Heads:      # an attention's shapes, and where its blocks lie in scratch memory
    Py_ssize_t lead, heads, kv_heads, n, m, d, e
    Py_ssize_t group                    # heads that share keys and values
    Py_ssize_t before, after
    const int64_t* seen_steps
    const int64_t* bias_steps
    const int64_t* mask_steps
    Py_ssize_t keys, wide_d, wide_e     # m, d and e rounded up to whole vectors


cdef struct Place:      # a block of queries of one head
    Py_ssize_t at, lead, sample, shared, head, i0, rows
    Py_ssize_t mask_size    # of a sample


cdef inline Heads heads_of(const lrpfast_kernels* kernels, const Operation* op) noexcept nogil:
    cdef Heads h
    cdef const int64_t* numbers = op.index
    h.lead, h.heads, h.kv_heads, h.n, h.m, h.d, h.e = (
        numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6])
    h.group, h.before, h.after = h.heads // h.kv_heads, numbers[7], numbers[8]
    h.seen_steps, h.bias_steps, h.mask_steps = numbers + 9, numbers + 13, numbers + 17
    h.keys, h.wide_d, h.wide_e = (
        ceil_to(h.m, kernels.lanes), ceil_to(h.d, kernels.lanes), ceil_to(h.e, kernels.lanes))
    return h


cdef Py_ssize_t attention_scratch(const lrpfast_kernels* kernels, const Operation* op) noexcept:
    """Values: keys and values packed, their sums, four blocks of queries by keys, two of channels."""
    cdef Heads h = heads_of(kernels, op)
    cdef Py_ssize_t wide = max(h.wide_d, h.wide_e)
    return 2 * (h.d + h.e) * h.keys + h.m * (h.wide_d + h.wide_e) + 4 * ROWS * h.keys + ROWS * (ROWS + wide)


cdef int product(const lrpfast_kernels* kernels, Py_ssize_t rows, Py_ssize_t depth, const real* a, Py_ssize_t step,
                 const real* packed, Py_ssize_t columns, real* out, int accumulate) noexcept nogil:
    """(rows, depth), rows ``step`` apart, times a packed matrix; columns fill whole vectors."""
    cdef const real* pointers[ROWS]
    cdef Py_ssize_t i
    for i in range(rows):
        pointers[i] = a + i * step
    if lrpfast_stopped(<double>rows * columns * depth):
        return STOPPED
    kernels.block(rows, 1, &depth, <const void**>pointers, packed, columns, out, columns, accumulate)
    return FINE


cdef void score_row(const Code* code, const Operation* op, const Heads* h, const Batch* batch, const Place* p,
                    Py_ssize_t i, const real* z, real* x) noexcept nogil:
    """What the softmax takes of a query's products with all keys; -inf of a key that it does not see."""
    cdef const real* seen = <const real*>op.more_values
    cdef const real* bias = <const real*>op.values
    cdef const real* mask = NULL
    cdef real cap = <real>op.p[1]
    cdef Py_ssize_t j, step
    code.kernels.scaled(h.m, z, op.p[0], x)
    if cap != 0:
        for j in range(h.m):
            x[j] = <real>(cap * tanh(<double>(x[j] / cap)))
    if bias != NULL:
        bias += p.lead * h.bias_steps[0] + p.head * h.bias_steps[1] + i * h.bias_steps[2]
        step = h.bias_steps[3]
        for j in range(h.m):
            x[j] = x[j] + bias[j * step]
    if seen != NULL:
        seen += p.lead * h.seen_steps[0] + p.head * h.seen_steps[1] + i * h.seen_steps[2]
        step = h.seen_steps[3]
        for j in range(h.m):
            x[j] = x[j] if seen[j * step] != 0 else <real>(-INFINITY)
    if op.flag:
        mask = <const real*>batch.base[op.reads[3]] + p.sample * p.mask_size
        mask += p.lead * h.mask_steps[0] + p.head * h.mask_steps[1] + i * h.mask_steps[2]
        step = h.mask_steps[3]
        for j in range(h.m):
            x[j] = x[j] if mask[j * step] != 0 else <real>(-INFINITY)
    if h.before >= 0:
        for j in range(min(h.m, max(0, i - h.before))):
            x[j] = <real>(-INFINITY)
    if h.after >= 0:
        for j in range(i + h.after + 1, h.m):
            x[j] = <real>(-INFINITY)
    for j in range(h.m, h.keys):  # so that the softmax has whole vectors
        x[j] = <real>(-INFINITY)


cdef int block_forward(const Code* code, const Operation* op, const Batch* batch, const Heads* h, const Place* p,
                       real* keys) noexcept nogil:
    """A block of queries against all keys; keys and values are packed."""
    cdef Py_ssize_t first_query = p.at * h.n + p.i0, i
    cdef real* values = keys + h.d * h.keys
    cdef real* weights = values + h.m * h.wide_e
    cdef real* products = weights + ROWS * h.keys
    cdef real* out = <real*>batch.base[op.writes[0]] + (first_query * h.heads + p.head) * h.e
    cdef real* rows = NULL
    if op.writes[1] >= 0:
        rows = <real*>batch.base[op.writes[1]] + 2 * ((p.at * h.heads + p.head) * h.n + p.i0)
    if product(code.kernels, p.rows, h.d, <const real*>batch.base[op.reads[0]] + (first_query * h.heads + p.head) * h.d,
               h.heads * h.d, keys, h.keys, weights, 0):
        return STOPPED
    for i in range(p.rows):
        score_row(code, op, h, batch, p, p.i0 + i, weights + i * h.keys, weights + i * h.keys)
        code.kernels.softmax(h.keys, weights + i * h.keys, rows + 2 * i if rows != NULL else NULL, 0)
    if product(code.kernels, p.rows, h.m, weights, h.keys, values, h.wide_e, products, 0):
        return STOPPED
    for i in range(p.rows):
        memcpy(out + i * h.heads * h.e, products + i * h.wide_e, h.e * sizeof(real))
    return FINE


cdef int attention_op(const Code* code, const Operation* op, const Batch* batch, real* sums) noexcept nogil:
    cdef Heads h = heads_of(code.kernels, op)
    cdef Place p
    cdef Py_ssize_t at, shared, head, i0
    cdef real* keys = sums + code.sums
    cdef const real* k
    cdef const real* v
    p.mask_size = code.size[op.reads[3]] if op.flag else 0
    for at in range(batch.samples * h.lead):
        p.at, p.sample, p.lead = at, at // h.lead, at % h.lead
        for shared in range(h.kv_heads):
            if batch.part >= 0 and batch.part != p.lead * h.kv_heads + shared:
                continue
            p.shared = shared
            k = <const real*>batch.base[op.reads[1]] + (p.at * h.m * h.kv_heads + p.shared) * h.d
            v = <const real*>batch.base[op.reads[2]] + (p.at * h.m * h.kv_heads + p.shared) * h.e
            code.kernels.pack(h.d, h.m, k, 1, h.kv_heads * h.d, 0, 0, keys)
            code.kernels.pack(h.m, h.e, v, h.kv_heads * h.e, 1, 0, 0, keys + h.d * h.keys)
            for head in range(p.shared * h.group, (p.shared + 1) * h.group):
                p.head = head
                for i0 from 0 <= i0 < h.n by ROWS:
                    p.i0, p.rows = i0, min(<Py_ssize_t>ROWS, h.n - i0)
                    if block_forward(code, op, batch, &h, &p, keys):
                        return STOPPED
    return FINE

register("attention_op", attention_op[float], attention_op[double], ATTENTION)


cdef void score_relevance(const Code* code, const Operation* op, const Heads* h, const Place* p, Py_ssize_t i,
                          const real* z, const real* weights, real total, real* s) noexcept nogil:
    """s of a query's products z with all keys, in place of s vᵀ; weights get half the weights times that.

    With x = scale z, capped, and the bias b: R_x = x (R_a − a Σ R_a), of which x − b keep their part, and s = R_z / z.
    Where denominators are as they are, they cancel: s is a factor times z over z, also in the limit of z = 0.
    """
    cdef const real* bias = <const real*>op.values
    cdef real scale = <real>op.p[0], cap = <real>op.p[1], of_product = <real>op.p[2], of_sum = <real>op.p[3]
    cdef real half = <real>0.5, x, y, r
    cdef Py_ssize_t j, sum, step = 0
    cdef int kind = op.stabilizer, zero = kind == ZERO
    if zero and cap == 0:
        code.kernels.score_back(h.m, weights, total, op.p[0], s)
        return
    if bias != NULL:
        bias += p.lead * h.bias_steps[0] + p.head * h.bias_steps[1] + i * h.bias_steps[2]
        step = h.bias_steps[3]
    for j in range(h.m):
        r = weights[j] * (half * s[j] - total)  # R_x / x
        x = scale * z[j]
        if cap != 0:
            x = <real>(cap * tanh(<double>(x / cap)))
        if zero:
            s[j] = (x / z[j] if z[j] != 0 else scale) * r
            continue
        y = x if bias == NULL else x + bias[j * step]
        r = y * r
        for sum in range(op.count, 0, -1):
            r = (y if sum > 1 else x) * (r / stabilized(y, of_sum, kind))
        s[j] = r / stabilized(z[j], of_product, kind)


cdef inline real stabilized(real z, real value, int kind) noexcept nogil:
    if kind == ZERO:
        return value if z == 0 else z
    return z - value if kind == SIGN and z < 0 else z + value


cdef int add_to_keys(const lrpfast_kernels* kernels, const real* by_query, const Heads* h, Py_ssize_t rows,
                     const real* x, Py_ssize_t channels, Py_ssize_t step, real* packed, real* transposed, real* sums,
                     int first) noexcept nogil:
    """sums += xᵀ times by_query: (channels, keys), over a block of queries, whose rows of x are ``step`` apart."""
    cdef Py_ssize_t i, c, c0
    kernels.pack(rows, h.m, by_query, h.keys, 1, 0, 0, packed)
    for c0 from 0 <= c0 < channels by ROWS:
        for c in range(min(<Py_ssize_t>ROWS, channels - c0)):
            for i in range(rows):
                transposed[c * ROWS + i] = x[i * step + c0 + c]
        if product(kernels, min(<Py_ssize_t>ROWS, channels - c0), rows, transposed, ROWS, packed, h.keys,
                   sums + c0 * h.keys, not first):
            return STOPPED
    return FINE


cdef void keys_times_input(const real* sums, const Heads* h, const real* x, Py_ssize_t channels, Py_ssize_t step,
                           real factor, real* out) noexcept nogil:
    """out = factor · x ⊙ sumsᵀ of all keys; rows of x and out are ``step`` apart."""
    cdef Py_ssize_t j, c
    for j in range(h.m):
        for c in range(channels):
            out[j * step + c] = factor * (x[j * step + c] * sums[c * h.keys + j])


cdef void times_input(const real* sums, Py_ssize_t rows, Py_ssize_t wide, const real* x, Py_ssize_t channels,
                      Py_ssize_t step, real factor, real* out) noexcept nogil:
    """out = factor · x ⊙ sums; rows of x and out are ``step`` apart."""
    cdef Py_ssize_t i, c
    for i in range(rows):
        for c in range(channels):
            out[i * step + c] = factor * (x[i * step + c] * sums[i * wide + c])


cdef inline double along(const real* a, const real* b, Py_ssize_t n) noexcept nogil:
    cdef double total = 0
    cdef Py_ssize_t c
    for c in range(n):
        total += <double>a[c] * b[c]
    return total


# What the backward pass keeps in scratch memory: keys and values packed to multiply queries and s of the output, keys
# packed to multiply s of the scores; sums over queries for the keys and the values; blocks.

cdef int block_back(const Code* code, const Operation* op, const Batch* batch, const Heads* h, const Place* p,
                    real* keys, int first) noexcept nogil:
    """What a block of queries gives its own relevance, and adds to that of all keys and values."""
    cdef Py_ssize_t first_query = p.at * h.n + p.i0, i
    cdef Py_ssize_t of_q = (first_query * h.heads + p.head) * h.d, of_o = (first_query * h.heads + p.head) * h.e
    cdef real* values = keys + h.d * h.keys
    cdef real* packed_keys = values + h.e * h.keys
    cdef real* key_sums = packed_keys + h.m * h.wide_d
    cdef real* value_sums = key_sums + h.d * h.keys
    cdef real* scores = value_sums + h.e * h.keys
    cdef real* weights = scores + ROWS * h.keys
    cdef real* s_scores = weights + ROWS * h.keys
    cdef real* packed = s_scores + ROWS * h.keys
    cdef real* transposed = packed + ROWS * h.keys
    cdef real* products = transposed + ROWS * ROWS
    cdef const real* q = <const real*>batch.base[op.reads[0]] + of_q
    cdef const real* o = <const real*>batch.base[op.reads[5]] + of_o
    cdef const real* s = <const real*>batch.base[op.reads[6]] + of_o
    cdef real* rows = <real*>batch.base[op.reads[4]] + 2 * ((p.at * h.heads + p.head) * h.n + p.i0)
    if product(code.kernels, p.rows, h.d, q, h.heads * h.d, keys, h.keys, scores, 0):
        return STOPPED
    for i in range(p.rows):
        score_row(code, op, h, batch, p, p.i0 + i, scores + i * h.keys, weights + i * h.keys)
        code.kernels.softmax(h.keys, weights + i * h.keys, rows + 2 * i, 1)
    if add_to_keys(code.kernels, weights, h, p.rows, s, h.e, h.heads * h.e, packed, transposed, value_sums, first):
        return STOPPED
    if op.detached:
        return FINE
    if product(code.kernels, p.rows, h.e, s, h.heads * h.e, values, h.keys, s_scores, 0):
        return STOPPED
    for i in range(p.rows):
        score_relevance(code, op, h, p, p.i0 + i, scores + i * h.keys, weights + i * h.keys,
                        <real>(0.5 * along(s + i * h.heads * h.e, o + i * h.heads * h.e, h.e)), s_scores + i * h.keys)
    if product(code.kernels, p.rows, h.m, s_scores, h.keys, packed_keys, h.wide_d, products, 0):
        return STOPPED
    times_input(products, p.rows, h.wide_d, q, h.d, h.heads * h.d, <real>0.5, <real*>batch.base[op.writes[1]] + of_q)
    return add_to_keys(code.kernels, s_scores, h, p.rows, q, h.d, h.heads * h.d, packed, transposed, key_sums, first)


cdef int heads_back(const Code* code, const Operation* op, const Batch* batch, const Heads* h, Place* p,
                    real* keys) noexcept nogil:
    """The heads that share keys and values."""
    cdef Py_ssize_t of_k = (p.at * h.m * h.kv_heads + p.shared) * h.d, of_v = (p.at * h.m * h.kv_heads + p.shared) * h.e
    cdef real* values = keys + h.d * h.keys
    cdef real* packed_keys = values + h.e * h.keys
    cdef real* key_sums = packed_keys + h.m * h.wide_d
    cdef real* value_sums = key_sums + h.d * h.keys
    cdef const real* k = <const real*>batch.base[op.reads[1]] + of_k
    cdef const real* v = <const real*>batch.base[op.reads[2]] + of_v
    cdef Py_ssize_t head, i0
    cdef int first = 1
    code.kernels.pack(h.d, h.m, k, 1, h.kv_heads * h.d, 0, 0, keys)
    if not op.detached:
        code.kernels.pack(h.e, h.m, v, 1, h.kv_heads * h.e, 0, 0, values)
        code.kernels.pack(h.m, h.d, k, h.kv_heads * h.d, 1, 0, 0, packed_keys)
    for head in range(p.shared * h.group, (p.shared + 1) * h.group):
        p.head = head
        for i0 from 0 <= i0 < h.n by ROWS:
            p.i0, p.rows = i0, min(<Py_ssize_t>ROWS, h.n - i0)
            if block_back(code, op, batch, h, p, keys, first):
                return STOPPED
            first = 0
    keys_times_input(value_sums, h, v, h.e, h.kv_heads * h.e, <real>(1 if op.detached else 0.5),
                     <real*>batch.base[op.writes[0]] + of_v)
    if not op.detached:
        keys_times_input(key_sums, h, k, h.d, h.kv_heads * h.d, <real>0.5, <real*>batch.base[op.writes[2]] + of_k)
    return FINE


cdef int attention_back(const Code* code, const Operation* op, const Batch* batch, real* sums) noexcept nogil:
    cdef Heads h = heads_of(code.kernels, op)
    cdef Place p
    cdef Py_ssize_t at, shared
    p.mask_size = code.size[op.reads[3]] if op.flag else 0
    for at in range(batch.samples * h.lead):
        p.at, p.sample, p.lead = at, at // h.lead, at % h.lead
        for shared in range(h.kv_heads):
            if batch.part >= 0 and batch.part != p.lead * h.kv_heads + shared:
                continue
            p.shared = shared
            if heads_back(code, op, batch, &h, &p, sums + code.sums):
                return STOPPED
    return FINE

register("attention_back", attention_back[float], attention_back[double], ATTENTION)
