# Windows as lines: where neighbouring taps see neighbouring positions, a row's values along the last axis are one run.


cdef struct RowCoords:  # a row of a region: where it lies on the axes, and in which sample
    Py_ssize_t axis[3]
    Py_ssize_t sample


cdef inline RowCoords coords_of(const Region* region, Py_ssize_t m) noexcept nogil:
    cdef RowCoords p
    p.sample = m // region.rows
    m -= p.sample * region.rows
    p.axis[0] = m // (region.axes[1].count * region.axes[2].count)
    m -= p.axis[0] * region.axes[1].count * region.axes[2].count
    p.axis[1] = m // region.axes[2].count
    p.axis[2] = m - p.axis[1] * region.axes[2].count
    return p


cdef inline void next_coords(const Region* region, RowCoords* p) noexcept nogil:
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


cdef Py_ssize_t point_lines(const Code* code, const Operation* op, const Term* term, const Region* region,
                            const real* x, Py_ssize_t m, Py_ssize_t count, Py_ssize_t k0, Py_ssize_t kc,
                            Py_ssize_t* lengths, const real** pointers, real* copied) noexcept nogil:
    """As `point`, with a run for each line of the window; returns their number.

    Lines are read where they lie. Only what reaches over an edge is copied first, or a part of x: once for all rows.
    """
    cdef const Geometry* geometry = term.geometry
    cdef const Axis* a = &region.axes[0]
    cdef const Axis* b = &region.axes[1]
    cdef const Axis* c = &region.axes[2]
    cdef RowCoords p = coords_of(region, m)
    cdef Py_ssize_t channels = term.channels, run = c.taps * channels, row = 0, segments = 0
    cdef Py_ssize_t q, n, i, j, tap, begin, step, low, seen, before, after
    cdef const real* line
    cdef const real** to
    while row < count:  # those of one line of the output, which see so many columns from `low` on
        n = min(count - row, c.count - p.axis[2])
        low = c.low + c.step * p.axis[2]
        seen = c.step * (n - 1) + c.taps
        before = min(seen, max(<Py_ssize_t>0, -low))
        after = min(seen - before, max(<Py_ssize_t>0, low + seen - geometry.source[2]))
        segments = 0
        for tap in range(k0 // run, (k0 + kc - 1) // run + 1):
            i = a.index[p.axis[0] * a.taps + tap // b.taps]
            j = b.index[p.axis[1] * b.taps + tap % b.taps]
            line, step = <const real*>zeros_of_run, 0
            if i >= 0 and j >= 0:
                i = ((p.sample * geometry.source[0] + i) * geometry.source[1] + j) * geometry.source[2] + low + before
                line, step = x + i * channels, c.step * channels
            if step and (before or after or term.part != X or op.tf32):
                memset(copied, 0, before * channels * sizeof(real))
                code.kernels.load((seen - before - after) * channels, line, term.part, op.tf32,
                                  copied + before * channels)
                memset(copied + (seen - after) * channels, 0, after * channels * sizeof(real))
                line = copied
                copied += seen * channels
            begin = max(k0 - tap * run, <Py_ssize_t>0)
            lengths[segments] = min(k0 + kc - tap * run, run) - begin
            to = pointers + segments * ROWS + row
            for q in range(n):
                to[q] = line + begin + q * step
            segments += 1
        row += n
        p.axis[2] += n - 1
        next_coords(region, &p)
    return segments


cdef tuple lines_of(index, Py_ssize_t source):
    """(direction, low, step) of an axis whose position p sees, tap by tap, `low` + `step` · p and those after it.

    The direction is −1 where the first tap sees the last of them. None for other axes.
    """
    positions, taps = np.nonzero(index >= 0)
    for direction in (1, -1) if len(positions) else ():
        low = index[positions, taps] - direction * taps
        step = (low[-1] - low[0]) // (positions[-1] - positions[0]) if positions[-1] > positions[0] else 1
        first = low[0] - step * positions[0]
        seen = first + step * np.arange(len(index))[:, None] + direction * np.arange(index.shape[1])
        if step > 0 and np.array_equal(index, np.where((seen >= 0) & (seen < source), seen, -1)):
            return direction, first + min(0, direction * (index.shape[1] - 1)), step
    return None


cdef Py_ssize_t copied_of(const Region* region, Py_ssize_t channels) noexcept:
    """The most values that `point_lines` copies."""
    return region.axes[0].taps * region.axes[1].taps * channels * ROWS * max(region.axes[2].step, region.axes[2].taps)


cdef reversed_lines(weights, const Region* region, Py_ssize_t channels):
    """Weights of shape (1, taps · channels, columns) with the taps of each line the other way round."""
    cdef Py_ssize_t lines = region.axes[0].taps * region.axes[1].taps
    by_line = weights.reshape(lines, region.axes[2].taps, channels, weights.shape[2])
    return by_line[:, ::-1].reshape(weights.shape)
