# Contractions: sums over blocks of k, and what becomes of each finished row.
#
# A contraction is done in pieces of at most `pass_rows` rows and `pass_columns` columns, whose accumulators stay in
# the cache: accumulate (for every block of k, rows of the input meet packed weights), then finish (bias and ReLU, or
# times x and divided). Pieces are independent of each other, so that any thread may take any of them.
# A thread's scratch memory, from `sums` on: accumulators | tables | loaded input | packed weights, a block each.


cdef inline real* loaded_block(const Code* code, real* sums) noexcept nogil:
    return sums + code.sums + code.tables


cdef inline int finish(const Code* code, const Operation* op, char** base, Py_ssize_t rows, const Py_ssize_t* at,
                       const Py_ssize_t* place, Py_ssize_t n0, Py_ssize_t nc, const real* sums) noexcept nogil:
    """What finished sums become, for some rows and columns; returns 0 if it is checked and not finite."""
    cdef void* buffers[MAX_SUMS]
    cdef int i
    if op.kind == CONTRACT:
        for i in range(op.finish.outputs):
            buffers[i] = base[op.finish_buffers[i]]
        return k_outputs(code, op, buffers, rows, at, place, n0, nc, sums)
    for i in range(4):
        buffers[i] = base[op.finish_buffers[i]] if op.finish_buffers[i] >= 0 else NULL
    if op.finish.z_per_row:
        buffers[2] = <void*>op.z_constant
    i = k_shares(code, op, buffers, rows, at, place, n0, nc, sums)
    return i if op.check else 1


cdef void clear(const Operation* op, int begun, Py_ssize_t rows, Py_ssize_t nc, real* sums) noexcept nogil:
    """Zero the accumulators that nothing was added to."""
    cdef Py_ssize_t i
    cdef int a
    for a in range(op.sums):
        if not (begun >> a) & 1:
            for i in range(rows):
                memset(sums + a * op.plane + i * op.ld, 0, nc * sizeof(real))


# Without geometry: a source's rows are the matrix.

cdef int accumulate(const Code* code, const Operation* op, char** base, Py_ssize_t m0, Py_ssize_t rows, Py_ssize_t n0,
                    Py_ssize_t nc, real* sums) noexcept nogil:
    """Every accumulator of a contraction for some rows and columns.

    Returns 0 if the input was to be inspected on its way and is not finite, else 1.
    """
    cdef Py_ssize_t padded = ceil_to(op.columns, op.lanes)
    cdef Py_ssize_t width = min(ceil_to(nc, op.lanes), padded - n0)
    cdef real* loaded = loaded_block(code, sums)
    cdef real* packed = loaded + ROWS * DEPTH
    cdef const real* pointers[ROWS]
    cdef Py_ssize_t k0, kc, i, i0, count
    cdef int t, begun = 0, fine = 1
    cdef const Term* term
    cdef const real* x
    cdef const real* w
    if op.deep and rows <= FEW:
        for i in range(rows if op.inspect else 0):
            fine &= k_finite(code, op.depth, <const real*>base[0] + (m0 + i) * op.depth)
        for t in range(op.terms_count):
            term = &op.terms[t]
            k_deep(op, rows, <const real*>base[term.source] + m0 * op.depth, <const real*>term.weights[0],
                   sums + term.accumulator * op.plane)
        return fine
    for k0 from 0 <= k0 < op.depth by DEPTH:
        if k0 % (16 * DEPTH) == 0 and k0 and lrpfast_stopped(<double>rows * nc * 16 * DEPTH):
            return fine
        kc = min(<Py_ssize_t>DEPTH, op.depth - k0)
        if op.inspect and n0 == 0:
            for i in range(rows):
                fine &= k_finite(code, kc, <const real*>base[0] + (m0 + i) * op.depth + k0)
        for t in range(op.terms_count):
            term = &op.terms[t]
            if term.lazy:
                k_pack(op, kc, nc, <const real*>term.weights[0] + k0 * term.row_step + n0 * term.column_step,
                       term.row_step, term.column_step, term.sign, packed)
                w = packed
            else:
                w = <const real*>term.weights[0] + k0 * padded + kc * n0
            for i0 from 0 <= i0 < rows by ROWS:
                count = min(<Py_ssize_t>ROWS, rows - i0)
                x = <const real*>base[term.source] + (m0 + i0) * op.depth + k0
                if term.part or op.tf32:
                    for i in range(count):
                        k_load(code, kc, x + i * op.depth, term.part, op.tf32, loaded + i * DEPTH)
                        pointers[i] = loaded + i * DEPTH
                else:
                    for i in range(count):
                        pointers[i] = x + i * op.depth
                k_block(op, count, 1, &kc, pointers, w, width, sums + term.accumulator * op.plane + i0 * op.ld,
                        (begun >> term.accumulator) & 1)
            begun |= 1 << term.accumulator
    return fine


