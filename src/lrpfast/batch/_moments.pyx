"""The loops of `moment_tree`, `sketch`, `normalize`, `bounds` and `sources.fortran`, without Python.

Every function works on the columns (or rows) from ``first`` to ``last`` alone, so that threads can share an array.
No result depends on how they share it: columns do not meet, and a row's sum has a fixed order.
"""

from libc.float cimport DBL_MAX, FLT_MAX
from libc.math cimport INFINITY, NAN, fabs
from libc.stdint cimport int16_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

ctypedef fused real:
    float
    double

#: What threads share is a whole number of tiles: a tile's accumulators stay in the first-level cache.
cdef enum:
    TILE = 512
    TOGETHER = 4  # rows added while an accumulator is in a register
    LANES = 16  # accumulators of a row's sum
    PARTS = 16  # buckets of the sketch in an octave
    NEVER = -32768  # the octave of a feature without a value

#: What a row is divided by.
cdef enum:
    MAXABS
    SUM
    MAX
    L1

NORMALIZERS = {"maxabs": MAXABS, "sum": SUM, "max": MAX, "l1": L1}
COLUMNS = TILE
BUCKETS_PER_OCTAVE = PARTS
NO_OCTAVE = NEVER


cdef struct Tile:  # accumulators of the columns of a tile
    double shift[TILE]  # the block's first valid value
    double total[TILE]  # Σ (R - shift)
    double square[TILE]  # Σ (R - shift)²
    int valid[TILE]
    int positive[TILE]
    int negative[TILE]


cdef inline void absorb(Tile* t, real* low, real* high, const real** rows, const int count,
                        Py_ssize_t width) noexcept nogil:
    """Add ``count`` rows, one after the other, to the accumulators."""
    cdef Py_ssize_t j
    cdef int i, valid, positive, negative
    cdef double shift, total, square, d
    cdef real x, least, most
    for j in range(width):
        shift, total, square = t.shift[j], t.total[j], t.square[j]
        valid = positive = negative = 0
        least, most = low[j], high[j]
        for i in range(count):
            x = rows[i][j]
            d = <double>x - shift
            d = d if d == d else 0.0  # a masked feature adds nothing
            total = total + d
            square = square + d * d
            valid += x == x
            positive += x > 0
            negative += x < 0
            least = x if x < least else least
            most = x if x > most else most
        t.total[j], t.square[j] = total, square
        t.valid[j] += valid
        t.positive[j] += positive
        t.negative[j] += negative
        low[j], high[j] = least, most


cdef inline int begin(Tile* t, const real** rows, const int count, Py_ssize_t width) noexcept nogil:
    """Set the shift of columns that have had no valid value; how many still have none."""
    cdef Py_ssize_t j
    cdef int i, missing = 0
    cdef double shift
    for j in range(width):
        shift = t.shift[j]
        for i in range(count):
            shift = shift if shift == shift else <double>rows[i][j]
        t.shift[j] = shift
        missing += shift != shift
    return missing


def feed(const real[:, ::1] x, const int64_t[::1] members, bint fresh, double[:, ::1] part, int64_t[:, ::1] signs,
         double[:, ::1] extremes, Py_ssize_t first, Py_ssize_t last):
    """Add rows ``members`` of ``x`` to the sums of one group in one block; how many columns hold an infinity.

    ``part`` has rows shift, square, valid, total and is undefined where ``fresh``; ``signs`` counts positive and
    negative values, ``extremes`` holds minimum and maximum.
    """
    cdef Tile t
    cdef real low[TILE]
    cdef real high[TILE]
    cdef const real* rows[TOGETHER]
    cdef Py_ssize_t column, width, j, i, n = members.shape[0]
    cdef int missing, k, count, infinite = 0
    with nogil:
        column = first
        while column < last:
            width = min(<Py_ssize_t>TILE, last - column)
            for j in range(width):
                t.shift[j] = NAN if fresh else part[0, column + j]
                t.square[j] = 0 if fresh else part[1, column + j]
                t.valid[j] = 0 if fresh else <int>part[2, column + j]
                t.total[j] = 0 if fresh else part[3, column + j]
                t.positive[j] = t.negative[j] = 0
                low[j], high[j] = <real>INFINITY, -<real>INFINITY
            missing = 1
            i = 0
            while i < n:
                count = TOGETHER if n - i >= TOGETHER else 1
                for k in range(count):
                    rows[k] = &x[members[i + k], column]
                if count == TOGETHER:
                    missing = missing and begin(&t, rows, TOGETHER, width)
                    absorb(&t, low, high, rows, TOGETHER, width)
                else:
                    missing = missing and begin(&t, rows, 1, width)
                    absorb(&t, low, high, rows, 1, width)
                i += count
            for j in range(width):
                part[0, column + j], part[1, column + j] = t.shift[j], t.square[j]
                part[2, column + j], part[3, column + j] = t.valid[j], t.total[j]
                signs[0, column + j] += t.positive[j]
                signs[1, column + j] += t.negative[j]
                extremes[0, column + j] = min(extremes[0, column + j], <double>low[j])
                extremes[1, column + j] = max(extremes[1, column + j], <double>high[j])
                infinite += extremes[0, column + j] == -INFINITY or extremes[1, column + j] == INFINITY
            column += TILE
    return infinite


