# Contractions: sums over blocks of k, and what becomes of each finished row.
#
# A contraction is done in pieces (_pieces.pxi) of at most `pass_rows` rows and `pass_columns` columns, whose
# accumulators stay in the cache: accumulate (for every block of k, rows of the input meet packed weights), then the
# epilogue (bias and ReLU, or times x and divided). Pieces are independent of each other: any thread may take any.
# A thread's scratch memory, from `sums` on: accumulators | tables | loaded input | packed weights or split rows, a
# block each.


cdef inline real* loaded_block(const Code* code, real* sums) noexcept nogil:
    return sums + code.sums + code.tables


cdef inline const real* packed_block(const Operation* op, const void* weights, Py_ssize_t group, Py_ssize_t k0,
                                     Py_ssize_t kc, Py_ssize_t n0, Py_ssize_t depth, real* unused) noexcept nogil:
    """Where a block of k of packed weights begins, for columns from n0 on."""
    cdef const lrpfast_kernels* kernels = op.kernels
    cdef Py_ssize_t k = group * ceil_to(depth, kernels.depth_step) + k0
    if op.few:
        return <const real*>weights + k0 // op.few * ceil_to(op.few, kernels.lanes) * op.columns
    return <const real*>(<const char*>weights + kernels.packed_bytes * (
        k * ceil_to(op.columns, kernels.lanes) + ceil_to(kc, kernels.depth_step) * n0))


cdef inline int epilogue(const Code* code, const Operation* op, char** base, Py_ssize_t rows, const Py_ssize_t* at,
                         const Py_ssize_t* in_sample, Py_ssize_t n0, Py_ssize_t nc, const real* sums) noexcept nogil:
    """What finished sums become, for some rows and columns; returns 0 if it is checked and not finite."""
    cdef void* buffers[MAX_SUMS]
    cdef int i
    if op.flat:
        rows, nc = 1, rows * nc
    if not op.backward:
        for i in range(op.epilogue.outputs):
            buffers[i] = base[op.epilogue_buffers[i]]
        return code.kernels.epilogue_forward(&op.epilogue, buffers, rows, at, in_sample, n0, nc, sums, op.plane, op.ld)
    for i in range(4):
        buffers[i] = base[op.epilogue_buffers[i]] if op.epilogue_buffers[i] >= 0 else NULL
    if op.epilogue.z_per_row:
        buffers[2] = <void*>op.z_constant
    i = code.kernels.epilogue_backward(&op.epilogue, buffers, rows, at, in_sample, n0, nc, sums, op.plane, op.ld)
    return i if op.check else 1


cdef inline void multiply(const Operation* op, Py_ssize_t rows, Py_ssize_t segments, const Py_ssize_t* lengths,
                          const real** pointers, const real* packed, Py_ssize_t width, real* sums,
                          int added) noexcept nogil:
    """Some rows of a block of k times packed weights: added to sums, or these sums themselves."""
    if op.few:
        op.kernels.few_columns(rows, segments, lengths, <const void**>pointers, packed, op.columns, sums, op.ld, added)
    else:
        op.kernels.block(rows, segments, lengths, <const void**>pointers, packed, width, sums, op.ld, added)


cdef void clear(const Operation* op, int added, Py_ssize_t rows, Py_ssize_t nc, real* sums) noexcept nogil:
    """Zero the accumulators that nothing was added to."""
    cdef Py_ssize_t i
    cdef int a
    for a in range(op.sums):
        if not (added >> a) & 1:
            for i in range(rows):
                memset(sums + a * op.plane + i * op.ld, 0, nc * sizeof(real))


# Without geometry: a source's rows are the matrix.

cdef int accumulate_many_k(const Code* code, const Operation* op, char** base, Py_ssize_t m0, Py_ssize_t rows,
                           real* sums) noexcept nogil:
    """As `accumulate`, for many k and few columns."""
    cdef Py_ssize_t i
    cdef int t, added = 0, fine = 1
    cdef const Term* term
    for i in range(rows if op.inspect else 0):
        fine &= code.kernels.finite(op.depth, <const real*>base[0] + (m0 + i) * op.depth)
    for t in range(op.terms_count):
        term = &op.terms[t]
        if term.many_k == NO_MANY_K:
            continue
        code.kernels.many_k(
            term.many_k, rows, op.depth, op.columns, <const real*>base[term.source] + m0 * op.depth, term.weights[0],
            sums + code.sums, sums + term.accumulator * op.plane, (added >> term.accumulator) & 1,
            sums + term.second * op.plane, (added >> term.second) & 1, op.ld)
        added |= 1 << term.accumulator | 1 << term.second
    return fine


