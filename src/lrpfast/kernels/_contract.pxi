# Contractions: packed weights, sums over blocks of k, and what becomes of each finished row.


cdef void pack(const Code* code, const Operation* op, const real* w, long depth, long columns,
               real* out) noexcept nogil:
    """w, shape (depth, columns), as blocks of DEPTH rows, then panels, padded with zeros."""
    cdef long step = op.lanes * op.panel
    cdef long k0, kc, n0, width, padded, k, j
    for k0 from 0 <= k0 < depth by DEPTH:
        kc = min(<long>DEPTH, depth - k0)
        for n0 from 0 <= n0 < columns by step:
            width = min(step, columns - n0)
            padded = ceil_to(width, op.lanes)
            for k in range(kc):
                k_load(code, width, w + (k0 + k) * columns + n0, 0, op.tf32, out)
                for j in range(width, padded):
                    out[j] = 0
                out += padded


cdef inline int conclude_outputs(const Code* code, const Operation* op, char** base, long row, long at, long nc,
                                 const real* sums) noexcept nogil:
    """Every output of a contraction from one row's sums, columns ``at`` to at + nc; returns whether all are finite."""
    cdef int o, a, fine = 1
    cdef const Output* output
    cdef const real* sums_of_row[MAX_SUMS]
    cdef const real* constant
    cdef real* out
    for a in range(op.sums):
        # before a ReLU can hide it
        sums_of_row[a] = sums + a * ROWS * COLUMNS
        fine &= k_finite(code, nc, sums_of_row[a])
    for o in range(op.outputs_count):
        output = &op.outputs[o]
        out = <real*>base[output.buffer] + row * op.width + at
        constant = <const real*>output.constant
        if constant != NULL:
            constant += at + (row % op.rows * op.width if output.per_row else 0)
        k_combine(code, nc, op.sums, sums_of_row, output.coefficients, constant, output.relu, out)
        fine &= k_finite(code, nc, out)
    return fine


cdef inline int conclude_shares(const Code* code, const Operation* op, char** base, long row, long at, long nc,
                                const real* sums) noexcept nogil:
    """A redistribution's output from one row's sums, perhaps divided; returns 0 if it is checked and not finite."""
    cdef long place = row * op.width + at, place_of_row = row % op.rows * op.width + at
    cdef int h
    cdef const Share* share
    cdef const Divide* divide = &op.divide
    cdef const real* bound
    cdef const real* z
    cdef real* out = <real*>base[op.writes[0]] + place
    for h in range(op.shares_count):
        share = &op.shares[h]
        bound = <const real*>share.bound
        if share.step:
            bound += place_of_row
        k_share(code, nc, h == 0, share.coefficient, share.part, sums + share.accumulator * ROWS * COLUMNS,
                <const real*>base[op.reads[0]] + place, bound, share.step, op.tf32, out)
    if op.divides:
        if divide.z >= 0:
            z = <const real*>base[divide.z] + place
        else:
            z = <const real*>divide.z_constant + place_of_row
        k_divide(code, nc, out, z, divide, <const real*>base[divide.mask_z] + place if divide.mask else NULL, out)
    return k_finite(code, nc, out) if op.check else 1


cdef inline int conclude(const Code* code, const Operation* op, char** base, long row, long at, long nc,
                         const real* sums) noexcept nogil:
    if op.kind == CONTRACT:
        return conclude_outputs(code, op, base, row, at, nc, sums)
    return conclude_shares(code, op, base, row, at, nc, sums)


cdef void clear(const Operation* op, int begun, long rows, long nc, real* sums) noexcept nogil:
    """Zero the accumulators that nothing was added to."""
    cdef long i
    cdef int a
    for a in range(op.sums):
        if not (begun >> a) & 1:
            for i in range(rows):
                memset(sums + (a * ROWS + i) * COLUMNS, 0, nc * sizeof(real))


# Without geometry: a source's rows are the matrix.