cdef int contract_rows(const Code* code, const Operation* op, char** base, Py_ssize_t m0, Py_ssize_t rows,
                       Py_ssize_t n0, Py_ssize_t nc, real* sums) noexcept nogil:
    """A piece of a contraction without geometry; returns a fault, or FINE."""
    cdef Py_ssize_t at[MOST_ROWS]
    cdef Py_ssize_t place[MOST_ROWS]
    cdef Py_ssize_t i, row = m0 % op.rows
    for i in range(rows):
        at[i] = (m0 + i) * op.width
        place[i] = row * op.width
        row = row + 1 if row + 1 < op.rows else 0
    if not accumulate(code, op, base, m0, rows, n0, nc, sums):
        return INPUT_NOT_FINITE
    return FINE if finish(code, op, base, rows, at, place, n0, nc, sums) else NOT_FINITE


cdef int redistribute_shallow(const Code* code, const Operation* op, char** base, Py_ssize_t samples,
                              real* unused) noexcept nogil:
    cdef const lrpfast_share* share = &op.finish.share[0]
    cdef const lrpfast_share* second = &op.finish.share[op.finish.shares - 1]
    cdef int fine = k_shallow(
        code, op.shallow, samples * op.rows, op.depth, <const real*>base[op.terms[0].source], op.depth,
        <const real*>op.terms[0].weights[0], <const real*>op.terms[op.terms_count - 1].weights[0], op.columns,
        <const real*>base[op.reads[0]], (<const real*>share.bound)[0] if op.shallow == 3 else 0,
        (<const real*>second.bound)[0] if op.shallow == 3 else 0, <real*>base[op.writes[0]], op.columns)
    return FINE if fine or not op.check else NOT_FINITE


# With a geometry: each row of the matrix is made of taps.

cdef struct Place:  # a row of a region: where it lies on the axes, and in which sample
    Py_ssize_t axis[3]
    Py_ssize_t sample


cdef inline Place place_of(const Region* region, Py_ssize_t m) noexcept nogil:
    cdef Place p
    p.sample = m // region.rows
    m -= p.sample * region.rows
    p.axis[0] = m // (region.axes[1].count * region.axes[2].count)
    m -= p.axis[0] * region.axes[1].count * region.axes[2].count
    p.axis[1] = m // region.axes[2].count
    p.axis[2] = m - p.axis[1] * region.axes[2].count
    return p


cdef inline void next_place(const Region* region, Place* p) noexcept nogil:
    p.axis[2] += 1
    if p.axis[2] == region.axes[2].count:
        p.axis[2] = 0
        p.axis[1] += 1
        if p.axis[1] == region.axes[1].count:
            p.axis[1] = 0
            p.axis[0] += 1
            if p.axis[0] == region.axes[0].count:
                p.axis[0] = 0
                p.sample += 1


cdef inline Py_ssize_t row_at(const Geometry* geometry, const Region* region, const Place* p) noexcept nogil:
    """A place's row among a sample's output rows."""
    return ((region.axes[0].positions[p.axis[0]] * geometry.out[1] + region.axes[1].positions[p.axis[1]])
            * geometry.out[2] + region.axes[2].positions[p.axis[2]])


