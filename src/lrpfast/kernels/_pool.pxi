# Max pooling: rows side by side whose taps lie side by side, at once. Threads that share a sample take lines of what is
# written.


cdef inline Py_ssize_t window_taps(const Operation* op, const RowCoords* p, Span lines, const real* source,
                                   const void** taps, real* numbers) noexcept nogil:
    """Where those taps of a row lie that are in some lines of the source, and their numbers; returns how many."""
    cdef const Region* region = &op.geometry.regions[0]
    cdef const int64_t* index[3]
    cdef Py_ssize_t i, j, k, line, tap = 0, count = 0
    cdef int d
    for d in range(3):
        index[d] = region.axes[d].index + p.axis[d] * region.axes[d].taps
    for i in range(region.axes[0].taps):
        for j in range(region.axes[1].taps):
            line = p.sample * op.geometry.source_rows
            line += (index[0][i] * op.geometry.source[1] + index[1][j]) * op.geometry.source[2]
            if index[0][i] >= 0 and index[1][j] >= 0 and lines.first <= line < lines.first + lines.count:
                for k in range(region.axes[2].taps):
                    if index[2][k] >= 0:
                        taps[count] = source + (line + index[2][k]) * op.columns
                        numbers[count] = tap + k
                        count += 1
            tap += region.axes[2].taps
    return count


cdef inline Py_ssize_t rows_alike(const Region* region, RowCoords* p, Py_ssize_t most,
                                  Py_ssize_t* shift) noexcept nogil:
    """How many rows, at most so many, have taps ``shift`` source rows after those of the row before; goes past them."""
    cdef RowCoords before = p[0]
    cdef Py_ssize_t count = 1
    next_coords(region, p)
    shift[0] = shift_of(region, &before, p) if most > 1 else 0
    while shift[0] and count < most and shift_of(region, &before, p) == shift[0]:
        before = p[0]
        next_coords(region, p)
        count += 1
    return count


cdef int pool(const Code* code, const Operation* op, const Batch* batch, real* sums) noexcept nogil:
    cdef const Region* region = &op.geometry.regions[0]
    cdef const void** taps = <const void**>(sums + code.sums)
    cdef real* numbers = <real*>(taps + region.taps)
    cdef real* out = <real*>batch.base[op.writes[0]]
    cdef real* winner = <real*>batch.base[op.writes[1]] if op.writes[1] >= 0 else NULL
    cdef Py_ssize_t m, end, count, rows, shift = 0
    cdef Span span = part_of(op, batch, batch.samples * region.rows, 1), whole
    cdef RowCoords p = coords_of(region, span.first)
    whole.first, whole.count = 0, batch.samples * op.geometry.source_rows
    m, end = span.first, span.first + span.count
    while m < end:
        count = window_taps(op, &p, whole, <const real*>batch.base[op.reads[0]], taps, numbers)
        rows = rows_alike(region, &p, end - m, &shift)
        code.kernels.largest(rows, shift * op.columns, op.columns, count, taps, numbers, out + m * op.columns,
                             winner + m * op.columns if winner != NULL else NULL)
        m += rows
    return FINE

register("pool", pool[float], pool[double], WINDOW_TAPS)


cdef int pool_back(const Code* code, const Operation* op, const Batch* batch, real* sums) noexcept nogil:
    """A part of a sample is some lines of the output: what other parts see too adds in the same order."""
    cdef const Region* region = &op.geometry.regions[0]
    cdef const void** taps = <const void**>(sums + code.sums)
    cdef real* numbers = <real*>(taps + region.taps)
    cdef Span own = part_of(op, batch, batch.samples * op.geometry.source_rows, op.geometry.source[2])
    cdef real* out = <real*>batch.base[op.writes[0]]
    cdef Py_ssize_t m = 0, end = batch.samples * region.rows, count, rows, shift = 0
    cdef RowCoords p = coords_of(region, m)
    if not op.flag:  # some values are in several windows, or in none
        memset(out + own.first * op.columns, 0, own.count * op.columns * sizeof(real))
    while m < end:
        count = window_taps(op, &p, own, <const real*>out, taps, numbers)
        rows = rows_alike(region, &p, end - m, &shift)
        if count:
            code.kernels.to_winners(rows, shift * op.columns, op.columns, count, not op.flag,
                                    <const real*>batch.base[op.reads[0]] + m * op.columns,
                                    <const real*>batch.base[op.reads[1]] + m * op.columns, numbers, <void**>taps)
        m += rows
    return FINE

register("pool_back", pool_back[float], pool_back[double], WINDOW_TAPS)