def close(double[:, ::1] part, Py_ssize_t first, Py_ssize_t last):
    """Turn sums (shift, square, valid, total) into moments (shift, M2, valid, mean - shift)."""
    cdef Py_ssize_t j
    cdef double n, mean, square
    with nogil:
        for j in range(first, last):
            n = part[2, j] if part[2, j] > 0 else 1.0
            mean = part[3, j] / n
            square = part[1, j] - part[3, j] * mean
            part[0, j] = part[0, j] if part[2, j] > 0 else 0.0  # no valid value: there is no shift
            part[1, j] = 0.0 if square < 0 else square  # NaN stays
            part[3, j] = mean


def join(double[:, ::1] left, const double[:, ::1] right, Py_ssize_t first, Py_ssize_t last):
    """Add the moments ``right`` to ``left`` (Chan, Golub and LeVeque 1979)."""
    cdef Py_ssize_t j
    cdef double both, share, d
    cdef bint alone
    with nogil:
        for j in range(first, last):
            alone = left[2, j] == 0  # then the right side comes through as it is
            both = left[2, j] + right[2, j]
            share = right[2, j] / (both if both > 0 else 1.0)
            share = 0.0 if alone else share
            d = (right[0, j] - left[0, j]) + (right[3, j] - left[3, j])
            d = 0.0 if share == 0 else d
            left[1, j] = left[1, j] + right[1, j] + d * d * (left[2, j] * share)
            left[0, j] = right[0, j] if alone else left[0, j]
            left[3, j] = right[3, j] if alone else left[3, j] + d * share
            left[2, j] = both


cdef void raise_window(uint32_t[::1] counts, Py_ssize_t by) noexcept nogil:
    """Make room for larger values: the ``by`` smallest buckets of either sign join the zeros."""
    cdef Py_ssize_t side = counts.shape[0] // 2, i
    if by > side:
        by = side
    for i in range(side - by, side):
        counts[side] += counts[i]
    for i in range(side + 1, side + 1 + by):
        counts[side] += counts[i]
    memmove(&counts[by], &counts[0], (side - by) * sizeof(uint32_t))
    memset(&counts[0], 0, by * sizeof(uint32_t))
    memmove(&counts[side + 1], &counts[side + 1] + by, (side - by) * sizeof(uint32_t))
    memset(&counts[0] + 2 * side + 1 - by, 0, by * sizeof(uint32_t))


