// Activation functions and their derivatives (from the left at a kink), in double precision as on the CPU.

// of a function that there is not: a result that is not finite is a fault
__device__ __forceinline__ double not_a_number() { return __uint_as_float(0x7fc00000u); }

__device__ __forceinline__ double sigmoid(double x)
{
    const double t = exp(-fabs(x));
    return x >= 0 ? 1 / (1 + t) : t / (1 + t);
}

__device__ __forceinline__ double softplus(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }

// p: relu's max_value, negative_slope and threshold; else a function's parameters in their order
__device__ double evaluate(int function, double x, const double* p)
{
    double t;
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
    case GELU:        // exact or by tanh;
        if (p[0])     // 1 + tanh(u) as 2 * sigmoid(2 u), and 1 + erf as erfc: no digits lost far below zero
            return x * sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x));
        return 0.5 * x * erfc(x * -0.7071067811865476);
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
            u = 1.5957691216057308 * (x + 0.044715 * x * x * x);
            t = sigmoid(u);
            u = t * sigmoid(-u);
            return t + (u > 0 ? x * u * 1.5957691216057308 * (1 + 0.134145 * x * x) : 0);
        }
        return 0.5 * erfc(x * -0.7071067811865476) + 0.3989422804014327 * x * exp(-0.5 * x * x);
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