cdef int accumulate(const Code* code, const Operation* op, char** base, long m0, long rows, long n0, long nc,
                    real* sums, real* loaded) noexcept nogil:
    """Every accumulator of a contraction for some rows and columns: sums[a] has shape (ROWS, COLUMNS).

    Returns 0 if the input was to be inspected on its way and is not finite, else 1.
    """
    cdef long padded = ceil_to(op.columns, op.lanes)
    cdef long width = min(ceil_to(nc, op.lanes), padded - n0)
    cdef long k0, kc, i, lda
    cdef int t, begun = 0, fine = 1
    cdef const Term* term
    cdef const real* x
    cdef const real* a
    if op.deep and rows <= FEW:
        for i in range(rows if op.inspect else 0):
            fine &= k_finite(code, op.depth, <const real*>base[0] + (m0 + i) * op.depth)
        for t in range(op.terms_count):
            term = &op.terms[t]
            k_deep(op, rows, op.depth, <const real*>base[term.source] + m0 * op.depth, <const real*>term.weights[0],
                   sums + term.accumulator * ROWS * COLUMNS)
        return fine
    for k0 from 0 <= k0 < op.depth by DEPTH:
        kc = min(<long>DEPTH, op.depth - k0)
        if op.inspect and n0 == 0:
            for i in range(rows):
                fine &= k_finite(code, kc, <const real*>base[0] + (m0 + i) * op.depth + k0)
        for t in range(op.terms_count):
            term = &op.terms[t]
            x = <const real*>base[term.source] + m0 * op.depth + k0
            a, lda = x, op.depth
            if term.part or op.tf32:
                for i in range(rows):
                    k_load(code, kc, x + i * op.depth, term.part, op.tf32, loaded + i * DEPTH)
                a, lda = loaded, DEPTH
            k_block(op, rows, kc, a, lda, <const real*>term.weights[0] + k0 * padded + kc * n0, width,
                    sums + term.accumulator * ROWS * COLUMNS, COLUMNS, (begun >> term.accumulator) & 1)
            begun |= 1 << term.accumulator
    return fine


cdef int contract_rows(const Code* code, const Operation* op, char** base, long samples,
                       real* sums, real* loaded) noexcept nogil:
    cdef long total = samples * op.rows, m0, rows, n0, nc, i
    cdef int fine = 1
    for m0 from 0 <= m0 < total by op.pass_rows:
        rows = min(op.pass_rows, total - m0)
        for n0 from 0 <= n0 < op.columns by COLUMNS:
            nc = min(<long>COLUMNS, op.columns - n0)
            if not accumulate(code, op, base, m0, rows, n0, nc, sums, loaded):
                return INPUT_NOT_FINITE
            for i in range(rows):
                fine &= conclude(code, op, base, m0 + i, n0, nc, sums + i * COLUMNS)
    return FINE if fine else NOT_FINITE


cdef int redistribute_shallow(const Code* code, const Operation* op, char** base, long samples,
                              real* unused) noexcept nogil:
    cdef const Share* share = &op.shares[0]
    cdef const Share* second = &op.shares[op.shares_count - 1]
    cdef int fine = k_shallow(
        code, op.shallow, samples * op.rows, op.depth, <const real*>base[op.terms[0].source], op.depth,
        <const real*>op.terms[0].weights[0], <const real*>op.terms[op.terms_count - 1].weights[0], op.columns,
        <const real*>base[op.reads[0]], (<const real*>share.bound)[0] if op.shallow == 3 else 0,
        (<const real*>second.bound)[0] if op.shallow == 3 else 0, <real*>base[op.writes[0]], op.columns)
    return FINE if fine or not op.check else NOT_FINITE


# With a geometry: rows of the matrix are gathered, a block of k at a time.

cdef inline void split(const Region* region, long row, long* place) noexcept nogil:
    """A region's row as places on its axes."""
    place[2] = row % region.axes[2].count
    row //= region.axes[2].count
    place[1] = row % region.axes[1].count
    place[0] = row // region.axes[1].count