cdef void locate(const Geometry* geometry, const Region* region, Py_ssize_t m0, Py_ssize_t rows,
                 int64_t* sources) noexcept nogil:
    """The source row of every (row, tap), -1 outside."""
    cdef const int64_t* index[3]
    cdef Place p = place_of(region, m0)
    cdef Py_ssize_t m, i, j, k, first, at
    cdef int d
    for m in range(rows):
        for d in range(3):
            index[d] = region.axes[d].index + p.axis[d] * region.axes[d].taps
        first = p.sample * geometry.source_rows
        for i in range(region.axes[0].taps):
            for j in range(region.axes[1].taps):
                if index[0][i] < 0 or index[1][j] < 0:
                    for k in range(region.axes[2].taps):
                        sources[k] = -1
                else:
                    at = first + (index[0][i] * geometry.source[1] + index[1][j]) * geometry.source[2]
                    for k in range(region.axes[2].taps):
                        sources[k] = at + index[2][k] if index[2][k] >= 0 else -1
                sources += region.axes[2].taps
        next_place(region, &p)


cdef inline Py_ssize_t point(const Term* term, const real* x, Py_ssize_t stride, const int64_t* sources,
                             Py_ssize_t taps, Py_ssize_t rows, Py_ssize_t k0, Py_ssize_t kc, Py_ssize_t* lengths,
                             const real** pointers) noexcept nogil:
    """A block of k as runs of channels, one for each tap it touches; returns their number."""
    cdef Py_ssize_t tap = k0 // term.channels, start = k0 - tap * term.channels, segment = 0, i, source
    cdef const real* nothing = <const real*>zeros_of_depth
    while kc:
        lengths[segment] = min(term.channels - start, kc)
        for i in range(rows):
            source = sources[i * taps + tap]
            pointers[segment * ROWS + i] = x + source * stride + start if source >= 0 else nothing
        kc -= lengths[segment]
        segment += 1
        tap += 1
        start = 0
    return segment


cdef void accumulate_taps(const Code* code, const Operation* op, char** base, int r, Py_ssize_t m0, Py_ssize_t rows,
                          Py_ssize_t group, Py_ssize_t n0, Py_ssize_t nc, real* sums,
                          const Geometry** located) noexcept nogil:
    """As `accumulate`, for some rows of a region; ``located`` is the geometry whose source rows the table holds."""
    cdef Py_ssize_t padded = ceil_to(op.columns, op.lanes)
    cdef Py_ssize_t width = min(ceil_to(nc, op.lanes), padded - n0)
    cdef Py_ssize_t k0, kc, depth, i, segments, stride
    cdef int t = 0, u, begun = 0
    cdef int64_t* sources = <int64_t*>(sums + code.sums)
    cdef real* loaded = loaded_block(code, sums)
    cdef const real* pointers[SEGMENTS * ROWS]
    cdef Py_ssize_t lengths[SEGMENTS]
    cdef const Term* term
    cdef const Region* region
    cdef const real* x
    while t < op.terms_count:
        term = &op.terms[t]
        region = &term.geometry.regions[r]
        depth = region.taps * term.channels
        stride = op.groups * term.channels
        if depth and located[0] != term.geometry:
            locate(term.geometry, region, m0, rows, sources)
            located[0] = term.geometry
        x = <const real*>base[term.source] + group * term.channels
        for k0 from 0 <= k0 < depth by DEPTH:
            if k0 % (16 * DEPTH) == 0 and k0 and lrpfast_stopped(<double>rows * nc * 16 * DEPTH):
                return
            kc = min(<Py_ssize_t>DEPTH, depth - k0)
            if term.part == 0 and not op.tf32 and term.channels >= RUN:
                segments = point(term, x, stride, sources, region.taps, rows, k0, kc, lengths, pointers)
            else:
                k_gather(code, rows, sources, region.taps, term.channels, stride, x, k0, kc, term.part, op.tf32, loaded)
                segments, lengths[0] = 1, kc
                for i in range(rows):
                    pointers[i] = loaded + i * DEPTH
            for u in range(t, t + term.together):
                k_block(op, rows, segments, lengths, pointers,
                        <const real*>op.terms[u].weights[r] + (group * depth + k0) * padded + kc * n0, width,
                        sums + op.terms[u].accumulator * op.plane, (begun >> op.terms[u].accumulator) & 1)
                begun |= 1 << op.terms[u].accumulator
        t += term.together
    clear(op, begun, rows, nc, sums)


