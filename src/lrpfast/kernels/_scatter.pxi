# Outputs of few channels: each source row adds, through all taps at once, to the rows that they name.


cdef void add_taps(const Code* code, const Operation* op, const Geometry* geometry, const RowCoords* p, Span own,
                   const real* contribution, real* total) noexcept nogil:
    """What one source row makes, (taps, channels), added to a sample's sums; neighbouring taps are one run.

    Only to lines of the ``own`` rows of a sample.
    """
    cdef const Axis* axes = &geometry.regions[0].axes[0]
    cdef const int64_t* a = axes[0].index + p.axis[0] * axes[0].taps
    cdef const int64_t* b = axes[1].index + p.axis[1] * axes[1].taps
    cdef const int64_t* c = axes[2].index + p.axis[2] * axes[2].taps
    cdef Py_ssize_t taps = axes[2].taps, i, j, k, run, at, line
    for i in range(axes[0].taps):
        for j in range(axes[1].taps):
            line = (a[i] * geometry.source[1] + b[j]) * geometry.source[2]
            k = 0 if a[i] >= 0 and b[j] >= 0 and own.first <= line < own.first + own.count else taps
            while k < taps:
                run = 1
                if c[k] >= 0:
                    while k + run < taps and c[k + run] == c[k] + run:
                        run += 1
                    at = line + c[k]
                    code.kernels.add(run * op.width, contribution + ((i * axes[1].taps + j) * taps + k) * op.width,
                                     total + at * op.width)
                k += run


cdef int any_sees(const Geometry* geometry, RowCoords p, Py_ssize_t rows, Span own) noexcept nogil:
    """Whether any of some rows from one on sees lines of a sample's ``own`` rows."""
    cdef const Region* region = &geometry.regions[0]
    cdef Py_ssize_t i = 0
    p.sample = 0
    while i < rows:
        if sees_lines(geometry, &p, own):
            return 1
        i += region.axes[2].count - p.axis[2]  # the next line
        p.axis[2] = region.axes[2].count - 1
        next_coords(region, &p)
    return 0


cdef int scatter_rows(const Code* code, const Operation* op, const Batch* batch, real* sums) noexcept nogil:
    """A whole redistribution of that kind, or some lines of the output; a sample's sums are in the table."""
    cdef const Geometry* geometry = op.geometry
    cdef const Region* region = &geometry.regions[0]
    cdef Span own = part_of(op, batch, geometry.source_rows, geometry.source[2])
    cdef Py_ssize_t size = code.size[op.writes[0]], s, m0, rows, i, at, nowhere = 0
    cdef Py_ssize_t begin = own.first * op.width, count = own.count * op.width
    cdef real* total = sums + code.sums
    cdef RowCoords p
    cdef int a, fine = 1
    for s in range(batch.samples):
        for a in range(op.sums):
            memset(total + a * op.epilogue_plane + begin, 0, count * sizeof(real))
        for m0 from 0 <= m0 < region.rows by op.pass_rows:
            rows = min(op.pass_rows, region.rows - m0)
            p = coords_of(region, m0)
            if not any_sees(geometry, p, rows, own):
                continue
            accumulate(code, op, batch.base, s * region.rows + m0, rows, 0, op.columns, sums)
            if lrpfast_stopped(<double>rows * op.columns * (op.depth + LIGHT)):
                return STOPPED
            for i in range(rows):
                for a in range(op.sums):
                    add_taps(code, op, geometry, &p, own, sums + a * op.plane + i * op.ld,
                             total + a * op.epilogue_plane)
                next_coords(region, &p)
        at = s * size
        fine &= epilogue(code, op, batch.base, 1, &at, &nowhere, begin, count, total + begin)
    return FINE if fine else NOT_FINITE
