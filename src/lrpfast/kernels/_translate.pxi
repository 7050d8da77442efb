# A program as C records: checked, its kernels chosen, its weights packed.


cdef class Translation(Records):
    """A program's records. `Executable` runs them."""
    cdef tuple sizes
    cdef bint pairs  # whether the program asks for BF16x2
    cdef int zeros_read  # of zeros.py: what the operation being translated contracts
    cdef int products  # of bfloat16, that make one of float32 where tile registers multiply: six, or three for BF16x2
    cdef Py_ssize_t cache  # bytes of it that a piece's accumulators and weights should fit in

    def __init__(self, program, int isa, layout, Py_ssize_t cache):
        cdef Code* code = &self.code
        cdef Operation* op
        cdef int i
        self.kept_alive, self.addresses, self.isa, self.cache = [], {}, isa, cache
        self.sizes, self.pairs = tuple(program.sizes), program.operands == "pairs"
        self.translate_program(program, layout)
        operations = (*program.forward, *program.backward)
        code.operations = <Operation*>self.zeros(max(1, len(operations)) * sizeof(Operation))
        cdef Py_ssize_t blocks = 0
        cdef list zeros = zeros_read(operations)
        for i, operation in enumerate(operations):
            op = &code.operations[i]
            self.zeros_read = zeros[i]
            self.translate(operation, op)
            if i < code.forward_count and row_of(operation).overflows:
                op.checked = op.writes[0]
            code.sums = max(code.sums, op.sums * op.plane)
            blocks = max(blocks, ROWS * DEPTH + self.packed_scratch(op))
            code.tables = max(code.tables, ceil_to(self.table_bytes(op) // self.itemsize, 16))
        for stage in layout.stages:
            op = &code.operations[<int>stage.begin]
            op.stage_end, op.stage_samples = stage.end, stage.samples
        self.addresses = {}
        code.scratch = code.sums + code.tables + blocks
        self.check_result(operations)
        # One pass over memory less, where the input goes straight into a contraction: x · w is not
        # finite for any w when x is not, so the sums tell. Not so for parts of x, nor after rounding.
        op = &code.operations[0]
        if not code.allow_nan and not code.ranged and program.forward and op.contracts:
            if op.geometry == NULL and not op.diagonal:  # else some of the input may go nowhere
                code.inspects = 1
                op.inspect = op.tf32 or all(term.part != "x" for term in program.forward[0].terms)

    cdef int translate_program(self, program, layout) except -1:
        """All but the operations."""
        cdef Code* code = &self.code
        cdef int i
        code.f64 = program.dtype == "float64"
        code.tf32 = program.tf32
        self.itemsize = 8 if code.f64 else 4
        code.kernels = lrpfast_kernels_of(self.isa, code.f64)
        code.buffers = len(program.sizes)
        code.size = <Py_ssize_t*>self.zeros(code.buffers * sizeof(Py_ssize_t))
        code.offset = <Py_ssize_t*>self.zeros(code.buffers * sizeof(Py_ssize_t))
        code.inner = <int*>self.zeros(code.buffers * sizeof(int))
        for i in range(code.buffers):
            code.size[i] = program.sizes[i]
            code.offset[i], code.inner[i] = layout.offsets[i], layout.inner[i]
        code.width, code.inner_width = layout.width, layout.inner_width
        code.stage_samples = max([stage.samples for stage in layout.stages], default=0)
        code.output = program.output
        code.result = -1 if program.result is None else program.result
        code.allow_nan = program.allow_nan
        code.ranged = program.input_range is not None
        if code.ranged:
            code.low, code.high = program.input_range
        code.forward_count, code.backward_count = len(program.forward), len(program.backward)
        code.segments_count = len(program.parts)
        code.segments = <int*>self.zeros((code.segments_count + 1) * sizeof(int))
        for i, (low, high) in enumerate(program.parts):
            code.segments[i], code.segments[i + 1] = code.forward_count + low, code.forward_count + high
        return 0

    cdef int check_result(self, operations) except -1:
        """The relevance that is handed out must be finite: checked by each segment's last operation that writes it."""
        cdef int i, s
        cdef Operation* op
        for s in range(self.code.segments_count):
            for i in range(self.code.segments[s + 1] - 1, self.code.segments[s] - 1, -1):
                op = &self.code.operations[i]
                # NaN where the input was masked is meant
                if isinstance(operations[i], RestoreNaN) or \
                        self.code.result not in (op.writes[0], op.writes[1], op.writes[2]):
                    continue
                if op.contracts:
                    op.check = 1  # row by row, while it is in the cache
                else:
                    op.checked = self.code.result
                break
        return 0

    cdef Py_ssize_t table_bytes(self, const Operation* op) except -1:
        """Scratch memory besides accumulators: of source rows, or of a packed matrix."""
        cdef Py_ssize_t most = 0
        cdef int r, t
        if op.scratch == WINDOW_TAPS:
            return op.geometry.regions[0].taps * (sizeof(void*) + self.itemsize)
        if op.scratch == RECURRENT:
            return lrpfast_kernels_of(self.isa, 1).recurrent_scratch(op.recurrence)
        if op.scratch == ATTENTION:
            return attention_scratch(self.code.kernels, op) * self.itemsize
        if op.scratch == PACKED_MATRIX:
            most = op.n + op.k - op.columns  # the depth: columns are the other of the two
            return (most * ceil_to(op.columns, op.kernels.lanes) + (op.m * most if op.flag else 0)) * self.itemsize
        if op.many_k:
            return 2 * op.pass_rows * op.columns * op.kernels.lanes * self.itemsize
        if op.sparse:
            most = ceil_to(lists_bytes(self.itemsize), 64)
            blocked = op.geometry != NULL and op.terms[0].channels > SPARSE_DEPTH
            return most + (op.sums * op.plane * self.itemsize if blocked else 0)
        if op.geometry == NULL or op.diagonal or op.lines:
            return 0
        for t in range(op.terms_count):
            for r in range(op.geometry.regions_count):
                most = max(most, op.terms[t].geometry.regions[r].taps)
        return op.pass_rows * most * <Py_ssize_t>sizeof(int64_t)

    cdef Py_ssize_t packed_scratch(self, const Operation* op) noexcept:
        """Scratch memory of a block that is packed while in use: of weights, or of split rows."""
        if is_lazy(op):
            return FEW_COLUMNS * DEPTH
        if op.lines:
            return max(<Py_ssize_t>0, op.copied - ROWS * DEPTH)
        if op.contracts and op.kernels.split != NULL:
            return ceil_to(op.pass_rows, op.kernels.lanes) * DEPTH * op.kernels.packed_bytes // self.itemsize
        return 0

    cdef int choose_kernels(self, Operation* op, int lazy, int sums_of_input) except -1:
        """This run's kernels, or those of half the vector width where columns fill no more: the same sums.

        ``sums_of_input`` is the largest number of accumulators that terms of one input add to.

        Large products in float32 have kernels of their own in some instruction sets: by the layer's size alone, so
        that results depend on nothing else.
        """
        cdef int isa = self.isa
        cdef Py_ssize_t full = lrpfast_kernels_of(isa, self.code.f64).lanes, rows, least, sums
        cdef Py_ssize_t most = FEW_COLUMNS if lazy else COLUMNS
        cdef const lrpfast_kernels* products = NULL
        # many_k reads weights in the order that this run's kernels pack, not in that of kernels for products
        op.many_k = (op.contracts and op.geometry == NULL and op.groups == 1 and op.columns <= MANY_K_COLUMNS
                     and op.depth > DEPTH and not lazy and not op.tf32)
        if not (self.code.f64 or lazy or op.diagonal or op.many_k or op.few):
            least = PRODUCTS_FROM["weights_of_one_row" if op.geometry == NULL and op.rows == 1 else "weights"]
            if (op.depth >= max(PRODUCTS_FROM["depth"], SMALL_K_DEPTH + 1) and op.columns >= PRODUCTS_FROM["columns"]
                    and op.depth * op.columns >= least):
                products = lrpfast_products_of(isa, 4 if op.tf32 else self.products)
        if op.few:
            while lrpfast_kernels_of(isa, self.code.f64).lanes > op.few:
                isa -= 1
        elif isa >= 2 and op.columns * 2 <= full and not op.many_k:
            isa = 1
        op.kernels = products if products != NULL else lrpfast_kernels_of(isa, self.code.f64)
        op.pass_columns = min(most, ceil_to(op.columns, op.kernels.lanes))
        op.ld = ceil_to(op.pass_columns, full)
        if products != NULL:
            op.ld = op.pass_columns + 16  # not a power of two: rows of a tile would meet in one set of the cache
        op.pass_rows = ROWS
        if op.depth and not op.diagonal:  # rows that share one reading of the weights
            sums = op.sums if products == NULL else sums_of_input
            rows = self.cache // 2 // (op.ld * self.itemsize * sums) // ROWS * ROWS
            op.pass_rows = min(max(rows, <Py_ssize_t>ROWS), <Py_ssize_t>(MOST_ROWS if products != NULL else PASS_ROWS))
        if products == NULL and op.geometry == NULL and op.columns <= op.kernels.lanes and op.depth > DEPTH:
            op.pass_rows = NARROW  # bound by memory: the hardware fetches ahead on so many sequences only
        if op.many_k:
            op.pass_rows = MANY_K_ROWS
        if op.few:
            op.ld = op.columns
        if lazy:
            op.pass_rows = LAZY_ROWS
        if op.diagonal:
            op.pass_columns = min(<Py_ssize_t>COLUMNS, op.width)
            op.ld = ceil_to(op.pass_columns, full)
        op.plane = ceil_to(op.pass_rows * op.ld, full) + (full if op.few else 0)
        return 0

    cdef int choose_small_k(self, source, Operation* op, int lazy) except -1:
        """Whether the kernel for few k and many columns can do a whole redistribution, and in which form."""
        if not op.backward or op.diagonal or op.geometry != NULL or lazy:
            return NO_SMALL_K
        if op.depth > SMALL_K_DEPTH or op.columns <= COLUMNS or op.tf32 or source.divide is not None:
            return NO_SMALL_K
        if any(s.accumulator != i for i, s in enumerate(source.shares)):
            return NO_SMALL_K
        if any(t.accumulator != i for i, t in enumerate(source.terms)) or len(source.terms) != len(source.shares):
            return NO_SMALL_K
        parts = tuple(s.part for s in source.shares)
        sources = [t.source for t in source.terms]
        signs = tuple(t.sign for t in source.terms)
        one_matrix = all(t.weights is source.terms[0].weights for t in source.terms)
        if parts == ("x+", "x-", "x+", "x-"):
            pairs = sources[0] == sources[1] and sources[2] == sources[3]
            return SMALL_K_FOUR_PARTS if one_matrix and pairs and signs == (1, -1, -1, 1) else NO_SMALL_K
        if len(set(sources)) > 1:
            return NO_SMALL_K
        if parts == ("x+", "x-"):
            return SMALL_K_SPLIT_PARTS if one_matrix and signs == (1, -1) else SMALL_K_TWO_PARTS
        if any(s.coefficient != 1 for s in source.shares):
            return NO_SMALL_K
        if parts in (("1",), ("x",)):
            return SMALL_K_SUM if parts == ("1",) else SMALL_K_TIMES_X
        scalar = all(s.bound is not None and np.size(s.bound) == 1 for s in source.shares)
        return SMALL_K_TWO_BOUNDS if parts == ("x-low", "x-high") and scalar else NO_SMALL_K

    cdef int choose_sparse(self, source, Operation* op) except -1:
        """Whether the kernels for rows that are mostly zeros do a contraction: by the layer's size alone."""
        cdef Py_ssize_t channels, lanes = op.kernels.lanes, planes = op.sums, line
        cdef int d
        geometry = source.terms[0].geometry
        if op.kernels != lrpfast_kernels_of(self.isa, self.code.f64) or op.diagonal or op.groups > 1:
            return 0
        if any(t.part != "x" or t.geometry is not geometry for t in source.terms) or len(source.terms) != op.sums:
            return 0
        if geometry is None:
            if op.depth >= SPARSE_FROM["depth"] and op.columns >= SPARSE_FROM["vectors"] * lanes:
                op.sparse = 1
            return 0
        axes = geometry.regions[0].axes
        if len(geometry.regions) > 1 or tuple(axis.index.shape[1] for axis in axes) != (1, 3, 3):
            return 0
        channels = op.depth // SPARSE_TAPS
        inverse = [inverse_of(axis.index, n) for axis, n in zip(axes, geometry.source)]
        least = SPARSE_FROM["channels_of_nearly_all" if self.zeros_read == NEARLY_ALL else "channels"]
        if channels < least or op.columns < lanes or any(table is None for table in inverse):
            return 0
        planes, line = planes * (2 if channels > SPARSE_DEPTH else 1), len(axes[2].index)
        op.pass_columns = min(<Py_ssize_t>SPARSE_COLUMNS, ceil_to(op.columns, lanes))
        op.pass_rows = self.cache // (op.pass_columns * self.itemsize * planes)
        op.pass_rows = min(op.pass_rows, <Py_ssize_t>SPARSE_PASS_ROWS) // line * line
        if op.pass_rows < SPARSE_FROM["lines"] * line:
            return self.choose_kernels(op, 0, sums_of_input(source.terms))
        for d in range(3):
            op.inverse[d] = self.indices(inverse[d])
        op.sparse, op.ld = SPARSE_TAPS, op.pass_columns + lanes  # not a power of two
        op.plane = op.ld * (op.pass_rows + 1)
        return 0

    cdef int translate_terms(self, source, Operation* op) except -1:
        """What both kinds of contractions have: shapes, kernels and weights."""
        cdef int i
        # first, so that what is read below is sound
        for term_of in source.terms:
            if term_of.geometry is not None:
                self.geometry(term_of.geometry, source)
        row_of(source).check(source, self.sizes)
        op.contracts = 1
        self.products = 3 if self.pairs and source.tf32 else 6
        op.rows, op.diagonal, op.tf32 = source.rows, source.diagonal, source.tf32 and self.code.tf32
        op.terms_count = len(source.terms)
        op.terms = <Term*>self.zeros(op.terms_count * sizeof(Term))
        op.width = self.sizes[source.out if op.backward else source.outputs[0].buffer] // op.rows
        first = source.terms[0]
        weights = first.weights if first.geometry is None else first.weights[0]
        op.groups = weights.shape[0] if weights.ndim == 3 else 1
        op.columns = op.width // op.groups
        op.depth = 0 if op.diagonal else weights.shape[weights.ndim - 2]
        if first.geometry is not None:
            op.geometry = self.geometry(first.geometry, source)
        cdef int lazy = (op.geometry == NULL and not op.diagonal and op.groups == 1 and op.depth > 16
                         and op.depth * op.columns * self.itemsize > LAZY_BYTES)
        op.sums = 1 + max([term_of.accumulator for term_of in source.terms])
        choose_few(self.sizes, source, op)
        self.choose_kernels(op, lazy, sums_of_input(source.terms))
        op.small_k = self.choose_small_k(source, op, lazy)
        if self.zeros_read and not (lazy or op.many_k or op.small_k or op.few or op.tf32):
            self.choose_sparse(source, op)
        choose_lines(self, self.sizes, source, op)
        if op.many_k:
            choose_many_k(source, op)
        for i in range(op.terms_count):
            self.translate_term(source.terms[i], source, op, &op.terms[i], lazy)
        count_same_input(op)
        return 0

    cdef int translate_term(self, source, operation, Operation* op, Term* term, int lazy) except -1:
        """One term, its weights packed or kept as they are."""
        cdef int r
        cdef size_t address
        term.source, term.accumulator, term.part = source.source, source.accumulator, INPUT_PARTS[source.part]
        matrices = (source.weights,)
        if source.geometry is not None:
            term.geometry, matrices = self.geometry(source.geometry, operation), source.weights
            term.channels = self.sizes[term.source] // term.geometry.source_rows // op.groups
        term.weights = <void**>self.zeros(len(matrices) * sizeof(void*))
        term.one_weight = op.diagonal and all(w.shape[1] == 1 for w in matrices)
        if lazy:
            return self.keep_lazy(source, term)
        if op.many_k:
            if term.many_k:
                sign = 0 if term.many_k >= MANY_BOTH else source.sign
                origin = None if source.origin is None else (source.origin, "transposed")
                term.weights[0] = <void*>self.packed(matrices[0].T, origin, sign, op)
            return 0
        for r, w in enumerate(matrices):
            if op.diagonal and w.shape[1] < op.width and not term.one_weight:
                w = np.repeat(w, op.width, 1)  # one form for all regions
            if op.lines < 0:
                w = reversed_lines(w, &term.geometry.regions[r], term.channels)
            if op.diagonal:
                address = self.diagonal(w, op)
            else:
                sign = 0 if op.small_k >= SMALL_K_SPLIT_PARTS else source.sign
                address = self.packed(w, None if source.origin is None else (source.origin, r), sign, op)
            term.weights[r] = <void*>address
        return 0

    cdef int translate_contract(self, source, Operation* op) except -1:
        cdef int i, a
        cdef lrpfast_epilogue* epilogue = &op.epilogue
        self.translate_terms(source, op)
        epilogue.sums, epilogue.outputs = op.sums, len(source.outputs)
        for i, output in enumerate(source.outputs):
            op.epilogue_buffers[i], epilogue.output[i].relu = output.buffer, output.relu
            epilogue.output[i].zero = output.zero
            epilogue.output[i].constant = self.of_rows(output.constant, op)
            epilogue.output[i].per_row = output.constant is not None and np.size(output.constant) > op.width
            for a, c in enumerate(output.coefficients):
                epilogue.output[i].coefficients[a] = c
        return 0

    cdef int translate_redistribute(self, source, Operation* op) except -1:
        cdef int i
        cdef lrpfast_epilogue* epilogue = &op.epilogue
        op.backward = 1
        self.translate_terms(source, op)
        op.reads[0], op.writes[0] = source.x, source.out
        epilogue.shares, epilogue.tf32 = len(source.shares), op.tf32
        for i, share in enumerate(source.shares):
            epilogue.share[i].accumulator, epilogue.share[i].coefficient = share.accumulator, share.coefficient
            epilogue.share[i].part = SHARE_PARTS[share.part]
            epilogue.share[i].bound = self.of_rows(share.bound, op)
            epilogue.share[i].step = share.bound is not None and np.size(share.bound) > 1
        op.epilogue_buffers[0], op.epilogue_buffers[1] = source.x, source.out
        op.epilogue_buffers[2] = op.epilogue_buffers[3] = -1
        divide = source.divide
        if divide is not None:
            epilogue.divides, epilogue.mask = 1, divide.mask
            epilogue.stabilizer, epilogue.stabilizer_value = STABILIZERS[divide.kind], divide.stabilizer
            if isinstance(divide.z, int):
                op.epilogue_buffers[2] = divide.z
            else:
                epilogue.z_per_row, op.z_constant = 1, self.of_rows(divide.z, op)
            if divide.mask_z is not None:
                op.epilogue_buffers[3] = divide.mask_z
        return 0

    cdef int translate_light(self, source, Operation* op) except -1:
        cdef int i, b
        row = row_of(source)
        row.check(source, self.sizes)
        reads, writes = row.buffers(source)
        sources = getattr(source, "sources", ())
        for i, buffer in enumerate(reads[:len(reads) - len(sources)]):
            op.reads[i] = -1 if buffer is None else buffer
        for i, buffer in enumerate(writes):
            op.writes[i] = -1 if buffer is None else buffer
        op.sources_count = len(sources)
        op.sources = <int*>self.zeros(op.sources_count * sizeof(int))
        for i, b in enumerate(sources):
            op.sources[i] = b
        arguments = {"columns": getattr(source, "columns", 1), **row.arguments(source)}
        for i, value in enumerate(arguments.pop("p", ())):
            op.p[i] = value
        op.values = self.vector(arguments.pop("values", None))
        op.more_values = self.vector(arguments.pop("more_values", None))
        if "index" in arguments:
            index = arguments.pop("index")
            op.index = self.indices(index)
            arguments.setdefault("run", common_run(index))
        if "geometry" in arguments:
            op.geometry = self.geometry(arguments.pop("geometry"), source)
        if "recurrence" in arguments:
            op.recurrence = self.recurrence(arguments.pop("recurrence"))
            op.kernels = lrpfast_kernels_of(self.isa, 1)
        set_numbers(op, arguments)
        if op.scratch == ATTENTION:
            op.parts = op.index[0] * op.index[2]
        if op.scratch == EACH_VALUE and op.function != SOFTMAX and op.function != LOG_SOFTMAX:
            op.parts = parts_of(self.sizes[writes[0]])
        if op.scratch == WINDOW_TAPS:
            op.parts = min(parts_of(op.geometry.source_rows * op.columns), count_lines(op.geometry))
        if op.scratch == PACKED_MATRIX:
            op.sums, op.depth, self.products = 1, 0, 6
            self.choose_kernels(op, 0, 1)
        return 0

    cdef int translate(self, source, Operation* op) except -1:
        cdef int i
        op.checked = -1
        for i in range(8):
            op.reads[i] = -1
        for i in range(5):
            op.writes[i] = -1
        cdef Kernel kernel = kernel_of(row_of(source).kernel)
        op.run_f32, op.run_f64, op.scratch = kernel.f32, kernel.f64, kernel.scratch
        if isinstance(source, Contract):
            return self.translate_contract(source, op)
        if isinstance(source, Redistribute):
            return self.translate_redistribute(source, op)
        return self.translate_light(source, op)


cdef Py_ssize_t common_run(index) except -1:
    """The length of an index's runs of neighbours, or of nothing; 1 where copying them is no faster."""
    cdef const int64_t[::1] entries = np.ascontiguousarray(index, dtype=np.int64).reshape(-1)
    cdef Py_ssize_t i, count = entries.shape[0], run = 0, start = 0
    for i in range(1, count + 1):
        if i < count and (entries[i] == entries[i - 1] + 1 if entries[i - 1] >= 0 else entries[i] < 0):
            continue
        run, start = gcd(run, i - start), i
        if run < SHORTEST_RUN:
            return 1
    return max(run, <Py_ssize_t>1)


cdef Py_ssize_t gcd(Py_ssize_t a, Py_ssize_t b) noexcept:
    while b:
        a, b = b, a % b
    return a


cdef inline Py_ssize_t parts_of(Py_ssize_t values) noexcept:
    """Parts of a sample that threads share, of an operation on so many values."""
    return min(<Py_ssize_t>MOST_PARTS, max(<Py_ssize_t>1, values // PART))


cdef inline Py_ssize_t count_lines(const Geometry* geometry) noexcept:
    """Lines along the last axis that a geometry's source has."""
    return geometry.source[0] * geometry.source[1]


cdef inline int is_lazy(const Operation* op) noexcept:
    return op.terms_count and op.terms[0].lazy


cdef inverse_of(index, Py_ssize_t source):
    """For each source position of an axis and each tap the output position that it adds to, or −1.

    None if that leaves most taps without one, as strides do: source rows would then add to little.
    """
    inverse = np.full((source, index.shape[1]), -1, np.int64)
    positions, taps = np.nonzero(index >= 0)
    inverse[index[positions, taps], taps] = positions
    found = np.count_nonzero(inverse >= 0)
    return inverse if found == len(positions) and 4 * found >= 3 * inverse.size else None


cdef int sums_of_input(terms) except -1:
    """The largest number of accumulators that terms of one input, one after the other, add to."""
    groups = itertools.groupby(terms, lambda term: (term.source, term.part, id(term.geometry)))
    return max([len({term.accumulator for term in group}) for _, group in groups])


cdef int set_numbers(Operation* op, dict numbers) except -1:
    """An operation's arguments that are numbers."""
    op.function = numbers.pop("function", 0)
    op.stabilizer = numbers.pop("stabilizer", 0)
    op.flag = numbers.pop("flag", 0)
    op.detached = numbers.pop("detached", 0)
    op.length = numbers.pop("length", 0)
    op.columns = numbers.pop("columns", 0)
    op.count = numbers.pop("count", 0)
    op.run = numbers.pop("run", 0)
    op.source_offset = numbers.pop("source_offset", 0)
    op.source_step = numbers.pop("source_step", 0)
    op.out_offset = numbers.pop("out_offset", 0)
    op.out_step = numbers.pop("out_step", 0)
    op.m = numbers.pop("m", 0)
    op.n = numbers.pop("n", 0)
    op.k = numbers.pop("k", 0)
    if numbers:
        raise ValueError(f"kernels take no argument {', '.join(numbers)}: see Operation in _cpu.pxd")
    return 0
