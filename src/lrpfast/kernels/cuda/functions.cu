// Activation functions and their derivatives (from the left at a kink), in double precision as on the CPU.

// of a function that there is not: a result that is not finite is a fault
__device__ __forceinline__ double not_a_number() { return __uint_as_float(0x7fc00000u); }

__device__ __forceinline__ double sigmoid(double x)
{
    const double t = exp(-fabs(x));
    return x >= 0 ? 1 / (1 + t) : t / (1 + t);
}

// the sigmoid of x + rest, with a rest below x's last place
__device__ __forceinline__ double sigmoid_of_sum(double x, double rest)
{
    double t = exp(-fabs(x));
    t += t * (x < 0 ? rest : -rest);
    return x >= 0 ? 1 / (1 + t) : t / (1 + t);
}

// 2 u of GELU by tanh, and what rounding takes of it, of which a float does not see anything: `twice_u` of _functions.pxi
__device__ __forceinline__ double twice_u(double x, double* rest)
{
    *rest = 0;
    if (sizeof(REAL) < sizeof(double))
        return 1.5957691216057308 * (x + 0.044715 * x * x * x);
    const double t = fmin(fmax(x, -40.0), 40.0), square = t * t, part = 0.044715 * square, whole = 1 + part;
    const double lead = 1.5957691216057308 * t, v = lead * whole, added = whole - 1;
    const double off = fma(1.5957691216057308, t, -lead) - 9.96930880911092e-17 * t;
    double low = fma(0.044715, square, -part) + (0.044715 * fma(t, t, -square) + 2.1960211427085595e-18 * square);
    low += (1 - (whole - added)) + (part - added);
    *rest = fma(lead, whole, -v) + (lead * low + off * whole);
    return v;
}

// erfc(-x / sqrt(2)) / 2, corrected by what rounding takes of the argument
__device__ __forceinline__ double normal_tail(double x)
{
    const double z = x * -0.7071067811865476;
    if (sizeof(REAL) < sizeof(double))
        return 0.5 * erfc(z);
    const double rest = fma(x, -0.7071067811865476, -z) + x * 4.833646656726457e-17;
    return 0.5 * erfc(z) - 0.5641895835477563 * rest * exp(-z * z);
}

// exp(-x * x / 2) / sqrt(2 pi)
__device__ __forceinline__ double normal_density(double x)
{
    const double square = x * x;
    return 0.3989422804014327 * exp(-0.5 * square) * (square < 2000 ? 1 - 0.5 * fma(x, x, -square) : 0);
}

__device__ __forceinline__ double softplus(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }

// p: relu's max_value, negative_slope and threshold; else a function's parameters in their order
__device__ double evaluate(int function, double x, const double* p)
{
    double t, rest;
    switch (function) {
    case RELU:
        t = x > p[2] ? x : p[1] * (x - p[2]);
        return t > p[0] ? p[0] : t;
    case LEAKY_RELU:
    case PRELU:
        return x > 0 ? x : p[0] * x;
    case ELU:
        return x > 0 ? x : p[0] * expm1(x);
    case SELU: // Klambauer et al. 2017
        return 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * expm1(x));
    case GELU: // exact or by tanh, of which 1 + tanh(u) is 2 * sigmoid(2 u): no digits are lost far below zero
        if (!p[0])
            return x * normal_tail(x);
        t = twice_u(x, &rest);
        return x * sigmoid_of_sum(t, rest);
    case SILU:
        return x * sigmoid(x);
    case TANH:
        return tanh(x);
    case SIGMOID:
        return sigmoid(x);
    case HARD_SIGMOID:
        t = p[0] * x + p[1];
        return t < 0 ? 0 : t > 1 ? 1 : t;
    case SOFTPLUS:
        return softplus(x);
    case SOFTSIGN:
        return x / (1 + fabs(x));
    case EXPONENTIAL:
        return exp(x);
    case MISH:
        return x * tanh(softplus(x));
    case CLIP:
        return x < p[0] ? p[0] : x > p[1] ? p[1] : x;
    case CELU:
        return x > 0 ? x : p[0] * expm1(x / p[0]);
    case SHRINK: // threshold, shift
        return x < -p[0] ? x + p[1] : x > p[0] ? x - p[1] : 0;
    case LOG_SIGMOID:
        return -softplus(-x);
    case POWER:
        return pow(x, p[0]);
    case HARD_SILU:
        return x > 3 ? x : x > -3 ? x * (x + 3) / 6 : 0;
    case LOG:
        return log(x);
    default:
        return not_a_number();
    }
}

__device__ double slope_of(int function, double x, const double* p)
{
    double t, u;
    switch (function) {
    case RELU:
        t = x > p[2] ? x : p[1] * (x - p[2]);
        return t > p[0] ? 0 : x > p[2] ? 1 : p[1];
    case LEAKY_RELU:
    case PRELU:
        return x > 0 ? 1 : p[0];
    case ELU:
        return x > 0 ? 1 : p[0] * exp(x);
    case SELU:
        return 1.0507009873554805 * (x > 0 ? 1 : 1.6732632423543772 * exp(x));
    case GELU:
        if (p[0]) {
            double rest;
            u = twice_u(x, &rest);
            t = sigmoid_of_sum(u, rest);
            u = sigmoid_of_sum(-u, -rest);
            return t > 0 && u > 0 ? t * fma(1.5957691216057308 * x * u, fma(0.134145 * x, x, 1.0), 1.0) : t;
        }
        return normal_tail(x) + x * normal_density(x);
    case SILU:
        return sigmoid(x) * (1 + x * sigmoid(-x));
    case TANH:
        t = 1 / cosh(x);
        return t * t;
    case SIGMOID:
        return sigmoid(x) * sigmoid(-x);
    case HARD_SIGMOID:
        t = p[0] * x + p[1];
        return t > 0 && t <= 1 ? p[0] : 0;
    case SOFTPLUS:
        return sigmoid(x);
    case SOFTSIGN:
        return 1 / ((1 + fabs(x)) * (1 + fabs(x)));
    case EXPONENTIAL:
        return exp(x);
    case MISH:
        t = softplus(x);
        u = 1 / cosh(t);
        return tanh(t) + x * (u * u) * sigmoid(x);
    case CLIP:
        return x > p[0] && x <= p[1] ? 1 : 0;
    case CELU:
        return x > 0 ? 1 : exp(x / p[0]);
    case SHRINK:
        return x > -p[0] && x <= p[0] ? 0 : 1;
    case LOG_SIGMOID:
        return sigmoid(-x);
    case POWER:
        return p[0] * pow(x, p[0] - 1);
    case HARD_SILU:
        return x > 3 ? 1 : x > -3 ? x / 3 + 0.5 : 0;
    case LOG:
        return 1 / x;
    default:
        return not_a_number();
    }
}
