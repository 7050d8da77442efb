# Channel by channel: a row at a time, its sums in registers.


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


cdef inline void flush(const Code* code, const Operation* op, const Term* term, Py_ssize_t nc, TapBatch* taps,
                       const real* factors, int* added, real* sums) noexcept nogil:
    """Add the taps taken to their accumulator."""
    cdef int bit = 1 << term.accumulator
    if taps.count:
        code.kernels.channelwise(nc, taps.count, term.part, <const void**>taps.x,
                                 NULL if term.one_weight else <const void**>taps.weights, factors, added[0] & bit,
                                 sums + term.accumulator * op.plane)
        added[0] |= bit
        taps.count = 0


cdef void add_channelwise(const Code* code, const Operation* op, const Term* term, const real* source, int r,
                          Py_ssize_t m, const RowCoords* coords, Py_ssize_t n0, Py_ssize_t nc, int* added, real* sums,
                          real* loaded) noexcept nogil:
    """Add a diagonal term's row m to its accumulator, DEPTH taps at a time."""
    cdef TapBatch taps
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
        flush(code, op, term, nc, &taps, factors, added, sums)
        return
    region = &term.geometry.regions[r]
    a = &region.axes[0]
    b = &region.axes[1]
    c = &region.axes[2]
    first = coords.sample * term.geometry.source[0]
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
                    push(code, op, term, r, row + c.index[k], tap, factor, source, n0, nc, &taps, factors, loaded)
                tap += 1
                if op.tf32 or tap % DEPTH == 0:
                    flush(code, op, term, nc, &taps, factors, added, sums)
    flush(code, op, term, nc, &taps, factors, added, sums)


cdef int contract_channelwise(const Code* code, const Operation* op, char** base, int r, Py_ssize_t m0, Py_ssize_t rows,
                              Py_ssize_t n0, Py_ssize_t nc, real* sums) noexcept nogil:
    """A piece of a diagonal contraction; returns a fault, or FINE."""
    cdef Py_ssize_t at[ROWS]
    cdef Py_ssize_t in_sample[ROWS]
    cdef Py_ssize_t i
    cdef int t, added
    cdef const Term* term
    cdef RowCoords p
    if op.geometry == NULL:
        for i in range(rows):
            at[i] = (m0 + i) * op.width
            in_sample[i] = (m0 + i) % op.rows * op.width
    else:
        rows_at(op, &op.geometry.regions[r], m0, rows, at, in_sample)
        p = coords_of(&op.geometry.regions[r], m0)
    for i in range(rows):
        added = 0
        for t in range(op.terms_count):
            term = &op.terms[t]
            add_channelwise(code, op, term, <const real*>base[term.source], r, m0 + i, &p, n0, nc, &added,
                            sums + i * op.ld, loaded_block(code, sums))
        clear(op, added, 1, nc, sums + i * op.ld)
        if op.geometry != NULL:
            next_coords(&op.geometry.regions[r], &p)
    cdef int fine = epilogue(code, op, base, rows, at, in_sample, n0, nc, sums)
    return FINE if fine else NOT_FINITE
