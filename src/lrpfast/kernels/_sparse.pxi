# Contractions of rows that are mostly zeros: the values of each row that are not are listed, and only they multiply.
# A list serves all columns of a piece and all terms that contract the same input. Sums run over blocks of SPARSE_DEPTH
# channels, each from zero; in each, source rows add in their order, so that no sum depends on its piece.

cdef struct Lists:  # of some rows, in scratch memory
    void* values
    int32_t* at
    int32_t* counts

cdef struct SourceRows:  # of a window's contraction, taken together
    Py_ssize_t count
    const void* x[SPARSE_ROWS]
    int32_t targets[SPARSE_ROWS * SPARSE_TAPS]


cdef Py_ssize_t lists_bytes(Py_ssize_t itemsize) noexcept nogil:
    return SPARSE_ROWS * (SPARSE_LIST * (itemsize + <Py_ssize_t>sizeof(int32_t)) + <Py_ssize_t>sizeof(int32_t))


cdef inline Lists lists_in(real* scratch) noexcept nogil:
    cdef Lists lists
    lists.values = scratch
    lists.at = <int32_t*>(scratch + SPARSE_ROWS * SPARSE_LIST)
    lists.counts = lists.at + SPARSE_ROWS * SPARSE_LIST
    return lists


cdef inline const real* sparse_block(const Operation* op, const void* weights, Py_ssize_t k0, Py_ssize_t kc,
                                     Py_ssize_t n0, real* unused) noexcept nogil:
    """Where a block of packed weights begins, for columns from n0 on."""
    return <const real*>weights + op.sparse * (k0 * ceil_to(op.columns, op.kernels.lanes) + kc * n0)


# Without geometry: rows of a matrix.

cdef void accumulate_sparse_rows(const Code* code, const Operation* op, char** base, Py_ssize_t m0, Py_ssize_t rows,
                                 Py_ssize_t n0, Py_ssize_t nc, real* sums) noexcept nogil:
    """As `accumulate`."""
    cdef Lists lists = lists_in(sums + code.sums)
    cdef Py_ssize_t width = ceil_to(nc, op.kernels.lanes), k0, kc, i0, i, count
    cdef const void* x[SPARSE_ROWS]
    cdef const Term* term
    cdef int t, listed
    for k0 from 0 <= k0 < op.depth by SPARSE_DEPTH:
        if k0 % (64 * SPARSE_DEPTH) == 0 and k0 and lrpfast_stopped(<double>rows * nc * 64 * SPARSE_DEPTH):
            return
        kc = min(<Py_ssize_t>SPARSE_DEPTH, op.depth - k0)
        for i0 from 0 <= i0 < rows by SPARSE_ROWS:
            count = min(<Py_ssize_t>SPARSE_ROWS, rows - i0)
            listed = 0  # terms up to here contract what is listed
            for t in range(op.terms_count):
                term = &op.terms[t]
                if t == listed:
                    listed += term.same_input
                    for i in range(count):
                        x[i] = <const real*>base[term.source] + (m0 + i0 + i) * op.depth + k0
                    op.kernels.nonzeros(count, kc, x, lists.values, lists.at, lists.counts)
                op.kernels.sparse_rows(
                    count, lists.values, lists.at, lists.counts, kc,
                    sparse_block(op, term.weights[0], k0, kc, n0, <real*>NULL), width,
                    sums + term.accumulator * op.plane + i0 * op.ld, op.ld, k0 > 0)


# With taps: each source row adds to the rows that see it.

cdef inline void add_listed(const Operation* op, int first, const SourceRows* taken, Lists lists, Py_ssize_t c0,
                            Py_ssize_t kc, Py_ssize_t n0, Py_ssize_t width, real* sums) noexcept nogil:
    """What the source rows taken add, to the accumulators of all terms from the first on that contract them."""
    cdef int t
    op.kernels.nonzeros(taken.count, kc, <const void**>taken.x, lists.values, lists.at, lists.counts)
    for t in range(first, first + op.terms[first].same_input):
        op.kernels.sparse_taps(
            taken.count, lists.values, lists.at, lists.counts, taken.targets, kc,
            sparse_block(op, op.terms[t].weights[0], c0, kc, n0, <real*>NULL), width,
            sums + op.terms[t].accumulator * op.plane)