cdef inline long out_row(const Geometry* geometry, const Region* region, long m) noexcept nogil:
    """Where row m lies in the output; a region's rows run over samples."""
    cdef long place[3]
    cdef const Axis* axis = &region.axes[0]
    split(region, m % region.rows, place)
    return ((m // region.rows * geometry.out[0] + axis[0].positions[place[0]]) * geometry.out[1]
            + axis[1].positions[place[1]]) * geometry.out[2] + axis[2].positions[place[2]]


cdef void locate(const Geometry* geometry, const Region* region, long m0, long rows, int64_t* sources) noexcept nogil:
    """The source row of every (row, tap), -1 outside."""
    cdef long place[3]
    cdef const int64_t* index[3]
    cdef const Axis* axis
    cdef long m, i, j, k, first, at
    cdef int d
    for m in range(m0, m0 + rows):
        split(region, m % region.rows, place)
        for d in range(3):
            index[d] = region.axes[d].index + place[d] * region.axes[d].taps
        first = m // region.rows * geometry.source_rows
        for i in range(region.axes[0].taps):
            for j in range(region.axes[1].taps):
                at = first + (index[0][i] * geometry.source[1] + index[1][j]) * geometry.source[2]
                if index[0][i] < 0 or index[1][j] < 0:
                    at = -1
                for k in range(region.axes[2].taps):
                    sources[k] = at + index[2][k] if at >= 0 and index[2][k] >= 0 else -1
                sources += region.axes[2].taps


cdef void accumulate_gathered(const Code* code, const Operation* op, char** base, int r, long m0, long rows, long group,
                              long n0, long nc, real* sums, real* loaded, int64_t* sources,
                              const Geometry** located) noexcept nogil:
    """As `accumulate`, for some rows of a region; ``located`` is the geometry that ``sources`` holds the rows of."""
    cdef long padded = ceil_to(op.columns, op.lanes)
    cdef long width = min(ceil_to(nc, op.lanes), padded - n0)
    cdef long k0, kc, depth
    cdef int t = 0, u, begun = 0
    cdef const Term* term
    cdef const Region* region
    cdef const real* x
    while t < op.terms_count:
        term = &op.terms[t]
        region = &term.geometry.regions[r]
        depth = region.taps * term.channels
        if depth and located[0] != term.geometry:
            locate(term.geometry, region, m0, rows, sources)
            located[0] = term.geometry
        x = <const real*>base[term.source] + group * term.channels
        for k0 from 0 <= k0 < depth by DEPTH:
            kc = min(<long>DEPTH, depth - k0)
            k_gather(code, rows, sources, region.taps, term.channels, op.groups * term.channels, x, k0, kc,
                     term.part, op.tf32, loaded)
            for u in range(t, t + term.together):
                k_block(op, rows, kc, loaded, DEPTH,
                        <const real*>op.terms[u].weights[r] + (group * depth + k0) * padded + kc * n0, width,
                        sums + op.terms[u].accumulator * ROWS * COLUMNS, COLUMNS,
                        (begun >> op.terms[u].accumulator) & 1)
                begun |= 1 << op.terms[u].accumulator
        t += term.together
    clear(op, begun, rows, nc, sums)


cdef int contract_regions(const Code* code, const Operation* op, char** base, long samples,
                          real* sums, real* loaded) noexcept nogil:
    cdef long total, m0, rows, group, n0, nc, i
    cdef long out_rows[ROWS]
    cdef int r, fine = 1
    cdef const Region* region
    cdef const Geometry* located
    for r in range(op.geometry.regions_count):
        region = &op.geometry.regions[r]
        total = samples * region.rows
        for m0 from 0 <= m0 < total by ROWS:
            rows = min(<long>ROWS, total - m0)
            for i in range(rows):
                out_rows[i] = out_row(op.geometry, region, m0 + i)
            located = NULL
            for group in range(op.groups):
                for n0 from 0 <= n0 < op.columns by COLUMNS:
                    nc = min(<long>COLUMNS, op.columns - n0)
                    accumulate_gathered(code, op, base, r, m0, rows, group, n0, nc, sums, loaded,
                                        <int64_t*>(sums + code.sums), &located)
                    for i in range(rows):
                        fine &= conclude(code, op, base, out_rows[i], group * op.columns + n0, nc, sums + i * COLUMNS)
    return FINE if fine else NOT_FINITE


# Channel by channel: a row at a time, its sums in registers.

cdef struct Lanes:  # some taps of a term: their values, weights and factors
    int count
    void* x[DEPTH]
    void* weights[DEPTH]


cdef inline void push(const Code* code, const Operation* op, const Term* term, int r, long row, long tap, double factor,
                      const real* source, long n0, long nc, Lanes* taps, real* factors, real* loaded) noexcept nogil:
    """Take a tap's values in source row ``row``."""
    cdef const real* x = source + row * op.width + n0
    cdef const real* w = <const real*>term.weights[r]
    if op.tf32:
        k_load(code, nc, x, term.part, 1, loaded)
        x = loaded
    taps.x[taps.count] = <void*>x
    taps.weights[taps.count] = <void*>(w + tap * op.width + n0)
    factors[taps.count] = <real>(factor * w[tap] if term.alike else factor)
    taps.count += 1


cdef inline void flush(const Code* code, const Term* term, long nc, Lanes* taps, const real* factors,
                       int* begun, real* sums) noexcept nogil:
    """Add the taps taken to their accumulator."""
    cdef int bit = 1 << term.accumulator
    if taps.count:
        k_lane(code, nc, taps.count, term.part, <const real**>taps.x,
               NULL if term.alike else <const real**>taps.weights, factors, begun[0] & bit,
               sums + term.accumulator * ROWS * COLUMNS)
        begun[0] |= bit
        taps.count = 0


cdef void lanes(const Code* code, const Operation* op, const Term* term, const real* source, int r, long m,
                long n0, long nc, int* begun, real* sums, real* loaded) noexcept nogil:
    """Add a diagonal term's row m to its accumulator, DEPTH taps at a time."""
    cdef Lanes taps
    cdef real factors[DEPTH]
    cdef const Region* region
    cdef const Axis* a
    cdef const Axis* b
    cdef const Axis* c
    cdef long place[3]
    cdef long i, j, k, first, row, tap = 0
    cdef double factor
    taps.count = 0
    if term.geometry == NULL:
        push(code, op, term, r, m, 0, 1, source, n0, nc, &taps, factors, loaded)
        flush(code, term, nc, &taps, factors, begun, sums)
        return
    region = &term.geometry.regions[r]
    a = &region.axes[0]
    b = &region.axes[1]
    c = &region.axes[2]
    split(region, m % region.rows, place)
    first = m // region.rows * term.geometry.source[0]
    for i in range(place[0] * a.taps, (place[0] + 1) * a.taps):
        for j in range(place[1] * b.taps, (place[1] + 1) * b.taps):
            row = ((first + a.index[i]) * term.geometry.source[1] + b.index[j]) * term.geometry.source[2]
            for k in range(place[2] * c.taps, (place[2] + 1) * c.taps):
                if a.index[i] >= 0 and b.index[j] >= 0 and c.index[k] >= 0:
                    factor = a.factor[i] if a.factor != NULL else 1
                    if b.factor != NULL:
                        factor *= b.factor[j]
                    if c.factor != NULL:
                        factor *= c.factor[k]
                    push(code, op, term, r, row + c.index[k], tap, factor, source, n0, nc, &taps, factors, loaded)
                tap += 1
                if op.tf32 or tap % DEPTH == 0:
                    flush(code, term, nc, &taps, factors, begun, sums)
    flush(code, term, nc, &taps, factors, begun, sums)


cdef int contract_lanes(const Code* code, const Operation* op, char** base, long samples,
                        real* sums, real* loaded) noexcept nogil:
    cdef long rows, m, row, n0, nc
    cdef int r, t, begun, fine = 1
    cdef const Term* term
    for r in range(op.geometry.regions_count if op.geometry != NULL else 1):
        rows = op.geometry.regions[r].rows if op.geometry != NULL else op.rows
        for m in range(samples * rows):
            row = out_row(op.geometry, &op.geometry.regions[r], m) if op.geometry != NULL else m
            for n0 from 0 <= n0 < op.width by COLUMNS:
                nc = min(<long>COLUMNS, op.width - n0)
                begun = 0
                for t in range(op.terms_count):
                    term = &op.terms[t]
                    lanes(code, op, term, <const real*>base[term.source], r, m, n0, nc, &begun, sums, loaded)
                clear(op, begun, 1, nc, sums)
                fine &= conclude(code, op, base, row, n0, nc, sums)
    return FINE if fine else NOT_FINITE


cdef int contract(const Code* code, const Operation* op, char** base, long samples,
                  real* sums, real* loaded) noexcept nogil:
    """A contraction, forwards or backwards; returns a fault of what is checked, or FINE."""
    if op.shallow:
        return redistribute_shallow(code, op, base, samples, sums)
    if op.diagonal:
        return contract_lanes(code, op, base, samples, sums, loaded)
    if op.geometry != NULL:
        return contract_regions(code, op, base, samples, sums, loaded)
    return contract_rows(code, op, base, samples, sums, loaded)


# Products of two operands that both depend on the input: one is packed for every sample.

cdef void arrange(const Operation* op, const real* w, long row_step, long column_step, long depth, long columns,
                  real* out) noexcept nogil:
    """As `pack`, in one block; element (k, n) of w lies at k * row_step + n * column_step."""
    cdef long step = op.lanes * op.panel
    cdef long n0, width, padded, k, j
    for n0 from 0 <= n0 < columns by step:
        width = min(step, columns - n0)
        padded = ceil_to(width, op.lanes)
        for k in range(depth):
            for j in range(width):
                out[j] = w[k * row_step + (n0 + j) * column_step]
            for j in range(width, padded):
                out[j] = 0
            out += padded


cdef int product(const Code* code, const Operation* op, char** base, long samples, real* sums) noexcept nogil:
    """`Dot` and `DotBack`: (m, depth) times (depth, columns), each sum in one accumulator."""
    cdef int back = op.kind == DOT_BACK
    cdef long depth = op.n if back else op.k, padded = ceil_to(op.columns, op.lanes)
    cdef long s, i, j, m0, rows, n0, nc, at
    cdef const real* a
    cdef const real* b
    cdef const real* x
    cdef real* out
    cdef real* packed = sums + code.sums
    cdef real* turned = packed + depth * padded
    cdef real coefficient = <real>op.p[0]
    for s in range(samples):
        a = <const real*>base[op.reads[0]] + s * op.m * depth
        b = <const real*>base[op.reads[1]] + s * depth * op.columns
        out = <real*>base[op.writes[0]] + s * op.m * op.columns
        if back:
            arrange(op, b, op.columns, 1, depth, op.columns, packed)
        else:
            arrange(op, b, 1, depth, depth, op.columns, packed)
        if op.flag:
            for i in range(op.m):
                for j in range(depth):
                    turned[i * depth + j] = a[j * op.m + i]
            a = turned
        for m0 from 0 <= m0 < op.m by ROWS:
            rows = min(<long>ROWS, op.m - m0)
            for n0 from 0 <= n0 < op.columns by COLUMNS:
                nc = min(<long>COLUMNS, op.columns - n0)
                k_block(op, rows, depth, a + m0 * depth, depth, packed + n0 * depth,
                        min(ceil_to(nc, op.lanes), padded - n0), sums, COLUMNS, 0)
                for i in range(rows):
                    at = (m0 + i) * op.columns + n0
                    if not back:
                        memcpy(out + at, sums + i * COLUMNS, nc * sizeof(real))
                        continue
                    x = <const real*>base[op.reads[2]] + s * op.m * op.columns + at
                    for j in range(nc):
                        out[at + j] = coefficient * (x[j] * sums[i * COLUMNS + j])
    return FINE