cdef void rows_at(const Operation* op, const Region* region, Py_ssize_t m0, Py_ssize_t rows, Py_ssize_t* at,
                  Py_ssize_t* place) noexcept nogil:
    """Where some rows of a region lie in the output: of all samples, and within their own."""
    cdef Place p = place_of(region, m0)
    cdef Py_ssize_t i, row
    for i in range(rows):
        row = row_at(op.geometry, region, &p)
        at[i] = (p.sample * op.rows + row) * op.width
        place[i] = row * op.width
        next_place(region, &p)


cdef int contract_taps(const Code* code, const Operation* op, char** base, int r, Py_ssize_t m0, Py_ssize_t rows,
                       Py_ssize_t n0, Py_ssize_t nc, real* sums) noexcept nogil:
    """A piece of a contraction with a geometry, in all groups; returns a fault, or FINE."""
    cdef Py_ssize_t at[ROWS]
    cdef Py_ssize_t place[ROWS]
    cdef Py_ssize_t group
    cdef int fine = 1
    cdef const Geometry* located = NULL
    rows_at(op, &op.geometry.regions[r], m0, rows, at, place)
    for group in range(op.groups):
        accumulate_taps(code, op, base, r, m0, rows, group, n0, nc, sums, &located)
        fine &= finish(code, op, base, rows, at, place, group * op.columns + n0, nc, sums)
    return FINE if fine else NOT_FINITE


# Channel by channel: a row at a time, its sums in registers.

cdef struct Lanes:  # some taps of a term: their values, weights and factors
    int count
    void* x[DEPTH]
    void* weights[DEPTH]


cdef inline void push(const Code* code, const Operation* op, const Term* term, int r, Py_ssize_t row, Py_ssize_t tap,
                      double factor, const real* source, Py_ssize_t n0, Py_ssize_t nc, Lanes* taps, real* factors,
                      real* loaded) noexcept nogil:
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


cdef inline void flush(const Code* code, const Operation* op, const Term* term, Py_ssize_t nc, Lanes* taps,
                       const real* factors, int* begun, real* sums) noexcept nogil:
    """Add the taps taken to their accumulator."""
    cdef int bit = 1 << term.accumulator
    if taps.count:
        k_lane(code, nc, taps.count, term.part, <const real**>taps.x,
               NULL if term.alike else <const real**>taps.weights, factors, begun[0] & bit,
               sums + term.accumulator * op.plane)
        begun[0] |= bit
        taps.count = 0


