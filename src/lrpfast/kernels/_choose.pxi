# Which kernels take a contraction, by its shape alone; `Translation` has those that share its settings.


cdef int choose_few(tuple sizes, source, Operation* op) except -1:
    """Whether the kernel for few columns does a contraction, by runs of how many values, and which blocks of k."""
    op.block = DEPTH
    if op.diagonal or op.tf32 or op.groups > 1 or op.columns > FEW:
        return 0
    runs = {sizes[t.source] // (op.rows if t.geometry is None else math.prod(t.geometry.source))
            for t in source.terms}
    if len(runs) > 1 or not SHORTEST_FEW <= min(runs) <= DEPTH:
        return 0
    op.few = min(runs)
    geometry = source.terms[0].geometry
    if geometry is None:
        op.flat = 1
        return 0
    op.block = op.few * (SEGMENTS if all(t.part == "x" for t in source.terms) else min(SEGMENTS, DEPTH // op.few))
    op.flat = len(geometry.regions) == 1 and all(
        np.array_equal(axis.positions, np.arange(n)) for axis, n in zip(geometry.regions[0].axes, geometry.out))
    return 0


cdef int choose_lines(Records records, tuple sizes, source, Operation* op) except -1:
    """Whether windows are read by lines: if they consist of such, all in one direction, of few values."""
    cdef const Geometry* geometry
    cdef const Region* region
    cdef Py_ssize_t channels, run
    cdef int r, direction = 0
    if op.geometry == NULL or op.diagonal or op.sparse or op.groups > 1 or op.kernels.split != NULL:
        return 0
    for term in source.terms:
        geometry = records.geometry(term.geometry, source)
        channels = sizes[term.source] // geometry.source_rows
        for r in range(geometry.regions_count):
            region = &geometry.regions[r]
            run = region.axes[2].taps * channels
            if not region.axes[2].direction or region.axes[0].taps * region.axes[1].taps > SEGMENTS:
                return 0
            if run > (MOST_RUN if op.few else DEPTH) or (op.few and op.few % op.kernels.lanes):
                return 0
            op.copied = max(op.copied, copied_of(region, channels))
            if region.axes[2].taps > 1:
                if direction == -region.axes[2].direction:
                    return 0
                direction = region.axes[2].direction
    if op.copied <= MOST_COPIED:
        op.lines = direction if direction else 1
    if op.lines and op.few:  # a whole window at a time
        op.block = SEGMENTS * MOST_RUN
    return 0


cdef int choose_many_k(source, Operation* op) except -1:
    """What the kernel for many k sums for each term: products of signs of the same weights at once."""
    cdef int i
    terms = source.terms
    products = [(t.part, t.sign, t.accumulator) for t in terms]
    one_matrix = all(t.weights is terms[0].weights and t.source == terms[0].source for t in terms)
    first, second = terms[0].accumulator, terms[min(1, len(terms) - 1)].accumulator
    for i, t in enumerate(terms):
        op.terms[i].many_k = {"x": MANY_X, "x+": MANY_POSITIVE, "x-": MANY_NEGATIVE,
                              "|x|": MANY_ABSOLUTE}[t.part]
        op.terms[i].second = t.accumulator
    merged = {
        MANY_BOTH: [("x", 0, first), ("x+", 1, second), ("x-", -1, second)],
        MANY_SIGNS: [("x+", 1, first), ("x+", -1, second), ("x-", 1, second), ("x-", -1, first)],
        MANY_SIZES: [("x", 0, first), ("|x|", 2, second)],
    }
    for form, alike in merged.items():
        if one_matrix and products == alike and first != second:
            for i in range(op.terms_count):
                op.terms[i].many_k = NO_MANY_K
            op.terms[0].many_k, op.terms[0].second = form, second
    return 0
