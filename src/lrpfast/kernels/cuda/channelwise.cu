// Contractions channel by channel (depthwise, means, batch norms, sums): a thread makes one value, taps in order.

template <int NS>
__device__ __forceinline__ void contract_channelwise(const Contraction& op, const Run& run)
{
    const int r = blockIdx.y;
    const Region* own = op.geometry ? &op.geometry->regions[r] : 0;
    const i64 rows = own ? own->rows : op.rows;
    FOR_EACH(i, run.samples * rows * op.width)
    {
        const i64 m = i / op.width;
        const int c = (int)(i - m * op.width);
        REAL sums[NS][1];
#pragma unroll
        for (int a = 0; a < NS; a++)
            sums[a][0] = 0;
        i64 in_sample = m % op.rows;
        RowCoords p = {m / op.rows, {0, 0, 0}};
        if (own) {
            p = coords_of(*own, m);
            in_sample = row_at(*op.geometry, *own, p);
        }
        for (int t = 0; t < op.terms_count; t++) {
            const Term& term = op.terms[t];
            const REAL *source = run.at(term.source), *w = term.weights[r];
            REAL sum = 0;
            if (!term.geometry) {
                const REAL x = part_of(term.part, source[m * op.width + c]), weight = term.alike ? w[0] : w[c];
                sum = (term.round ? tf32(x) : x) * weight;
            } else {
                const Geometry& g = *term.geometry;
                const Axis *x = &g.regions[r].axes[0], *y = x + 1, *z = x + 2;
                int tap = 0;
                for (int j = p.axis[0] * x->taps; j < (p.axis[0] + 1) * x->taps; j++)
                    for (int k = p.axis[1] * y->taps; k < (p.axis[1] + 1) * y->taps; k++)
                        for (int l = p.axis[2] * z->taps; l < (p.axis[2] + 1) * z->taps; l++, tap++) {
                            if (x->index[j] < 0 || y->index[k] < 0 || z->index[l] < 0)
                                continue;
                            const i64 row = p.sample * g.source_rows +
                                            ((i64)x->index[j] * g.source[1] + y->index[k]) * g.source[2] + z->index[l];
                            REAL value = part_of(term.part, source[row * op.width + c]);
                            value = term.round ? tf32(value) : value;
                            double factor = x->factor ? x->factor[j] : 1;
                            factor = y->factor ? factor * y->factor[k] : factor;
                            factor = z->factor ? factor * z->factor[l] : factor;
                            if (term.alike)
                                sum = fma_(value, (REAL)(factor * w[tap]), sum);
                            else
                                sum = fma_(value * (REAL)factor, w[(i64)tap * op.width + c], sum);
                        }
            }
#pragma unroll
            for (int a = 0; a < NS; a++)
                if (a == term.accumulator)
                    sums[a][0] = sums[a][0] + sum;
        }
        const i64 at = (p.sample * op.rows + in_sample) * op.width + c;
        epilogue<NS, 1>(op, run, sums, at, in_sample * op.width + c, 1);
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) channelwise_1(const Contraction* op, RUN_ARGUMENTS)
{
    contract_channelwise<1>(*op, RUN);
}

extern "C" __global__ void __launch_bounds__(256, 2) channelwise_2(const Contraction* op, RUN_ARGUMENTS)
{
    contract_channelwise<2>(*op, RUN);
}

extern "C" __global__ void __launch_bounds__(256, 2) channelwise_8(const Contraction* op, RUN_ARGUMENTS)
{
    contract_channelwise<SUMS>(*op, RUN);
}