cdef void lanes(const Code* code, const Operation* op, const Term* term, const real* source, int r, Py_ssize_t m,
                const Place* place, Py_ssize_t n0, Py_ssize_t nc, int* begun, real* sums, real* loaded) noexcept nogil:
    """Add a diagonal term's row m to its accumulator, DEPTH taps at a time."""
    cdef Lanes taps
    cdef real factors[DEPTH]
    cdef const Region* region
    cdef const Axis* a
    cdef const Axis* b
    cdef const Axis* c
    cdef Py_ssize_t i, j, k, first, row, tap = 0
    cdef double factor
    taps.count = 0
    if term.geometry == NULL:
        push(code, op, term, r, m, 0, 1, source, n0, nc, &taps, factors, loaded)
        flush(code, op, term, nc, &taps, factors, begun, sums)
        return
    region = &term.geometry.regions[r]
    a = &region.axes[0]
    b = &region.axes[1]
    c = &region.axes[2]
    first = place.sample * term.geometry.source[0]
    for i in range(place.axis[0] * a.taps, (place.axis[0] + 1) * a.taps):
        for j in range(place.axis[1] * b.taps, (place.axis[1] + 1) * b.taps):
            row = ((first + a.index[i]) * term.geometry.source[1] + b.index[j]) * term.geometry.source[2]
            for k in range(place.axis[2] * c.taps, (place.axis[2] + 1) * c.taps):
                if a.index[i] >= 0 and b.index[j] >= 0 and c.index[k] >= 0:
                    factor = a.factor[i] if a.factor != NULL else 1
                    if b.factor != NULL:
                        factor *= b.factor[j]
                    if c.factor != NULL:
                        factor *= c.factor[k]
                    push(code, op, term, r, row + c.index[k], tap, factor, source, n0, nc, &taps, factors, loaded)
                tap += 1
                if op.tf32 or tap % DEPTH == 0:
                    flush(code, op, term, nc, &taps, factors, begun, sums)
    flush(code, op, term, nc, &taps, factors, begun, sums)


cdef int contract_lanes(const Code* code, const Operation* op, char** base, int r, Py_ssize_t m0, Py_ssize_t rows,
                        Py_ssize_t n0, Py_ssize_t nc, real* sums) noexcept nogil:
    """A piece of a diagonal contraction; returns a fault, or FINE."""
    cdef Py_ssize_t at[ROWS]
    cdef Py_ssize_t place[ROWS]
    cdef Py_ssize_t i
    cdef int t, begun
    cdef const Term* term
    cdef Place p
    if op.geometry == NULL:
        for i in range(rows):
            at[i] = (m0 + i) * op.width
            place[i] = (m0 + i) % op.rows * op.width
    else:
        rows_at(op, &op.geometry.regions[r], m0, rows, at, place)
        p = place_of(&op.geometry.regions[r], m0)
    for i in range(rows):
        begun = 0
        for t in range(op.terms_count):
            term = &op.terms[t]
            lanes(code, op, term, <const real*>base[term.source], r, m0 + i, &p, n0, nc, &begun, sums + i * op.ld,
                  loaded_block(code, sums))
        clear(op, begun, 1, nc, sums + i * op.ld)
        if op.geometry != NULL:
            next_place(&op.geometry.regions[r], &p)
    cdef int fine = finish(code, op, base, rows, at, place, n0, nc, sums)
    return FINE if fine else NOT_FINITE


# Outputs of few channels: each source row adds, through all taps at once, to the rows that they name.

cdef void add_taps(const Code* code, const Operation* op, const Geometry* geometry, const Place* p, const real* made,
                   real* total) noexcept nogil:
    """What one source row makes, (taps, channels), added to a sample's sums; neighbouring taps are one run."""
    cdef const Axis* axes = &geometry.regions[0].axes[0]
    cdef const int64_t* a = axes[0].index + p.axis[0] * axes[0].taps
    cdef const int64_t* b = axes[1].index + p.axis[1] * axes[1].taps
    cdef const int64_t* c = axes[2].index + p.axis[2] * axes[2].taps
    cdef Py_ssize_t taps = axes[2].taps, i, j, k, run
    for i in range(axes[0].taps):
        for j in range(axes[1].taps):
            k = 0
            while k < taps and a[i] >= 0 and b[j] >= 0:
                run = 1
                if c[k] >= 0:
                    while k + run < taps and c[k + run] == c[k] + run:
                        run += 1
                    k_add(code, run * op.width, made + ((i * axes[1].taps + j) * taps + k) * op.width,
                          total + ((a[i] * geometry.source[1] + b[j]) * geometry.source[2] + c[k]) * op.width)
                k += run


