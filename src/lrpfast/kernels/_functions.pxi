# Activation functions and their derivatives, of one value in double precision, and loops for some of them.


cdef inline double rectify(double x, const double* p) noexcept nogil:
    """relu: max_value, negative_slope, threshold."""
    cdef double t = x if x > p[2] else p[1] * (x - p[2])
    return p[0] if t > p[0] else t


cdef inline double leak(double x, double slope) noexcept nogil:
    return x if x > 0 else slope * x


cdef inline double logistic(double x, double rest) noexcept nogil:
    """The sigmoid of x + rest, with a rest below x's last place."""
    cdef double t = exp(-fabs(x))
    t += t * (rest if x < 0 else -rest)
    return 1 / (1 + t) if x >= 0 else t / (1 + t)


cdef inline double twice_u(double x, double* rest) noexcept nogil:
    """2 u of GELU by tanh, √(8/π) (x + 0.044715 x³), and what rounding takes of it: far below 0 every digit counts."""
    cdef double t = min(max(x, -40.0), 40.0), square = t * t, part = 0.044715 * square, whole = 1 + part
    cdef double low = fma(0.044715, square, -part) + (0.044715 * fma(t, t, -square) + 2.1960211427085595e-18 * square)
    cdef double lead = 1.5957691216057308 * t, off = fma(1.5957691216057308, t, -lead) - 9.96930880911092e-17 * t
    cdef double v = lead * whole, added = whole - 1
    low += (1 - (whole - added)) + (part - added)
    rest[0] = fma(lead, whole, -v) + (lead * low + off * whole)
    return v


cdef inline double normal_tail(double x) noexcept nogil:
    """Φ(x) = erfc(−x/√2) / 2; erfc is corrected by what rounding takes of its argument."""
    cdef double z = x * -0.7071067811865476
    cdef double rest = fma(x, -0.7071067811865476, -z) + x * 4.833646656726457e-17
    return 0.5 * erfc(z) - 0.5641895835477563 * rest * exp(-z * z)


cdef inline double normal_density(double x) noexcept nogil:
    """φ(x) = e^(−x²/2) / √2π, with what rounding takes of x²."""
    cdef double square = x * x
    return 0.3989422804014327 * exp(-0.5 * square) * (1 - 0.5 * fma(x, x, -square) if square < 2000 else 0)


cdef double evaluate(int function, double x, const double* p) noexcept nogil:
    """An elementwise activation function of one value, of those that `activate` has no loop for; p: its parameters."""
    cdef double t, rest
    if function == ELU:
        return x if x > 0 else p[0] * expm1(x)
    if function == SELU:  # Klambauer et al. 2017
        return 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * expm1(x))
    if function == GELU and p[0]:  # by tanh: 1 + tanh(u) is 2 · sigmoid(2 u)
        t = twice_u(x, &rest)
        return x * logistic(t, rest)
    if function == GELU:
        return x * normal_tail(x)
    if function == SILU:
        return x * logistic(x, 0)
    if function == TANH:
        return tanh(x)
    if function == SIGMOID:
        return logistic(x, 0)
    if function == HARD_SIGMOID:  # slope, offset
        t = p[0] * x + p[1]
        return 0 if t < 0 else 1 if t > 1 else t
    if function == SOFTPLUS:
        return (x if x > 0 else 0) + log1p(exp(-fabs(x)))
    if function == SOFTSIGN:
        return x / (1 + fabs(x))
    if function == EXPONENTIAL:
        return exp(x)
    if function == MISH:
        return x * tanh(evaluate(SOFTPLUS, x, p))
    if function == CELU:
        return x if x > 0 else p[0] * expm1(x / p[0])
    if function == SHRINK:  # threshold, shift
        return x + p[1] if x < -p[0] else x - p[1] if x > p[0] else 0
    if function == LOG_SIGMOID:
        return -evaluate(SOFTPLUS, -x, p)
    if function == POWER:
        return pow(x, p[0])
    if function == HARD_SILU:
        return x if x > 3 else x * (x + 3) / 6 if x > -3 else 0
    if function == LOG:
        return log(x)
    return NAN  # no such function: a result that is not finite is a fault


cdef inline double rectify_slope(double x, const double* p) noexcept nogil:
    cdef double t = x if x > p[2] else p[1] * (x - p[2])
    return 0 if t > p[0] else 1 if x > p[2] else p[1]


cdef double slope_of(int function, double x, const double* p) noexcept nogil:
    """An activation function's derivative, from the left at a kink; `slope` has a loop for ReLU."""
    cdef double t, u, rest
    if function == LEAKY_RELU or function == PRELU:
        return 1 if x > 0 else p[0]
    if function == ELU:
        return 1 if x > 0 else p[0] * exp(x)
    if function == SELU:
        return 1.0507009873554805 * (1 if x > 0 else 1.6732632423543772 * exp(x))
    if function == GELU and p[0]:
        u = twice_u(x, &rest)
        t = logistic(u, rest)
        u = logistic(-u, -rest)
        return t * fma(1.5957691216057308 * x * u, fma(0.134145 * x, x, 1), 1) if t > 0 and u > 0 else t
    if function == GELU:
        return normal_tail(x) + x * normal_density(x)
    if function == SILU:
        return logistic(x, 0) * fma(x, logistic(-x, 0), 1)
    if function == TANH:
        t = 1 / cosh(x)
        return t * t
    if function == SIGMOID:
        return logistic(x, 0) * logistic(-x, 0)
    if function == HARD_SIGMOID:
        t = p[0] * x + p[1]
        return p[0] if t > 0 and t <= 1 else 0
    if function == SOFTPLUS:
        return logistic(x, 0)
    if function == SOFTSIGN:
        return 1 / ((1 + fabs(x)) * (1 + fabs(x)))
    if function == EXPONENTIAL:
        return exp(x)
    if function == MISH:
        t = evaluate(SOFTPLUS, x, p)
        u = 1 / cosh(t)
        return tanh(t) + x * (u * u) * logistic(x, 0)
    if function == CLIP:  # low, high
        return 1 if x > p[0] and x <= p[1] else 0
    if function == CELU:
        return 1 if x > 0 else exp(x / p[0])
    if function == SHRINK:
        return 0 if x > -p[0] and x <= p[0] else 1
    if function == LOG_SIGMOID:
        return logistic(-x, 0)
    if function == POWER:
        return p[0] * pow(x, p[0] - 1)
    if function == HARD_SILU:
        return 1 if x > 3 else x / 3 + 0.5 if x > -3 else 0
    if function == LOG:
        return 1 / x
    return NAN


cdef void log_softmax(const real* x, Py_ssize_t n, real* out) noexcept nogil:
    cdef Py_ssize_t j
    cdef double top = x[0], total = 0
    for j in range(1, n):
        top = max(top, <double>x[j])
    for j in range(n):
        total += exp(x[j] - top)
    total = log(total)
    for j in range(n):
        out[j] = <real>((x[j] - top) - total)


cdef void limit(const real* x, Py_ssize_t n, real low, real high, real* out) noexcept nogil:
    """min(max(x, low), high), without branches that the processor would have to guess."""
    cdef Py_ssize_t j
    cdef real v
    for j in range(n):
        v = x[j]
        v = low if v < low else v
        out[j] = high if v > high else v