cdef inline void point_rows(const Code* code, const Operation* op, const Term* term, const real* x, Py_ssize_t kc,
                            Py_ssize_t rows, real* loaded, const real** pointers) noexcept nogil:
    """Where a block of k of each row lies: in the source, or its part of x copied."""
    cdef Py_ssize_t i
    for i in range(rows):
        pointers[i] = x + i * op.depth
        if term.part != X or op.tf32:
            code.kernels.load(kc, pointers[i], term.part, op.tf32, loaded + i * DEPTH)
            pointers[i] = loaded + i * DEPTH


cdef int accumulate(const Code* code, const Operation* op, char** base, Py_ssize_t m0, Py_ssize_t rows, Py_ssize_t n0,
                    Py_ssize_t nc, real* sums) noexcept nogil:
    """Every accumulator of a contraction for some rows and columns.

    Returns 0 if the input was to be inspected on its way and is not finite, else 1.
    """
    cdef Py_ssize_t width = min(ceil_to(nc, op.kernels.lanes), ceil_to(op.columns, op.kernels.lanes) - n0)
    cdef real* loaded = loaded_block(code, sums)
    cdef real* packed = loaded + ROWS * DEPTH
    cdef const real* pointers[ROWS]
    cdef Py_ssize_t k0, kc, i, i0, count
    cdef int t, first = 0, end, added = 0, fine = 1, split_before
    cdef const Term* term
    cdef const real* w
    if op.many_k:
        return accumulate_many_k(code, op, base, m0, rows, sums)
    while first < op.terms_count:
        end = op.terms_count
        if op.kernels.split != NULL:  # terms of one input after those of another: what they add to stays in the cache
            end = first + op.terms[first].same_input
        for k0 from 0 <= k0 < op.depth by DEPTH:
            if k0 % (16 * DEPTH) == 0 and k0 and lrpfast_stopped(<double>rows * nc * 16 * DEPTH):
                return fine
            kc = min(<Py_ssize_t>DEPTH, op.depth - k0)
            if op.inspect and n0 == 0 and first == 0:
                for i in range(rows):
                    fine &= code.kernels.finite(kc, <const real*>base[0] + (m0 + i) * op.depth + k0)
            split_before = 0  # terms from here on whose rows the one before has split
            for t in range(first, end):
                term = &op.terms[t]
                if term.lazy:
                    op.kernels.pack(kc, nc, <const real*>term.weights[0] + k0 * term.row_step + n0 * term.column_step,
                                    term.row_step, term.column_step, term.sign, op.tf32, packed)
                    w = packed
                else:
                    w = packed_block(op, term.weights[0], 0, k0, kc, n0, op.depth, <real*>NULL)
                for i0 from 0 <= i0 < (0 if split_before else rows) by ROWS:
                    count = min(<Py_ssize_t>ROWS, rows - i0)
                    point_rows(code, op, term, <const real*>base[term.source] + (m0 + i0) * op.depth + k0, kc, count,
                               loaded, pointers)
                    if op.kernels.split != NULL:
                        op.kernels.split(rows, i0, count, 1, &kc, <const void**>pointers, packed)
                    else:
                        multiply(op, count, 1, &kc, pointers, w, width,
                                 sums + term.accumulator * op.plane + i0 * op.ld, (added >> term.accumulator) & 1)
                if op.kernels.split != NULL:
                    split_before = (split_before if split_before else term.same_input) - 1
                    pointers[0] = packed
                    multiply(op, rows, 1, &kc, pointers, w, width, sums + term.accumulator * op.plane,
                             (added >> term.accumulator) & 1)
                added |= 1 << term.accumulator
        first = end
    return fine


cdef int contract_rows(const Code* code, const Operation* op, char** base, Py_ssize_t m0, Py_ssize_t rows,
                       Py_ssize_t n0, Py_ssize_t nc, real* sums) noexcept nogil:
    """A piece of a contraction without geometry; returns a fault, or FINE."""
    cdef Py_ssize_t at[MOST_ROWS]
    cdef Py_ssize_t in_sample[MOST_ROWS]
    cdef Py_ssize_t i, row = m0 % op.rows
    for i in range(rows):
        at[i] = (m0 + i) * op.width
        in_sample[i] = row * op.width
        row = row + 1 if row + 1 < op.rows else 0
    if op.sparse:
        accumulate_sparse_rows(code, op, base, m0, rows, n0, nc, sums)
    elif not accumulate(code, op, base, m0, rows, n0, nc, sums):
        return INPUT_NOT_FINITE
    return FINE if epilogue(code, op, base, rows, at, in_sample, n0, nc, sums) else NOT_FINITE