def tally(const real[:, ::1] x, const int64_t[::1] members, uint32_t[:, ::1] counts, int16_t[::1] octaves,
          Py_ssize_t first, Py_ssize_t last):
    """Count rows ``members`` of ``x`` in buckets of (column, value).

    A column's buckets ascend in value, with the zeros in the middle; ``octaves`` is the binary exponent (biased) of
    its largest |R|.
    """
    cdef Py_ssize_t side = counts.shape[1] // 2, column, width, i, j, n = members.shape[0]
    cdef int64_t bucket, octave
    cdef uint64_t bits
    cdef double value
    cdef const real* row
    with nogil:
        column = first
        while column < last:
            width = min(<Py_ssize_t>TILE // 8, last - column)  # buckets take far more room than sums
            for i in range(n):
                row = &x[members[i], column]
                for j in range(width):
                    value = row[j]
                    if value != value:
                        continue
                    memcpy(&bits, &value, sizeof(bits))
                    bucket = (bits >> 48) & 0x7fff  # exponent, and the first four bits behind the point
                    octave = bucket // PARTS
                    if octave > octaves[column + j] and octave > 0:
                        if octaves[column + j] != NEVER:
                            raise_window(counts[column + j], (octave - octaves[column + j]) * PARTS)
                        octaves[column + j] = <int16_t>octave
                    # from the zeros; signs come at random, and a branch on them would be guessed wrong every other time
                    bucket = bucket - (<int64_t>octaves[column + j] + 1) * PARTS + side + 1
                    bucket = bucket if bucket > 0 and octave > 0 else 0
                    counts[column + j, side + bucket * (1 - 2 * <int64_t>(bits >> 63))] += 1
            column += width


def align(uint32_t[:, ::1] counts, const int16_t[::1] octaves, const int16_t[::1] new_octaves):
    """Raise every column's window from its octave in ``octaves`` to the one in ``wanted``."""
    cdef Py_ssize_t j
    with nogil:
        for j in range(counts.shape[0]):
            if octaves[j] != NEVER and new_octaves[j] > octaves[j]:
                raise_window(counts[j], (<Py_ssize_t>new_octaves[j] - octaves[j]) * PARTS)


def locate(const uint32_t[:, ::1] counts, const int64_t[::1] ranks, int64_t[::1] buckets):
    """The bucket of each column's value of the given rank; the last one where there is none."""
    cdef Py_ssize_t i, j
    cdef int64_t rank
    with nogil:
        for j in range(counts.shape[0]):
            rank, i = ranks[j], 0
            while i < counts.shape[1] - 1 and rank >= counts[j, i]:
                rank -= counts[j, i]
                i += 1
            buckets[j] = i


cdef inline void reduce(const real* values, const int count, int normalizer, double* sums, real* least,
                        real* most) noexcept nogil:
    """Add values to as many accumulators."""
    cdef int k
    cdef double value
    cdef real r
    for k in range(count):
        r = values[k]
        value = r if r == r else <real>0
        sums[k] += fabs(value) if normalizer == L1 else value
        least[k] = r if r < least[k] else least[k]
        most[k] = r if r > most[k] else most[k]


def divide(real[:, ::1] x, int normalizer, Py_ssize_t first, Py_ssize_t last):
    """Divide rows by max|R|, ΣR, max R or Σ|R|, NaN left out; how many had to stay as they are."""
    cdef double sums[LANES]
    cdef real least[LANES]
    cdef real most[LANES]
    cdef Py_ssize_t i, j, k, columns = x.shape[1], whole = columns - columns % LANES
    cdef double scale, largest
    cdef double limit = FLT_MAX if real is float else DBL_MAX
    cdef real* row
    cdef int left = 0
    with nogil:
        for i in range(first, last):
            row = &x[i, 0]
            for k in range(LANES):
                sums[k], least[k], most[k] = 0, 0, 0
            j = 0
            while j < whole:
                if normalizer == L1:
                    reduce(row + j, LANES, L1, sums, least, most)
                else:
                    reduce(row + j, LANES, SUM, sums, least, most)
                j += LANES
            reduce(row + whole, <int>(columns - whole), normalizer, sums, least, most)
            for k in range(1, LANES):
                sums[0] += sums[k]
                least[0] = min(least[0], least[k])
                most[0] = max(most[0], most[k])
            largest = max(-<double>least[0], <double>most[0])
            scale = largest if normalizer == MAXABS else <double>most[0] if normalizer == MAX else sums[0]
            # written so that an infinity or NaN is refused too
            if not (scale != 0 and fabs(scale) <= DBL_MAX and largest / 2 < fabs(scale) * (limit / 2)):
                left += 1
                continue
            for j in range(columns):
                row[j] = <real>(row[j] / scale)
    return left


def outside(const real[:, ::1] x, const double[::1] low, const double[::1] high, Py_ssize_t first, Py_ssize_t last):
    """How many values of the rows are below ``low`` or above ``high``; NaN is neither."""
    cdef Py_ssize_t i, j
    cdef int64_t count = 0
    cdef int row_count
    with nogil:
        for i in range(first, last):
            row_count = 0
            for j in range(x.shape[1]):
                row_count += (x[i, j] < low[j]) | (x[i, j] > high[j])
            count += row_count
    return count


cdef extern from "transpose.h" nogil:
    void transpose_4(const uint32_t* features, Py_ssize_t stride, const int64_t* order, uint32_t* out,
                     Py_ssize_t out_stride, Py_ssize_t first, Py_ssize_t last, Py_ssize_t samples)
    void transpose_8(const uint64_t* features, Py_ssize_t stride, const int64_t* order, uint64_t* out,
                     Py_ssize_t out_stride, Py_ssize_t first, Py_ssize_t last, Py_ssize_t samples)

ctypedef fused item:
    uint32_t
    uint64_t


def transpose(const item[:, :] features, const int64_t[::1] order, item[:, ::1] rows, Py_ssize_t first,
              Py_ssize_t last):
    """Copy ``features`` (features, samples), whose samples are adjacent, to the columns of ``rows``.

    Column i is feature ``order[i]``, or feature i where ``order`` is None. Both arrays must hold as many samples.
    """
    cdef Py_ssize_t samples = rows.shape[0], stride = features.strides[0] // <Py_ssize_t>sizeof(item)
    cdef const int64_t* index = NULL if order is None else &order[0]
    if features.shape[1] != samples or features.strides[1] != sizeof(item) or features.strides[0] % sizeof(item):
        raise ValueError("the samples of a feature must be adjacent, and as many as there are rows")
    if not 0 <= first <= last <= rows.shape[1] or (order is None and last > features.shape[0]):
        raise ValueError("there are fewer features")
    if first == last or samples == 0:
        return
    with nogil:
        if item is uint32_t:
            transpose_4(&features[0, 0], stride, index, &rows[0, 0], rows.strides[0] // <Py_ssize_t>sizeof(item),
                        first, last, samples)
        else:
            transpose_8(&features[0, 0], stride, index, &rows[0, 0], rows.strides[0] // <Py_ssize_t>sizeof(item),
                        first, last, samples)