cdef inline int first_rows_of_line(const Operation* op, Py_ssize_t sample, Py_ssize_t i, Py_ssize_t j, Py_ssize_t m0,
                                   Py_ssize_t rows, Py_ssize_t* first) noexcept nogil:
    """For the taps of a source line: the first row, after m0, of the line each adds to. Whether the piece has any."""
    cdef const Axis* axes = &op.geometry.regions[0].axes[0]
    cdef Py_ssize_t a, b, p, q, line, last = axes[2].count
    cdef int found = 0
    for a in range(axes[0].taps):
        p = op.inverse[0][i * axes[0].taps + a]
        for b in range(axes[1].taps):
            q = op.inverse[1][j * axes[1].taps + b]
            line = ((sample * axes[0].count + p) * axes[1].count + q) * last - m0
            if p < 0 or q < 0 or line >= rows or line + last <= 0:
                line = rows  # of no row of the piece
            else:
                found = 1
            first[a * axes[1].taps + b] = line
    return found


cdef void scatter_listed(const Operation* op, int first_term, const real* x, Py_ssize_t channels, Py_ssize_t c0,
                         Py_ssize_t kc, Py_ssize_t m0, Py_ssize_t rows, Py_ssize_t n0, Py_ssize_t width, Lists lists,
                         real* sums) noexcept nogil:
    """One block of channels of all source rows that a piece sees, source row after source row."""
    cdef const Geometry* g = op.geometry
    cdef const Region* region = &g.regions[0]
    cdef Py_ssize_t taps = region.axes[2].taps, lines = region.axes[0].taps * region.axes[1].taps
    cdef Py_ssize_t first[SPARSE_TAPS]
    cdef Py_ssize_t sample, i, j, k, line, t, p, m, at
    cdef int seen
    cdef SourceRows taken
    taken.count = 0
    for sample in range(m0 // region.rows, (m0 + rows - 1) // region.rows + 1):
        for i in range(g.source[0]):
            for j in range(g.source[1]):
                if not first_rows_of_line(op, sample, i, j, m0, rows, first):
                    continue
                at = sample * g.source_rows + (i * g.source[1] + j) * g.source[2]
                for k in range(g.source[2]):
                    seen = 0
                    for line in range(lines):
                        for t in range(taps):
                            p = op.inverse[2][k * taps + t]
                            m = first[line] + p
                            if p < 0 or m < 0 or m > rows:
                                m = rows
                            seen |= m < rows
                            taken.targets[taken.count * SPARSE_TAPS + line * taps + t] = <int32_t>(m * op.ld)
                    if not seen:
                        continue
                    taken.x[taken.count] = x + (at + k) * channels + c0
                    taken.count += 1
                    if taken.count == SPARSE_ROWS:
                        add_listed(op, first_term, &taken, lists, c0, kc, n0, width, sums)
                        taken.count = 0
    if taken.count:
        add_listed(op, first_term, &taken, lists, c0, kc, n0, width, sums)


cdef void accumulate_sparse_taps(const Code* code, const Operation* op, char** base, Py_ssize_t m0, Py_ssize_t rows,
                                 Py_ssize_t n0, Py_ssize_t width, real* sums) noexcept nogil:
    """All accumulators of a piece, and after its rows one that nobody reads, for taps that no row of it has."""
    cdef Py_ssize_t channels = op.terms[0].channels, c0, kc
    cdef int a, t
    cdef real* block = sums
    cdef real* scratch = sums + code.sums
    cdef Lists lists = lists_in(scratch)
    for c0 from 0 <= c0 < channels by SPARSE_DEPTH:
        if c0 and lrpfast_stopped(<double>rows * width * SPARSE_DEPTH * op.sparse * op.terms_count):
            return
        kc = min(<Py_ssize_t>SPARSE_DEPTH, channels - c0)
        if c0:
            block = <real*>(<char*>scratch + ceil_to(lists_bytes(sizeof(real)), 64))
        for a in range(op.sums):
            memset(block + a * op.plane, 0, (rows + 1) * op.ld * sizeof(real))
        t = 0
        while t < op.terms_count:
            scatter_listed(op, t, <const real*>base[op.terms[t].source], channels, c0, kc, m0, rows, n0, width, lists,
                           block)
            t += op.terms[t].same_input
        for a in range(op.sums if c0 else 0):
            code.kernels.add(rows * op.ld, block + a * op.plane, sums + a * op.plane)


cdef int contract_sparse_taps(const Code* code, const Operation* op, char** base, Py_ssize_t m0, Py_ssize_t rows,
                              Py_ssize_t n0, Py_ssize_t nc, real* sums) noexcept nogil:
    """As `contract_taps`."""
    cdef Py_ssize_t at[SPARSE_PASS_ROWS]
    cdef Py_ssize_t in_sample[SPARSE_PASS_ROWS]
    rows_at(op, &op.geometry.regions[0], m0, rows, at, in_sample)
    accumulate_sparse_taps(code, op, base, m0, rows, n0, ceil_to(nc, op.kernels.lanes), sums)
    return FINE if epilogue(code, op, base, rows, at, in_sample, n0, nc, sums) else NOT_FINITE