cdef int spread(const Code* code, const Operation* op, char** base, Py_ssize_t samples, real* sums) noexcept nogil:
    """A whole redistribution of that kind; a sample's sums are in the table."""
    cdef const Geometry* geometry = op.geometry
    cdef const Region* region = &geometry.regions[0]
    cdef Py_ssize_t size = code.size[op.writes[0]], s, m0, rows, i, at, nowhere = 0
    cdef real* total = sums + code.sums
    cdef Place p
    cdef int a, fine = 1
    for s in range(samples):
        memset(total, 0, op.sums * op.finish_plane * sizeof(real))
        p = place_of(region, 0)
        for m0 from 0 <= m0 < region.rows by op.pass_rows:
            rows = min(op.pass_rows, region.rows - m0)
            accumulate(code, op, base, s * region.rows + m0, rows, 0, op.columns, sums)
            if lrpfast_stopped(<double>rows * op.columns * (op.depth + LIGHT)):
                return STOPPED
            for i in range(rows):
                for a in range(op.sums):
                    add_taps(code, op, geometry, &p, sums + a * op.plane + i * op.ld, total + a * op.finish_plane)
                next_place(region, &p)
        at = s * size
        fine &= finish(code, op, base, 1, &at, &nowhere, 0, size, total)
    return FINE if fine else NOT_FINITE


# Pieces, and all of them.

cdef inline Py_ssize_t regions_of(const Operation* op) noexcept nogil:
    return op.geometry.regions_count if op.geometry != NULL else 1


cdef inline Py_ssize_t rows_of(const Operation* op, Py_ssize_t r, Py_ssize_t samples) noexcept nogil:
    return samples * (op.geometry.regions[r].rows if op.geometry != NULL else op.rows)


cdef inline int contract_piece(const Code* code, const Operation* op, char** base, int r, Py_ssize_t m0,
                               Py_ssize_t rows, Py_ssize_t n0, Py_ssize_t nc, real* sums) noexcept nogil:
    cdef int fault
    cdef double work = op.depth + LIGHT
    if op.diagonal:
        work = LIGHT * (op.geometry.regions[r].taps if op.geometry != NULL else 1)
        fault = contract_lanes(code, op, base, r, m0, rows, n0, nc, sums)
    elif op.geometry != NULL:
        fault = contract_taps(code, op, base, r, m0, rows, n0, nc, sums)
    else:
        fault = contract_rows(code, op, base, m0, rows, n0, nc, sums)
    return STOPPED if lrpfast_stopped(work * op.terms_count * op.groups * rows * nc) else fault


cdef int contract(const Code* code, const Operation* op, char** base, Py_ssize_t samples, real* sums) noexcept nogil:
    """A contraction, forwards or backwards; returns a fault of what is checked, or FINE."""
    cdef Py_ssize_t r, m0, n0, total, rows, columns, all_columns = op.width if op.diagonal else op.columns
    cdef int fault = FINE, found
    if op.shallow:
        return redistribute_shallow(code, op, base, samples, sums)
    if op.spread:
        return spread(code, op, base, samples, sums)
    for r in range(regions_of(op)):
        total = rows_of(op, r, samples)
        for m0 from 0 <= m0 < total by op.pass_rows:
            rows = min(op.pass_rows, total - m0)
            for n0 from 0 <= n0 < all_columns by op.pass_columns:
                columns = min(op.pass_columns, all_columns - n0)
                found = contract_piece(code, op, base, r, m0, rows, n0, columns, sums)
                if found == INPUT_NOT_FINITE or found == STOPPED:
                    return found
                fault = found if found else fault
    return fault


cdef inline int divisible(const Operation* op) noexcept nogil:
    """Whether an operation has pieces; of any other a sample is one."""
    return (op.kind == CONTRACT or op.kind == REDISTRIBUTE) and not op.shallow and not op.spread


