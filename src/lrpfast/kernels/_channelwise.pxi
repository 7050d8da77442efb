# Channel by channel: sums of several rows in registers. Rows side by side mostly have the same taps, shifted.


cdef struct TapBatch:  # some taps of a term: their values, weights and factors
    int count
    void* x[DEPTH]
    void* weights[DEPTH]


cdef inline void push(const Code* code, const Operation* op, const Term* term, int r, Py_ssize_t row, Py_ssize_t tap,
                      double factor, const real* source, Py_ssize_t n0, Py_ssize_t nc, TapBatch* taps, real* factors,
                      real* loaded) noexcept nogil:
    """Take a tap's values in source row ``row``."""
    cdef const real* x = source + row * op.width + n0
    cdef const real* w = <const real*>term.weights[r]
    if op.tf32:
        code.kernels.load(nc, x, term.part, 1, loaded)
        x = loaded
    taps.x[taps.count] = <void*>x
    taps.weights[taps.count] = <void*>(w + tap * op.width + n0)
    factors[taps.count] = <real>(factor * w[tap] if term.one_weight else factor)
    taps.count += 1


cdef inline int is_scaled(const Term* term, int r) noexcept nogil:
    """Whether taps have factors of their own."""
    cdef int d
    if term.geometry != NULL:
        for d in range(3):
            if term.geometry.regions[r].axes[d].factor != NULL:
                return 1
    return 0


cdef inline void flush(const Code* code, const Operation* op, const Term* term, int r, Py_ssize_t rows,
                       Py_ssize_t shift, Py_ssize_t nc, const TapBatch* taps, const real* factors, int* added,
                       real* sums) noexcept nogil:
    """Add the taps taken to their accumulator, and for further rows those that lie ``shift`` source rows on."""
    cdef int bit = 1 << term.accumulator
    cdef Py_ssize_t i
    if taps.count:
        code.kernels.channelwise(rows, shift * op.width, nc, taps.count, term.part, <const void**>taps.x,
                                 NULL if term.one_weight else <const void**>taps.weights,
                                 factors if term.one_weight or is_scaled(term, r) else NULL, added[0] & bit,
                                 sums + term.accumulator * op.plane, op.ld)
        for i in range(rows):
            added[i] |= bit


cdef int take_taps(const Code* code, const Operation* op, const Term* term, const real* source, int r,
                   const RowCoords* coords, Py_ssize_t n0, Py_ssize_t nc, TapBatch* taps, real* factors, int* added,
                   real* sums, real* loaded) noexcept nogil:
    """Take the taps of a row; those beyond DEPTH, or rounded to TF32, are added at once. Whether there were such."""
    cdef const Region* region = &term.geometry.regions[r]
    cdef const Axis* a = &region.axes[0]
    cdef const Axis* b = &region.axes[1]
    cdef const Axis* c = &region.axes[2]
    cdef Py_ssize_t i, j, k, row, tap = 0, first = coords.sample * term.geometry.source[0]
    cdef double factor
    cdef int flushed = 0
    taps.count = 0
    for i in range(coords.axis[0] * a.taps, (coords.axis[0] + 1) * a.taps):
        for j in range(coords.axis[1] * b.taps, (coords.axis[1] + 1) * b.taps):
            row = ((first + a.index[i]) * term.geometry.source[1] + b.index[j]) * term.geometry.source[2]
            for k in range(coords.axis[2] * c.taps, (coords.axis[2] + 1) * c.taps):
                if a.index[i] >= 0 and b.index[j] >= 0 and c.index[k] >= 0:
                    factor = a.factor[i] if a.factor != NULL else 1
                    if b.factor != NULL:
                        factor *= b.factor[j]
                    if c.factor != NULL:
                        factor *= c.factor[k]
                    push(code, op, term, r, row + c.index[k], tap, factor, source, n0, nc, taps, factors, loaded)
                tap += 1
                if op.tf32 or tap % DEPTH == 0:
                    flush(code, op, term, r, 1, 0, nc, taps, factors, added, sums)
                    taps.count, flushed = 0, 1
    return flushed


