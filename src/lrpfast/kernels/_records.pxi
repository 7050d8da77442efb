# Memory that a program's C records lie in and point into.


cdef class PackedWeights:
    """Weights in the kernels' order, or as they are; all programs that have weights of one origin share them."""
    cdef readonly object array
    cdef readonly Py_ssize_t tile_bytes  # of each value, if in the order of tile registers
    cdef size_t address
    cdef object __weakref__

    def __cinit__(self, Py_ssize_t nbytes):
        self.array = np.empty(max(nbytes, 1) + 64, np.uint8)  # not zeros: for these NumPy asks for no large pages
        self.address = (<size_t>cnp.PyArray_DATA(self.array) + 63) & ~<size_t>63


cdef class Records:
    """The C records of a program being translated, and the arrays that they point into."""
    cdef Code code
    cdef list kept_alive  # arrays that the records point into
    cdef dict addresses   # of packed weights and geometries, by what they were made of
    cdef Py_ssize_t itemsize
    cdef int isa

    def __cinit__(self):
        memset(&self.code, 0, sizeof(Code))

    cdef void* zeros(self, Py_ssize_t nbytes) except NULL:
        """Zeroed memory that lives as long as this object."""
        array = np.zeros(max(nbytes, 1) + 64, np.uint8)
        self.kept_alive.append(array)
        return <void*>((<size_t>cnp.PyArray_DATA(array) + 63) & ~<size_t>63)

    cdef void* vector(self, value) except? NULL:
        """An array in the program's dtype, flat; NULL for None."""
        if value is None:
            return NULL
        array = np.ascontiguousarray(value, dtype=np.float64 if self.code.f64 else np.float32).reshape(-1)
        self.kept_alive.append(array)
        return cnp.PyArray_DATA(array)

    cdef void* of_rows(self, value, const Operation* op) except? NULL:
        """The same of what each row has values of, repeated as often as a piece of rows side by side reads it."""
        if op.flat and value is not None:
            value = np.resize(value, np.size(value) + op.pass_rows * op.width)
        return self.vector(value)

    cdef const int64_t* indices(self, value) except NULL:
        array = np.ascontiguousarray(value, dtype=np.int64).reshape(-1)
        self.kept_alive.append(array)
        return <const int64_t*>cnp.PyArray_DATA(array)

    cdef size_t packed(self, weights, origin, int sign, const Operation* op) except 0:
        """Weights of shape (K, N) or (groups, K, N) as panels, one group after the other; once for each origin."""
        cdef tuple form = (sign, <size_t>op.kernels, op.tf32, op.sparse, op.few, op.lines)
        # not the array: both directions have the same memory, transposed
        memory = weights.__array_interface__["data"][0], weights.shape, weights.strides, weights.dtype
        cdef tuple key = (memory, form)  # its type must not be inferred
        cdef PackedWeights shared
        kept = self.addresses.get(key)
        if kept is not None:
            return kept[0]
        shared = None if origin is None else PACKED.get((origin, form))
        if shared is None:
            shared = self.pack(weights, sign, op)
            if origin is not None:
                PACKED[origin, form] = shared
        self.kept_alive.append(shared)
        self.addresses[key] = shared.address, weights
        return shared.address

    cdef PackedWeights pack(self, weights, int sign, const Operation* op):
        array = np.require(weights, np.float64 if self.code.f64 else np.float32, "A")
        if array.ndim == 2:
            array = array[None]
        cdef Py_ssize_t groups = array.shape[0], depth = array.shape[1], columns = array.shape[2], k0, kc, g
        cdef Py_ssize_t row_step = array.strides[1] // self.itemsize, column_step = array.strides[2] // self.itemsize
        cdef Py_ssize_t step = op.kernels.depth_step
        if op.sparse:
            return self.pack_sparse(array[0], sign, op)
        if op.few:
            return self.pack_few(array[0], sign, op)
        cdef Py_ssize_t bytes_of_k = ceil_to(columns, op.kernels.lanes) * op.kernels.packed_bytes
        cdef PackedWeights result = PackedWeights(groups * ceil_to(depth, step) * bytes_of_k)
        cdef char* to = <char*>result.address
        cdef char* data
        result.tile_bytes = op.kernels.packed_bytes if op.kernels.split != NULL else 0
        for g in range(groups):
            data = <char*>cnp.PyArray_DATA(array[g])
            for k0 from 0 <= k0 < depth by DEPTH:
                kc = min(<Py_ssize_t>DEPTH, depth - k0)
                op.kernels.pack(kc, columns, data + k0 * row_step * self.itemsize, row_step, column_step, sign,
                                op.tf32, to)
                to += ceil_to(kc, step) * bytes_of_k
        return result

    cdef PackedWeights pack_sparse(self, array, int sign, const Operation* op):
        """Weights of shape (taps · K, N) for rows that are mostly zeros, in blocks of K."""
        cdef Py_ssize_t depth = array.shape[0] // op.sparse, columns = array.shape[1], k0, kc
        cdef Py_ssize_t row_step = array.strides[0] // self.itemsize, column_step = array.strides[1] // self.itemsize
        cdef Py_ssize_t bytes_of_k = ceil_to(columns, op.kernels.lanes) * op.kernels.packed_bytes * op.sparse
        cdef PackedWeights result = PackedWeights(depth * bytes_of_k)
        cdef char* data = <char*>cnp.PyArray_DATA(array)
        for k0 from 0 <= k0 < depth by SPARSE_DEPTH:
            kc = min(<Py_ssize_t>SPARSE_DEPTH, depth - k0)
            op.kernels.pack_sparse(kc, op.sparse, columns, data + k0 * row_step * self.itemsize, row_step,
                                   depth * row_step, column_step, sign, <void*>(result.address + k0 * bytes_of_k))
        return result

    cdef PackedWeights pack_few(self, array, int sign, const Operation* op):
        """Weights of shape (runs · length, columns) by runs, vectors and columns, as `few_columns` takes them."""
        cdef Py_ssize_t length = op.few, lanes = op.kernels.lanes, rest = length % lanes, whole = length - rest
        part = {0: array, 1: np.where(array > 0, array, 0), -1: np.where(array < 0, array, 0), 2: np.abs(array)}[sign]
        runs = part.reshape(-1, length, array.shape[1])
        padded = np.zeros((len(runs), ceil_to(length, lanes), array.shape[1]), array.dtype)
        padded[:, :whole] = runs[:, :whole]
        if rest:
            padded[:, -rest:] = runs[:, whole:]  # the last vector ends where the run ends
        by_vector = padded.reshape(len(runs), padded.shape[1] // lanes, lanes, array.shape[1]).swapaxes(2, 3)
        cdef PackedWeights result = PackedWeights(by_vector.nbytes)
        packed = np.ascontiguousarray(by_vector)
        memcpy(<void*>result.address, cnp.PyArray_DATA(packed), packed.nbytes)
        return result

    cdef int keep_lazy(self, source, Term* term) except -1:
        """Large weights as they are: packed a block at a time while in use, and not kept twice."""
        cdef tuple key = (source.origin, self.code.f64)
        cdef PackedWeights shared = None if source.origin is None else PACKED.get(key)
        if shared is None:
            shared = PackedWeights(0)
            shared.array = np.require(source.weights, np.float64 if self.code.f64 else np.float32, "A")
            if source.origin is not None:
                PACKED[key] = shared
        self.kept_alive.append(shared)
        array = shared.array
        term.lazy = 1
        term.row_step, term.column_step = array.strides[0] // self.itemsize, array.strides[1] // self.itemsize
        term.sign = source.sign
        term.weights[0] = cnp.PyArray_DATA(array)
        return 0

    cdef size_t diagonal(self, weights, const Operation* op) except 0:
        """Weights of a diagonal operation as they are, rounded where asked; the same array only once."""
        kept = self.addresses.get((id(weights), "diagonal", op.tf32))
        if kept is not None:
            return kept[0]
        cdef void* data = self.vector(weights)
        cdef void* out = data
        cdef Py_ssize_t n = np.size(weights)
        if op.tf32:
            out = self.zeros(n * self.itemsize)
            self.code.kernels.load(n, data, X, 1, out)
        self.addresses[id(weights), "diagonal", op.tf32] = <size_t>out, weights
        return <size_t>out

    cdef const double* doubles(self, value) except NULL:
        """An array in double precision."""
        array = np.ascontiguousarray(value, dtype=np.float64)
        self.kept_alive.append(array)
        return <const double*>cnp.PyArray_DATA(array)

    cdef const void* panels(self, value) except NULL:
        """Weights of shape (K, N) as panels, in double precision whatever the program's dtype is."""
        cdef const lrpfast_kernels* kernels = lrpfast_kernels_of(self.isa, 1)
        array = np.ascontiguousarray(value, dtype=np.float64)
        cdef Py_ssize_t depth = array.shape[0], columns = array.shape[1]
        cdef void* out = self.zeros(depth * ceil_to(columns, kernels.lanes) * <Py_ssize_t>sizeof(double))
        kernels.pack(depth, columns, cnp.PyArray_DATA(array), columns, 1, 0, 0, out)
        return out

    cdef lrpfast_recurrent* recurrence(self, source) except NULL:
        """A recurrent layer as a record; the same one only once."""
        cdef lrpfast_recurrent* r
        kept = self.addresses.get(id(source))
        if kept is not None:
            return <lrpfast_recurrent*><size_t>kept[0]
        r = <lrpfast_recurrent*>self.zeros(sizeof(lrpfast_recurrent))
        r.cell, r.product, r.bias_share, r.single = source.cell, source.product, source.bias_share, not self.code.f64
        r.backwards, r.sequences, r.time_order = source.backwards, source.sequences, source.time_order
        r.zero_masked, r.return_state, r.epsilon = source.zero_masked, source.return_state, source.epsilon
        r.steps, r.features, r.units, r.blocks = source.steps, source.features, source.units, source.blocks
        r.padded = ceil_to(r.units, lrpfast_kernels_of(self.isa, 1).lanes)
        set_function(&r.cell_function, source.cell_function)
        set_function(&r.gate_function, source.gate_function)
        set_function(&r.output_function, source.output_function)
        r.evaluate, r.slope, r.stopped = evaluate_any, slope_any, lrpfast_stopped
        r.initial_h, r.initial_c = self.doubles(source.initial_h), self.doubles(source.initial_c)
        r.bias, r.candidate_bias = self.doubles(widened(source.bias, r.units, r.padded)), self.doubles(
            widened(source.candidate_bias, r.units, r.padded))
        r.packed = self.panels(widened(source.weights, r.units, r.padded))
        if source.candidate is not None:
            candidate = widened(source.candidate, r.units, r.padded)
            r.candidate, r.candidate_back = self.panels(candidate), self.panels(candidate.T)
        relevant = source.weights[:, source.relevant_blocks]
        if relevant.size:
            r.back = self.panels(widened(relevant, r.units, r.padded).T)
        self.addresses[id(source)] = <size_t>r, source
        return r

    cdef const Geometry* geometry(self, source, operation) except NULL:
        """A geometry as a record, checked; the same one only once."""
        cdef Geometry* g
        cdef Region* region
        cdef Axis* axis
        cdef int r, d
        kept = self.addresses.get(id(source))
        if kept is not None:
            return <const Geometry*><size_t>kept[0]
        check_geometry(source, operation)
        g = <Geometry*>self.zeros(sizeof(Geometry))
        g.regions_count = len(source.regions)
        g.regions = <Region*>self.zeros(g.regions_count * sizeof(Region))
        g.source_rows = 1
        for d in range(3):
            g.source[d], g.out[d] = source.source[d], source.out[d]
            g.source_rows *= g.source[d]
        for r in range(g.regions_count):
            region = &g.regions[r]
            region.rows = region.taps = 1
            for d in range(3):
                axis, axis_of = &region.axes[d], source.regions[r].axes[d]
                axis.count, axis.taps = axis_of.index.shape
                axis.positions, axis.index = self.indices(axis_of.positions), self.indices(axis_of.index)
                lines = lines_of(axis_of.index, source.source[d]) if d == 2 else None
                if lines is not None:
                    axis.direction, axis.low, axis.step = lines
                if axis_of.factor is not None:
                    factor = np.ascontiguousarray(axis_of.factor, dtype=np.float64)
                    self.kept_alive.append(factor)
                    axis.factor = <const double*>cnp.PyArray_DATA(factor)
                region.rows *= axis.count
                region.taps *= axis.taps
        self.addresses[id(source)] = <size_t>g, source
        return g
