# Products of two operands that both depend on the input: one is packed for every sample.


cdef int multiply_packed(const Operation* op, const real* a, const real* packed, Py_ssize_t depth, const real* x,
                         real coefficient, real* out, real* sums) noexcept nogil:
    """(m, depth) times (depth, columns), each sum in one accumulator; times coefficient and x unless that is NULL."""
    cdef Py_ssize_t padded = ceil_to(op.columns, op.kernels.lanes), i, j, m0, rows, n0, nc, at
    cdef const real* pointers[ROWS]
    for m0 from 0 <= m0 < op.m by ROWS:
        rows = min(<Py_ssize_t>ROWS, op.m - m0)
        for n0 from 0 <= n0 < op.columns by COLUMNS:
            nc = min(<Py_ssize_t>COLUMNS, op.columns - n0)
            for i in range(rows):
                pointers[i] = a + (m0 + i) * depth
            if lrpfast_stopped(<double>rows * nc * depth):
                return STOPPED
            op.kernels.block(rows, 1, &depth, <const void**>pointers, packed + n0 * depth,
                             min(ceil_to(nc, op.kernels.lanes), padded - n0), sums, op.ld, 0)
            for i in range(rows):
                at = (m0 + i) * op.columns + n0
                if x == NULL:
                    memcpy(out + at, sums + i * op.ld, nc * sizeof(real))
                    continue
                for j in range(nc):
                    out[at + j] = coefficient * (x[at + j] * sums[i * op.ld + j])
    return FINE


cdef int dot_op(const Code* code, const Operation* op, const Batch* batch, real* sums) noexcept nogil:
    cdef Py_ssize_t s
    cdef real* packed = sums + code.sums
    for s in range(batch.samples * op.count):
        op.kernels.pack(op.k, op.columns, <const real*>batch.base[op.reads[1]] + s * op.k * op.columns, 1, op.k, 0, 0,
                        packed)
        if multiply_packed(op, <const real*>batch.base[op.reads[0]] + s * op.m * op.k, packed, op.k, <const real*>NULL,
                           <real>1, <real*>batch.base[op.writes[0]] + s * op.m * op.columns, sums):
            return STOPPED
    return FINE

register("dot_op", dot_op[float], dot_op[double], PACKED_MATRIX)


cdef int dot_back(const Code* code, const Operation* op, const Batch* batch, real* sums) noexcept nogil:
    cdef Py_ssize_t s, i, j, size = op.m * op.columns
    cdef real* packed = sums + code.sums
    cdef real* transposed = packed + op.n * ceil_to(op.columns, op.kernels.lanes)
    cdef const real* relevance
    for s in range(batch.samples * op.count):
        relevance = <const real*>batch.base[op.reads[0]] + s * op.m * op.n
        op.kernels.pack(op.n, op.columns, <const real*>batch.base[op.reads[1]] + s * op.n * op.columns, op.columns, 1,
                        0, 0, packed)
        if op.flag:
            for i in range(op.m):
                for j in range(op.n):
                    transposed[i * op.n + j] = relevance[j * op.m + i]
            relevance = transposed
        if multiply_packed(op, relevance, packed, op.n, <const real*>batch.base[op.reads[2]] + s * size, <real>op.p[0],
                           <real*>batch.base[op.writes[0]] + s * size, sums):
            return STOPPED
    return FINE

register("dot_back", dot_back[float], dot_back[double], PACKED_MATRIX)