cdef Py_ssize_t count_pieces(const Operation* op, Py_ssize_t samples, Py_ssize_t columns) noexcept nogil:
    cdef Py_ssize_t r, rows = 0, all_columns = op.width if op.diagonal else op.columns
    if not divisible(op):
        return samples
    for r in range(regions_of(op)):
        rows += (rows_of(op, r, samples) + op.pass_rows - 1) // op.pass_rows
    return rows * ((all_columns + columns - 1) // columns)


cdef Py_ssize_t columns_of_piece(const Operation* op, Py_ssize_t samples, int threads) noexcept nogil:
    """Columns of a piece such that no thread waits long for the last of them; the sums are the same whatever it is."""
    cdef Py_ssize_t least = op.lanes * op.panel, columns = op.pass_columns
    while divisible(op) and not op.diagonal and columns > least and count_pieces(op, samples, columns) < 16 * threads:
        columns = ceil_to(columns // 2, least)
    return columns


cdef int contract_numbered(const Code* code, const Operation* op, char** base, Py_ssize_t samples, Py_ssize_t index,
                           Py_ssize_t columns, real* sums) noexcept nogil:
    """The index-th piece of an operation that has pieces of so many columns."""
    cdef Py_ssize_t all_columns = op.width if op.diagonal else op.columns
    cdef Py_ssize_t across = (all_columns + columns - 1) // columns
    cdef Py_ssize_t n0 = index % across * columns, row = index // across
    cdef Py_ssize_t r = 0, total, count
    while True:
        total = rows_of(op, r, samples)
        count = (total + op.pass_rows - 1) // op.pass_rows
        if row < count:
            break
        row -= count
        r += 1
    row *= op.pass_rows
    count = min(op.pass_rows, total - row)
    columns = min(columns, all_columns - n0)
    return contract_piece(code, op, base, r, row, count, n0, columns, sums)


# Products of two operands that both depend on the input: one is packed for every sample.

cdef int product(const Code* code, const Operation* op, char** base, Py_ssize_t samples, real* sums) noexcept nogil:
    """`Dot` and `DotBack`: (m, depth) times (depth, columns), each sum in one accumulator."""
    cdef int back = op.kind == DOT_BACK
    cdef Py_ssize_t depth = op.n if back else op.k, padded = ceil_to(op.columns, op.lanes)
    cdef Py_ssize_t s, i, j, m0, rows, n0, nc, at
    cdef const real* a
    cdef const real* b
    cdef const real* x
    cdef real* out
    cdef real* packed = sums + code.sums
    cdef real* turned = packed + depth * padded
    cdef real coefficient = <real>op.p[0]
    cdef const real* pointers[ROWS]
    for s in range(samples):
        a = <const real*>base[op.reads[0]] + s * op.m * depth
        b = <const real*>base[op.reads[1]] + s * depth * op.columns
        out = <real*>base[op.writes[0]] + s * op.m * op.columns
        if back:
            k_pack(op, depth, op.columns, b, op.columns, 1, 0, packed)
        else:
            k_pack(op, depth, op.columns, b, 1, depth, 0, packed)
        if op.flag:
            for i in range(op.m):
                for j in range(depth):
                    turned[i * depth + j] = a[j * op.m + i]
            a = turned
        for m0 from 0 <= m0 < op.m by ROWS:
            rows = min(<Py_ssize_t>ROWS, op.m - m0)
            for n0 from 0 <= n0 < op.columns by COLUMNS:
                nc = min(<Py_ssize_t>COLUMNS, op.columns - n0)
                for i in range(rows):
                    pointers[i] = a + (m0 + i) * depth
                if lrpfast_stopped(<double>rows * nc * depth):
                    return STOPPED
                k_block(op, rows, 1, &depth, pointers, packed + n0 * depth,
                        min(ceil_to(nc, op.lanes), padded - n0), sums, 0)
                for i in range(rows):
                    at = (m0 + i) * op.columns + n0
                    if not back:
                        memcpy(out + at, sums + i * op.ld, nc * sizeof(real))
                        continue
                    x = <const real*>base[op.reads[2]] + s * op.m * op.columns + at
                    for j in range(nc):
                        out[at + j] = coefficient * (x[j] * sums[i * op.ld + j])
    return FINE