cdef int redistribute_small_k(const Code* code, const Operation* op, char** base, Py_ssize_t samples,
                              real* unused) noexcept nogil:
    cdef const Term* last = &op.terms[op.terms_count - 1]
    cdef double p[4]
    cdef int i, fine
    for i in range(op.epilogue.shares):
        p[i] = op.epilogue.share[i].coefficient
        if op.small_k == SMALL_K_TWO_BOUNDS:
            p[i] = (<const real*>op.epilogue.share[i].bound)[0]
    fine = code.kernels.small_k(
        op.small_k, samples * op.rows, op.depth, base[op.terms[0].source], base[last.source], op.terms[0].weights[0],
        last.weights[0], op.columns, base[op.reads[0]], p, base[op.writes[0]])
    return FINE if fine or not op.check else NOT_FINITE


# With a geometry: each row of the matrix is contribution of taps.

cdef inline Py_ssize_t row_at(const Geometry* geometry, const Region* region, const RowCoords* p) noexcept nogil:
    """A in_sample's row among a sample's output rows."""
    return ((region.axes[0].positions[p.axis[0]] * geometry.out[1] + region.axes[1].positions[p.axis[1]])
            * geometry.out[2] + region.axes[2].positions[p.axis[2]])


cdef int sees_lines(const Geometry* geometry, const RowCoords* p, Span rows) noexcept nogil:
    """Whether a row of the only region sees any of some source rows, which are whole lines of the last axis."""
    cdef const Axis* axes = &geometry.regions[0].axes[0]
    cdef const int64_t* a = axes[0].index + p.axis[0] * axes[0].taps
    cdef const int64_t* b = axes[1].index + p.axis[1] * axes[1].taps
    cdef Py_ssize_t i, j, line
    for i in range(axes[0].taps):
        for j in range(axes[1].taps):
            line = p.sample * geometry.source_rows + (a[i] * geometry.source[1] + b[j]) * geometry.source[2]
            if a[i] >= 0 and b[j] >= 0 and rows.first <= line < rows.first + rows.count:
                return 1
    return 0


cdef void locate(const Geometry* geometry, const Region* region, Py_ssize_t m0, Py_ssize_t rows,
                 int64_t* sources) noexcept nogil:
    """The source row of every (row, tap), -1 outside."""
    cdef const int64_t* index[3]
    cdef RowCoords p = coords_of(region, m0)
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
        next_coords(region, &p)


cdef inline Py_ssize_t point(const Term* term, const real* x, Py_ssize_t stride, const int64_t* sources,
                             Py_ssize_t taps, Py_ssize_t rows, Py_ssize_t k0, Py_ssize_t kc, Py_ssize_t* lengths,
                             const real** pointers) noexcept nogil:
    """A block of k as runs of channels, one for each tap it touches; returns their number."""
    cdef Py_ssize_t tap = k0 // term.channels, start = k0 - tap * term.channels, segment = 0, i, source
    cdef const real* nothing = <const real*>zeros_of_run
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


cdef inline void add_block(const Operation* op, int t, int r, Py_ssize_t group, Py_ssize_t depth, Py_ssize_t k0,
                           Py_ssize_t kc, Py_ssize_t n0, Py_ssize_t width, Py_ssize_t i0, Py_ssize_t count,
                           Py_ssize_t segments, const Py_ssize_t* lengths, const real** pointers, int added,
                           real* sums) noexcept nogil:
    """Some rows of a block of k times the weights of every term from t on that contracts the same input."""
    cdef int u, a
    for u in range(t, t + op.terms[t].same_input):
        a = op.terms[u].accumulator
        multiply(op, count, segments, lengths, pointers,
                 packed_block(op, op.terms[u].weights[r], group, k0, kc, n0, depth, <real*>NULL), width,
                 sums + a * op.plane + i0 * op.ld, (added >> a) & 1)
        added |= 1 << a


