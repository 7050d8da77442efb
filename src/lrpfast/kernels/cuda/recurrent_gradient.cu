// The derivative of recurrent layers, from the factors that `recur` stores (recurrent.cu).

// The parts of a step's memory: R of the states, quotients by block, and R of gates or of r h.
struct Back {
    double *h, *c, *s, *gates, *more;
};

// What a product with the weights hands on: to x (added to what is there where `adds`) and, added, to `to_h`.
__device__ void add_derivatives(const Recurrence& r, const double* w, int columns, int blocks, bool adds, int lane,
                                const double* s, REAL* to_x, double* x_sums, double* to_h)
{
    for (int i = lane; i < r.features + r.units; i += 32) {
        const double* row = w + (i64)i * columns;
        double sum = 0;
        for (int k = 0; k < blocks * r.units; k++)
            sum = fma(s[k], row[k], sum);
        if (i < r.features) {
            x_sums[i] = (adds ? x_sums[i] : 0) + sum;
            to_x[i] = (REAL)x_sums[i];
        } else
            to_h[i - r.features] += sum;
    }
    __syncwarp();
}

// As derivative_back in tile_recurrent_gradient.h; v: a step's factors.
__device__ void derivative_back(const Recurrence& r, const REAL* v, int lane, const Back& b, REAL* to_x, double* x_sums)
{
    const int n = r.units, columns = r.blocks * n;
    UNITS(j)
    {
        const double of_h = b.h[j], first = v[j];
        if (r.cell == LSTM) {
            const double of_c = b.c[j] + of_h * v[4 * n + j];
            b.s[j] = of_c * first;
            b.s[n + j] = of_c * v[n + j];
            b.s[2 * n + j] = of_c * v[2 * n + j];
            b.s[3 * n + j] = of_h * v[3 * n + j];
            b.c[j] = of_c * v[5 * n + j];
            b.h[j] = 0;
        } else if (r.cell == SIMPLE) {
            b.s[j] = of_h * first;
            b.h[j] = 0;
        } else {
            const double of_n = of_h * first, of_z = of_h * v[n + j];
            if (r.cell == GRU_AFTER) {
                b.s[j] = of_z;
                b.s[n + j] = of_n * v[3 * n + j];
                b.s[2 * n + j] = of_n;
                b.s[3 * n + j] = of_n * v[4 * n + j];
            } else {
                b.s[j] = of_n;
                b.gates[j] = of_z;
                b.more[j] = 0;
            }
            b.h[j] = of_h * v[2 * n + j];
        }
    }
    __syncwarp();
    if (r.cell != GRU_BEFORE) {
        add_derivatives(r, r.weights, columns, r.blocks, false, lane, b.s, to_x, x_sums, b.h);
        return;
    }
    add_derivatives(r, r.candidate, n, 1, false, lane, b.s, to_x, x_sums, b.more); // more: of r h
    UNITS(j)
    {
        const double q = b.more[j];
        b.s[j] = b.gates[j];
        b.s[n + j] = q * v[3 * n + j];
        b.h[j] += q * v[4 * n + j];
    }
    __syncwarp();
    add_derivatives(r, r.weights, columns, 2, true, lane, b.s, to_x, x_sums, b.h);
}
