# Pieces, and all of them.

cdef inline int regions_of(const Operation* op) noexcept nogil:
    return op.geometry.regions_count if op.geometry != NULL else 1


cdef inline Py_ssize_t rows_of(const Operation* op, Py_ssize_t r, Py_ssize_t samples) noexcept nogil:
    return samples * (op.geometry.regions[r].rows if op.geometry != NULL else op.rows)


cdef inline int contract_piece(const Code* code, const Operation* op, char** base, int r, Py_ssize_t m0,
                               Py_ssize_t rows, Py_ssize_t n0, Py_ssize_t nc, real* sums) noexcept nogil:
    cdef int fault
    cdef double work = op.depth + LIGHT
    if op.diagonal:
        work = LIGHT * (op.geometry.regions[r].taps if op.geometry != NULL else 1)
        fault = contract_channelwise(code, op, base, r, m0, rows, n0, nc, sums)
    elif op.geometry != NULL and op.sparse:
        fault = contract_sparse_taps(code, op, base, m0, rows, n0, nc, sums)
    elif op.geometry != NULL:
        fault = contract_taps(code, op, base, r, m0, rows, n0, nc, sums)
    else:
        fault = contract_rows(code, op, base, m0, rows, n0, nc, sums)
    return STOPPED if lrpfast_stopped(work * op.terms_count * op.groups * rows * nc) else fault


cdef int contract_columns(const Code* code, const Operation* op, char** base, int r, Py_ssize_t m0, Py_ssize_t rows,
                          real* sums) noexcept nogil:
    """All pieces of some rows of a region; returns the last fault, or the one that ends all, or FINE."""
    cdef Py_ssize_t n0, all_columns = op.width if op.diagonal else op.columns
    cdef int fault = FINE, found
    for n0 from 0 <= n0 < all_columns by op.pass_columns:
        found = contract_piece(code, op, base, r, m0, rows, n0, min(op.pass_columns, all_columns - n0), sums)
        if found == INPUT_NOT_FINITE or found == STOPPED:
            return found
        fault = found if found else fault
    return fault


cdef int contract(const Code* code, const Operation* op, char** base, Py_ssize_t samples, real* sums) noexcept nogil:
    """A contraction, forwards or backwards; returns a fault of what is checked, or FINE.

    Where a row's work is light, regions take turns: their rows lie side by side, and each is still in the cache.
    """
    cdef Py_ssize_t m0, total, most = 0
    cdef int r, first, fault = FINE, found, regions = regions_of(op), turns = regions if op.diagonal else 1
    if op.small_k:
        return redistribute_small_k(code, op, base, samples, sums)
    for r in range(regions):
        most = max(most, rows_of(op, r, samples))
    for first from 0 <= first < regions by turns:
        for m0 from 0 <= m0 < most by op.pass_rows:
            for r in range(first, first + turns):
                total = rows_of(op, r, samples)
                if m0 >= total:
                    continue
                found = contract_columns(code, op, base, r, m0, min(op.pass_rows, total - m0), sums)
                if found == INPUT_NOT_FINITE or found == STOPPED:
                    return found
                fault = found if found else fault
    return fault


cdef inline int divisible(const Operation* op) noexcept nogil:
    """Whether an operation has pieces; of any other a sample is one."""
    return op.contracts and not op.small_k


cdef Py_ssize_t count_pieces(const Operation* op, Py_ssize_t samples, Py_ssize_t columns) noexcept nogil:
    cdef Py_ssize_t r, rows = 0, all_columns = op.width if op.diagonal else op.columns
    if not divisible(op):
        return samples * max(<Py_ssize_t>1, op.parts)
    for r in range(regions_of(op)):
        rows += (rows_of(op, r, samples) + op.pass_rows - 1) // op.pass_rows
    return rows * ((all_columns + columns - 1) // columns)


cdef Py_ssize_t columns_of_piece(const Operation* op, Py_ssize_t samples, int threads) noexcept nogil:
    """Columns of a piece such that no thread waits long for the last of them; the sums are the same whatever it is."""
    cdef Py_ssize_t least, columns = op.pass_columns
    if op.diagonal or not divisible(op):  # light operations have no kernels of this kind
        return columns
    least = op.kernels.lanes * op.kernels.panel
    if op.kernels.split != NULL:  # every piece of a row's columns splits it again
        least = SPLIT_COLUMNS
    if op.sparse == 1:  # as wide as packed weights
        least = SPARSE_PANEL * op.kernels.lanes
    while columns > least and count_pieces(op, samples, columns) < 16 * threads:
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


cdef int contract_kernel(const Code* code, const Operation* op, const Batch* batch, real* sums) noexcept nogil:
    """`Contract` and `Redistribute`."""
    return contract(code, op, batch.base, batch.samples, sums)

register("contract", contract_kernel[float], contract_kernel[double], NO_SCRATCH)
register("redistribute", contract_kernel[float], contract_kernel[double], NO_SCRATCH)