cdef void accumulate_taps(const Code* code, const Operation* op, char** base, int r, Py_ssize_t m0, Py_ssize_t rows,
                          Py_ssize_t group, Py_ssize_t n0, Py_ssize_t nc, real* sums,
                          const Geometry** located) noexcept nogil:
    """As `accumulate`, for some rows of a region; ``located`` is the geometry whose source rows the table holds."""
    cdef Py_ssize_t width = min(ceil_to(nc, op.kernels.lanes), ceil_to(op.columns, op.kernels.lanes) - n0)
    cdef Py_ssize_t k0, kc, depth, i, i0, count, segments, stride, run, s
    cdef int t = 0, u, added = 0
    cdef int64_t* sources = <int64_t*>(sums + code.sums)
    cdef const int64_t* row_sources
    cdef real* loaded = loaded_block(code, sums)
    cdef real* split = loaded + ROWS * DEPTH
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
        if depth and not op.lines and located[0] != term.geometry:
            locate(term.geometry, region, m0, rows, sources)
            located[0] = term.geometry
        x = <const real*>base[term.source] + group * term.channels
        for k0 from 0 <= k0 < depth by op.block:
            if k0 % (16 * op.block) == 0 and k0 and lrpfast_stopped(<double>rows * nc * 16 * op.block):
                return
            kc = min(op.block, depth - k0)
            for i0 from 0 <= i0 < rows by ROWS:
                count = min(<Py_ssize_t>ROWS, rows - i0)
                row_sources = sources + i0 * region.taps
                if op.lines:
                    segments = point_lines(code, op, term, region, x, m0 + i0, count, k0, kc, lengths, pointers, loaded)
                elif term.part == X and not op.tf32 and (term.channels >= RUN or op.few):
                    segments = point(term, x, stride, row_sources, region.taps, count, k0, kc, lengths, pointers)
                else:
                    code.kernels.gather(count, row_sources, region.taps, term.channels, stride, x, k0, kc, term.part,
                                        op.tf32, loaded, DEPTH)
                    run = op.few if op.few else kc
                    segments = kc // run
                    for s in range(segments):
                        lengths[s] = run
                        for i in range(count):
                            pointers[s * ROWS + i] = loaded + i * DEPTH + s * run
                if op.kernels.split != NULL:
                    op.kernels.split(rows, i0, count, segments, lengths, <const void**>pointers, split)
                    continue
                add_block(op, t, r, group, depth, k0, kc, n0, width, i0, count, segments, lengths, pointers, added,
                          sums)
            if op.kernels.split != NULL:
                pointers[0] = split
                add_block(op, t, r, group, depth, k0, kc, n0, width, 0, rows, 1, &kc, pointers, added, sums)
            for u in range(t, t + term.same_input):
                added |= 1 << op.terms[u].accumulator
        t += term.same_input
    clear(op, added, rows, nc, sums)


cdef void rows_at(const Operation* op, const Region* region, Py_ssize_t m0, Py_ssize_t rows, Py_ssize_t* at,
                  Py_ssize_t* in_sample) noexcept nogil:
    """Where some rows of a region lie in the output: of all samples, and within their own."""
    cdef const Axis* last = &region.axes[2]
    cdef RowCoords p = coords_of(region, m0)
    cdef Py_ssize_t i = 0, k, stop, row, line, sample
    while i < rows:  # a line of the last axis
        k = p.axis[2]
        stop = min(rows, i + last.count - k)
        line = row_at(op.geometry, region, &p) - last.positions[k]
        sample = p.sample * op.rows
        while i < stop:
            row = line + last.positions[k]
            at[i] = (sample + row) * op.width
            in_sample[i] = row * op.width
            i += 1
            k += 1
        p.axis[2] = k - 1
        next_coords(region, &p)


cdef int contract_taps(const Code* code, const Operation* op, char** base, int r, Py_ssize_t m0, Py_ssize_t rows,
                       Py_ssize_t n0, Py_ssize_t nc, real* sums) noexcept nogil:
    """A piece of a contraction with a geometry, in all groups; returns a fault, or FINE."""
    cdef Py_ssize_t at[MOST_ROWS]
    cdef Py_ssize_t in_sample[MOST_ROWS]
    cdef Py_ssize_t group
    cdef int fine = 1
    cdef const Geometry* located = NULL
    rows_at(op, &op.geometry.regions[r], m0, rows, at, in_sample)
    for group in range(op.groups):
        accumulate_taps(code, op, base, r, m0, rows, group, n0, nc, sums, &located)
        fine &= epilogue(code, op, base, rows, at, in_sample, group * op.columns + n0, nc, sums)
    return FINE if fine else NOT_FINITE


cdef void count_same_input(Operation* op) noexcept:
    """What several terms in a row contract is gathered once."""
    cdef int i, last = 0
    for i in range(op.terms_count):
        if i and (op.terms[i].source == op.terms[last].source and op.terms[i].part == op.terms[last].part
                  and op.terms[i].geometry == op.terms[last].geometry):
            op.terms[last].same_input += 1
        else:
            last, op.terms[i].same_input = i, 1
