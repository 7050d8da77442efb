# Outputs of few channels: each source row adds, through all taps at once, to the rows that they name.


cdef void add_taps(const Code* code, const Operation* op, const Geometry* geometry, const RowCoords* p,
                   const real* contribution, real* total) noexcept nogil:
    """What one source row makes, (taps, channels), added to a sample's sums; neighbouring taps are one run."""
    cdef const Axis* axes = &geometry.regions[0].axes[0]
    cdef const int64_t* a = axes[0].index + p.axis[0] * axes[0].taps
    cdef const int64_t* b = axes[1].index + p.axis[1] * axes[1].taps
    cdef const int64_t* c = axes[2].index + p.axis[2] * axes[2].taps
    cdef Py_ssize_t taps = axes[2].taps, i, j, k, run, at
    for i in range(axes[0].taps):
        for j in range(axes[1].taps):
            k = 0
            while k < taps and a[i] >= 0 and b[j] >= 0:
                run = 1
                if c[k] >= 0:
                    while k + run < taps and c[k + run] == c[k] + run:
                        run += 1
                    at = (a[i] * geometry.source[1] + b[j]) * geometry.source[2] + c[k]
                    code.kernels.add(run * op.width, contribution + ((i * axes[1].taps + j) * taps + k) * op.width,
                                     total + at * op.width)
                k += run


cdef int scatter_rows(const Code* code, const Operation* op, char** base, Py_ssize_t samples,
                      real* sums) noexcept nogil:
    """A whole redistribution of that kind; a sample's sums are in the table."""
    cdef const Geometry* geometry = op.geometry
    cdef const Region* region = &geometry.regions[0]
    cdef Py_ssize_t size = code.size[op.writes[0]], s, m0, rows, i, at, nowhere = 0
    cdef real* total = sums + code.sums
    cdef RowCoords p
    cdef int a, fine = 1
    for s in range(samples):
        memset(total, 0, op.sums * op.epilogue_plane * sizeof(real))
        p = coords_of(region, 0)
        for m0 from 0 <= m0 < region.rows by op.pass_rows:
            rows = min(op.pass_rows, region.rows - m0)
            accumulate(code, op, base, s * region.rows + m0, rows, 0, op.columns, sums)
            if lrpfast_stopped(<double>rows * op.columns * (op.depth + LIGHT)):
                return STOPPED
            for i in range(rows):
                for a in range(op.sums):
                    add_taps(code, op, geometry, &p, sums + a * op.plane + i * op.ld, total + a * op.epilogue_plane)
                next_coords(region, &p)
        at = s * size
        fine &= epilogue(code, op, base, 1, &at, &nowhere, 0, size, total)
    return FINE if fine else NOT_FINITE
