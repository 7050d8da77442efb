// Sums that lie in memory, a plane for each split of each accumulator, become outputs or relevance. A plane may be
// where the output goes: a thread has read its values before it writes.

template <int NS>
__device__ __forceinline__ void reduce_planes(const Contraction& op, const REAL* planes, int splits, const Run& run)
{
    const i64 sample = (i64)op.rows * op.width, total = run.samples * sample;
    FOR_EACH(q, (total + 3) / 4)
    {
        const i64 at = q * 4;
        const int n = (int)(total - at < 4 ? total - at : 4);
        REAL sums[NS][4];
#pragma unroll
        for (int a = 0; a < NS; a++) {
            get<4>(planes + a * splits * total + at, a < op.sums ? n : 0, sums[a]);
            for (int s = 1; s < splits && a < op.sums; s++) {
                REAL more[4];
                get<4>(planes + (a * splits + s) * total + at, n, more);
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sums[a][j] = sums[a][j] + more[j];
            }
        }
        const i64 in_sample = at % sample;
        if (n == 4 && in_sample % op.width + 4 <= op.width)
            epilogue<NS, 4>(op, run, sums, at, in_sample, n);
        else
#pragma unroll
            for (int j = 0; j < 4; j++) { // over the end of a row, or of everything
                REAL one[NS][1];
#pragma unroll
                for (int a = 0; a < NS; a++)
                    one[a][0] = sums[a][j];
                if (j < n)
                    epilogue<NS, 1>(op, run, one, at + j, (at + j) % sample, 1);
            }
    }
}

extern "C" __global__ void __launch_bounds__(256, 2)
split_k_reduce_1(const Contraction* op, const REAL* planes, int splits, RUN_ARGUMENTS)
{
    reduce_planes<1>(*op, planes, splits, RUN);
}

extern "C" __global__ void __launch_bounds__(256, 2)
split_k_reduce_2(const Contraction* op, const REAL* planes, int splits, RUN_ARGUMENTS)
{
    reduce_planes<2>(*op, planes, splits, RUN);
}

extern "C" __global__ void __launch_bounds__(256, 1)
split_k_reduce_8(const Contraction* op, const REAL* planes, int splits, RUN_ARGUMENTS)
{
    reduce_planes<SUMS>(*op, planes, splits, RUN);
}

// The rows that a term contracts, parts taken and rounded, as a matrix in scratch memory: what a library's product
// takes where there is a geometry of one region (im2col), or TF32.
extern "C" __global__ void __launch_bounds__(256, 2)
rows_of_term(const Contraction* op, int t, REAL* out, RUN_ARGUMENTS)
{
    const Run run = RUN;
    const Term& term = op->terms[t];
    const REAL* source = run.at(term.source);
    if (!term.geometry) {
        FOR_EACH(i, run.samples * term.source.size)
        {
            const REAL value = part_of(term.part, source[i]);
            out[i] = term.round ? tf32(value) : value;
        }
        return;
    }
    const Geometry& g = *term.geometry;
    const Region& region = g.regions[0];
    const i64 depth = (i64)region.taps * term.channels;
    FOR_EACH(i, run.samples * region.rows * depth)
    {
        const i64 m = i / depth, k = i - m * depth;
        const int tap = (int)(k / term.channels), c = (int)(k - (i64)tap * term.channels);
        const RowCoords p = coords_of(region, m);
        const Tap at(region, tap);
        const int a = region.axes[0].index[p.axis[0] * region.axes[0].taps + at.x];
        const int b = region.axes[1].index[p.axis[1] * region.axes[1].taps + at.y];
        const int d = region.axes[2].index[p.axis[2] * region.axes[2].taps + at.z];
        REAL value = 0;
        if (a >= 0 && b >= 0 && d >= 0)
            value = source[(p.sample * g.source_rows + ((i64)a * g.source[1] + b) * g.source[2] + d) * term.stride +
                           c];
        value = part_of(term.part, value);
        out[i] = term.round ? tf32(value) : value;
    }
}