cdef inline Py_ssize_t shift_of(const Region* region, const RowCoords* before, const RowCoords* coords) noexcept nogil:
    """By how many source rows every tap of a row lies after that of the row before; 0 if not all of them do."""
    cdef const Axis* c = &region.axes[2]
    cdef const int64_t* old = c.index + before.axis[2] * c.taps
    cdef const int64_t* now = c.index + coords.axis[2] * c.taps
    cdef Py_ssize_t k, shift = now[0] - old[0]
    if (c.factor != NULL or before.axis[1] != coords.axis[1] or before.axis[0] != coords.axis[0]
            or before.sample != coords.sample):
        return 0
    for k in range(c.taps):
        if old[k] < 0 or now[k] < 0 or now[k] - old[k] != shift:
            return 0
    return shift


cdef void add_channelwise(const Code* code, const Operation* op, const Term* term, const real* source, int r,
                          Py_ssize_t m0, Py_ssize_t rows, Py_ssize_t n0, Py_ssize_t nc, int* added, real* sums,
                          real* loaded) noexcept nogil:
    """Add a diagonal term's rows to its accumulator: together, where they have the same taps; DEPTH taps at a time."""
    cdef TapBatch taps
    cdef real factors[DEPTH]
    cdef const Region* region
    cdef RowCoords p, before
    cdef Py_ssize_t i = 0, run, shift
    cdef int flushed
    if term.geometry == NULL and not op.tf32:
        taps.count = 0
        push(code, op, term, r, m0, 0, 1, source, n0, nc, &taps, factors, loaded)
        flush(code, op, term, r, rows, 1, nc, &taps, factors, added, sums)
        return
    if term.geometry == NULL:
        for i in range(rows):
            taps.count = 0
            push(code, op, term, r, m0 + i, 0, 1, source, n0, nc, &taps, factors, loaded)
            flush(code, op, term, r, 1, 0, nc, &taps, factors, added + i, sums + i * op.ld)
        return
    region = &term.geometry.regions[r]
    p = coords_of(region, m0)
    while i < rows:
        flushed = take_taps(code, op, term, source, r, &p, n0, nc, &taps, factors, added + i, sums + i * op.ld, loaded)
        before = p
        next_coords(region, &p)
        run, shift = 1, 0
        if not flushed and i + 1 < rows and added[i + 1] == added[i]:
            shift = shift_of(region, &before, &p)
            while shift:
                before = p
                next_coords(region, &p)
                run += 1
                if i + run == rows or added[i + run] != added[i] or shift_of(region, &before, &p) != shift:
                    break
        flush(code, op, term, r, run, shift, nc, &taps, factors, added + i, sums + i * op.ld)
        i += run


cdef int contract_channelwise(const Code* code, const Operation* op, char** base, int r, Py_ssize_t m0, Py_ssize_t rows,
                              Py_ssize_t n0, Py_ssize_t nc, real* sums) noexcept nogil:
    """A piece of a diagonal contraction; returns a fault, or FINE."""
    cdef Py_ssize_t at[ROWS]
    cdef Py_ssize_t in_sample[ROWS]
    cdef int added[ROWS]
    cdef Py_ssize_t i
    cdef int t
    if op.geometry == NULL:
        for i in range(rows):
            at[i] = (m0 + i) * op.width
            in_sample[i] = (m0 + i) % op.rows * op.width
    else:
        rows_at(op, &op.geometry.regions[r], m0, rows, at, in_sample)
    memset(added, 0, sizeof(added))
    for t in range(op.terms_count):
        add_channelwise(code, op, &op.terms[t], <const real*>base[op.terms[t].source], r, m0, rows, n0, nc, added, sums,
                        loaded_block(code, sums))
    for i in range(rows):
        clear(op, added[i], 1, nc, sums + i * op.ld)
    cdef int fine = epilogue(code, op, base, rows, at, in_sample, n0, nc, sums)
    return FINE if fine else NOT_FINITE
