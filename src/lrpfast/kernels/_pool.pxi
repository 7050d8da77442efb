# Max pooling: row by row, with the winner's tap. Threads that share a sample take lines of what is written.


cdef int pool(const Code* code, const Operation* op, const Batch* batch, real* sums) noexcept nogil:
    cdef const Region* region = &op.geometry.regions[0]
    cdef int64_t* sources = <int64_t*>(sums + code.sums)
    cdef const real* x
    cdef real* out
    cdef real* winner
    cdef Py_ssize_t m, row, tap, c
    cdef int found
    cdef Span span = part_of(op, batch, batch.samples * region.rows, 1)
    cdef RowCoords p = coords_of(region, span.first)
    for m in range(span.first, span.first + span.count):
        locate(op.geometry, region, m, 1, sources)
        row = (p.sample * region.rows + row_at(op.geometry, region, &p)) * op.columns
        next_coords(region, &p)
        out = <real*>batch.base[op.writes[0]] + row
        winner = <real*>batch.base[op.writes[1]] + row if op.writes[1] >= 0 else <real*>(sources + region.taps)
        found = 0
        for tap in range(region.taps):
            if sources[tap] < 0:
                continue
            x = <const real*>batch.base[op.reads[0]] + sources[tap] * op.columns
            if found:
                code.kernels.keep_larger(op.columns, x, tap, out, winner)
                continue
            found = 1
            for c in range(op.columns):
                out[c] = x[c]
                winner[c] = tap
        if not found:
            for c in range(op.columns):
                out[c] = 0
                winner[c] = -1
    return FINE

register("pool", pool[float], pool[double], SOURCE_ROWS)


cdef int pool_back(const Code* code, const Operation* op, const Batch* batch, real* sums) noexcept nogil:
    """A part of a sample is some lines of the output: what other parts see too adds in the same order."""
    cdef const Region* region = &op.geometry.regions[0]
    cdef int64_t* sources = <int64_t*>(sums + code.sums)
    cdef Span own = part_of(op, batch, batch.samples * op.geometry.source_rows, op.geometry.source[2])
    cdef real* out = <real*>batch.base[op.writes[0]]
    cdef Py_ssize_t m = 0, row, tap
    cdef RowCoords p
    memset(out + own.first * op.columns, 0, own.count * op.columns * sizeof(real))
    while m < batch.samples * region.rows:
        p = coords_of(region, m)
        if not sees_lines(op.geometry, &p, own):
            m += region.axes[2].count - p.axis[2]
            continue
        locate(op.geometry, region, m, 1, sources)
        row = (p.sample * region.rows + row_at(op.geometry, region, &p)) * op.columns
        for tap in range(region.taps):
            if own.first <= sources[tap] < own.first + own.count:
                code.kernels.add_to_winner(op.columns, <const real*>batch.base[op.reads[0]] + row,
                                           <const real*>batch.base[op.reads[1]] + row, tap,
                                           out + sources[tap] * op.columns)
        m += 1
    return FINE

register("pool_back", pool_back[float], pool_back[double], SOURCE_ROWS)
