// Attention, a warp for each row: of queries, or of keys and values. Weights are computed where they are used, so that no
// matrix of queries by keys exists. `index` of a `Light` holds what AttentionOp's shape says, in this order:

struct Heads {
    int lead, heads, kv_heads, n, m, d, e, before, after;
    int seen[4], bias[4], mask[4]; // from an attention, a head, a query and a key to the next; 0 where stretched
};

// one softmax: query i of a head of attention `at`, which counts those of all samples
struct Query {
    i64 at;
    int lead, head, shared, i;
    const REAL *q, *mask; // its vector; the sample's mask or 0
    REAL top, total;
};

__device__ __forceinline__ i64 offset(const int* steps, const Query& query, int j)
{
    return (i64)query.lead * steps[0] + (i64)query.head * steps[1] + (i64)query.i * steps[2] + (i64)j * steps[3];
}

__device__ __forceinline__ void select_query(const Light& op, const Run& run, const Heads& h, i64 at, int head, int i,
                                             Query* query)
{
    query->at = at;
    query->lead = (int)(at % h.lead);
    query->head = head;
    query->shared = head / (h.heads / h.kv_heads);
    query->i = i;
    query->q = run.at(op.reads[0]) + ((at * h.n + i) * h.heads + head) * h.d;
    query->mask = op.flag ? run.at(op.reads[3]) + at / h.lead * op.reads[3].size : 0;
}

__device__ __forceinline__ REAL dot_product(const REAL* a, const REAL* b, int n)
{
    REAL sum = 0;
    for (int c = 0; c < n; c++)
        sum = fma_(a[c], b[c], sum);
    return sum;
}

// x of the softmax without its bias, from the product z
__device__ __forceinline__ REAL capped(const Light& op, REAL z)
{
    const REAL x = (REAL)op.p[0] * z, cap = (REAL)op.p[1];
    return cap != 0 ? (REAL)(cap * tanh((double)(x / cap))) : x;
}

__device__ __forceinline__ REAL minus_infinity() { return -__uint_as_float(0x7f800000u); }

// a query's product with a key, and what the softmax takes of it: -inf of a key that it does not see
__device__ __forceinline__ REAL score(const Light& op, const Run& run, const Heads& h, const Query& query, int j, REAL* z)
{
    const REAL* k = run.at(op.reads[1]) + ((query.at * h.m + j) * h.kv_heads + query.shared) * h.d;
    *z = dot_product(query.q, k, h.d);
    if ((h.before >= 0 && j < query.i - h.before) || (h.after >= 0 && j > (i64)query.i + h.after))
        return minus_infinity();
    if (op.more_values && op.more_values[offset(h.seen, query, j)] == 0)
        return minus_infinity();
    if (query.mask && query.mask[offset(h.mask, query, j)] == 0)
        return minus_infinity();
    const REAL x = capped(op, *z);
    return op.values ? x + op.values[offset(h.bias, query, j)] : x;
}

__device__ __forceinline__ REAL weight(const Query& query, REAL x)
{
    return query.total > 0 ? (REAL)((REAL)exp((double)(x - query.top)) / (double)query.total) : (REAL)0;
}

LIGHT(masked_softmax) // source, mask
{
    const REAL *x = run.at(op.reads[0]), *mask = op.flag ? run.at(op.reads[1]) : 0;
    REAL* out = run.at(op.writes[0]);
    const i64 size = op.writes[0].size;
    FOR_EACH_ROW(row, run.samples * (size / op.columns))
    {
        const i64 at = row * op.columns;
        const REAL* seen = op.values ? op.values + at % size % op.run : 0;
        double top = minus_infinity(), total = 0;
        for (int j = lane; j < op.columns; j += 32)
            if (!(seen && seen[j] == 0) && !(mask && mask[at + j] == 0))
                top = x[at + j] > top ? (double)x[at + j] : top;
        top = warp_max(top);
        for (int j = lane; j < op.columns; j += 32)
            if (!(seen && seen[j] == 0) && !(mask && mask[at + j] == 0))
                total += (REAL)exp((double)(x[at + j] - (REAL)top));
        total = warp_sum(total);
        for (int j = lane; j < op.columns; j += 32) {
            const bool hidden = (seen && seen[j] == 0) || (mask && mask[at + j] == 0);
            write(op, run, out, at + j, hidden ? (REAL)0 : (REAL)((REAL)exp((double)(x[at + j] - (REAL)top)) / total));
        }
    }
}

LIGHT(attention_op) // q, k, v, mask
{
    const Heads& h = *(const Heads*)op.index;
    const REAL* v = run.at(op.reads[2]);
    REAL *out = run.at(op.writes[0]), *rows = op.has_winner ? run.at(op.writes[1]) : 0;
    FOR_EACH_ROW(row, run.samples * (i64)h.lead * h.heads * h.n)
    {
        Query query;
        REAL z;
        select_query(op, run, h, row / ((i64)h.heads * h.n), (int)(row / h.n % h.heads), (int)(row % h.n), &query);
        double top = minus_infinity(), total = 0;
        for (int j = lane; j < h.m; j += 32) {
            const double x = score(op, run, h, query, j, &z);
            top = x > top ? x : top;
        }
        top = warp_max(top);
        query.top = top > minus_infinity() ? (REAL)top : (REAL)0;
        for (int j = lane; j < h.m; j += 32)
            total += (REAL)exp((double)(score(op, run, h, query, j, &z) - query.top));
        query.total = (REAL)warp_sum(total);
        if (rows && lane == 0) {
            rows[2 * row] = query.top;
            rows[2 * row + 1] = query.total;
        }
        for (int c = lane; c - lane < h.e; c += 32) {
            REAL sum = 0;
            for (int j0 = 0; j0 < h.m; j0 += 32) {
                const int j = j0 + lane;
                const REAL own = j < h.m ? weight(query, score(op, run, h, query, j, &z)) : (REAL)0;
                for (int t = 0; t < 32 && j0 + t < h.m; t++) {
                    const REAL a = __shfl_sync(0xffffffffu, own, t);
                    if (c < h.e)
                        sum = fma_(a, v[((query.at * h.m + j0 + t) * h.kv_heads + query.shared) * h.e + c], sum);
                }
            }
            if (c < h.e)
                write(op, run, out, ((query.at * h.n + query.i) * h.heads + query.head) * h.e + c, sum);
        }
    }
}

// s of a query's product with a key: what its relevance is z times, also where z is 0. See `score_relevance` of
// _attention.pxi
__device__ __forceinline__ REAL score_relevance(const Light& op, const Heads& h, const Query& query, int j, REAL z,
                                                REAL a, REAL along, REAL total)
{
    const REAL bias = op.values ? op.values[offset(h.bias, query, j)] : (REAL)0;
    REAL r = a * ((REAL)0.5 * along - total);
    const REAL x = capped(op, z), y = op.values ? x + bias : x;
    if (op.stabilizer == ZERO)
        return (op.p[1] != 0 && z != 0 ? x / z : (REAL)op.p[0]) * r;
    r = y * r;
    for (i64 sum = op.count; sum > 0; sum--)
        r = (sum > 1 ? y : x) * (r / stabilized(y, (REAL)op.p[3], op.stabilizer));
    return r / stabilized(z, (REAL)op.p[2], op.stabilizer);
}

// a row's largest score and sum again, and half of what its s takes of its output
__device__ __forceinline__ void recall_query(const Light& op, const Run& run, const Heads& h, Query* query)
{
    const REAL* rows = run.at(op.reads[4]) + 2 * ((query->at * h.heads + query->head) * h.n + query->i);
    query->top = rows[0];
    query->total = rows[1];
}

__device__ __forceinline__ i64 output_of(const Heads& h, i64 at, int i, int head)
{
    return ((at * h.n + i) * h.heads + head) * h.e;
}

// a key's weight for query u of those that see it, and s of their product
__device__ __forceinline__ void of_query(const Light& op, const Run& run, const Heads& h, i64 at, int shared, int j, int u,
                                         REAL* a, REAL* s_score)
{
    const REAL *v = run.at(op.reads[2]) + ((at * h.m + j) * h.kv_heads + shared) * h.e;
    Query query;
    REAL z;
    select_query(op, run, h, at, shared * (h.heads / h.kv_heads) + u / h.n, u % h.n, &query);
    recall_query(op, run, h, &query);
    *a = weight(query, score(op, run, h, query, j, &z));
    *s_score = 0;
    if (op.detached)
        return;
    const REAL *out = run.at(op.reads[5]) + output_of(h, at, query.i, query.head);
    const REAL *s = run.at(op.reads[6]) + output_of(h, at, query.i, query.head);
    double total = 0;
    for (int f = 0; f < h.e; f++)
        total += (double)s[f] * out[f];
    *s_score = score_relevance(op, h, query, j, z, *a, dot_product(s, v, h.e), (REAL)(0.5 * total));
}

// a key and its value: over the queries of all heads that share them, in order
__device__ __forceinline__ void back_to_key(const Light& op, const Run& run, const Heads& h, i64 task, int lane)
{
    const i64 at = task / ((i64)h.kv_heads * h.m);
    const int shared = (int)(task / h.m % h.kv_heads), j = (int)(task % h.m), group = h.heads / h.kv_heads;
    const i64 row = (at * h.m + j) * h.kv_heads + shared;
    const REAL *q = run.at(op.reads[0]), *k = run.at(op.reads[1]), *v = run.at(op.reads[2]), *s = run.at(op.reads[6]);
    const int widest = h.d > h.e ? h.d : h.e;
    for (int c = lane; c - lane < widest; c += 32) {
        REAL sum_k = 0, sum_v = 0;
        for (int u0 = 0; u0 < group * h.n; u0 += 32) {
            REAL a = 0, s_score = 0;
            if (u0 + lane < group * h.n)
                of_query(op, run, h, at, shared, j, u0 + lane, &a, &s_score);
            for (int t = 0; t < 32 && u0 + t < group * h.n; t++) {
                const REAL of_v = __shfl_sync(0xffffffffu, a, t), of_k = __shfl_sync(0xffffffffu, s_score, t);
                const int head = shared * group + (u0 + t) / h.n, i = (u0 + t) % h.n;
                if (c < h.e)
                    sum_v = fma_(of_v, s[output_of(h, at, i, head) + c], sum_v);
                if (c < h.d && !op.detached)
                    sum_k = fma_(of_k, q[((at * h.n + i) * h.heads + head) * h.d + c], sum_k);
            }
        }
        if (c < h.e)
            write(op, run, run.at(op.writes[0]), row * h.e + c,
                  (REAL)(op.detached ? 1 : 0.5) * (v[row * h.e + c] * sum_v));
        if (c < h.d && !op.detached)
            write(op, run, run.at(op.writes[2]), row * h.d + c, (REAL)0.5 * (k[row * h.d + c] * sum_k));
    }
}

__device__ __forceinline__ void back_to_query(const Light& op, const Run& run, const Heads& h, i64 row, int lane)
{
    const REAL *k = run.at(op.reads[1]), *v = run.at(op.reads[2]);
    Query query;
    REAL z;
    select_query(op, run, h, row / ((i64)h.heads * h.n), (int)(row / h.n % h.heads), (int)(row % h.n), &query);
    recall_query(op, run, h, &query);
    const REAL *out = run.at(op.reads[5]) + output_of(h, query.at, query.i, query.head);
    const REAL *s = run.at(op.reads[6]) + output_of(h, query.at, query.i, query.head);
    double total = 0;
    for (int f = lane; f < h.e; f += 32)
        total += (double)s[f] * out[f];
    total = warp_sum(total);
    for (int c = lane; c - lane < h.d; c += 32) {
        REAL sum = 0;
        for (int j0 = 0; j0 < h.m; j0 += 32) {
            const int j = j0 + lane;
            REAL own = 0;
            if (j < h.m) {
                const REAL a = weight(query, score(op, run, h, query, j, &z));
                const REAL* of = v + ((query.at * h.m + j) * h.kv_heads + query.shared) * h.e;
                own = score_relevance(op, h, query, j, z, a, dot_product(s, of, h.e), (REAL)(0.5 * total));
            }
            for (int t = 0; t < 32 && j0 + t < h.m; t++) {
                const REAL factor = __shfl_sync(0xffffffffu, own, t);
                if (c < h.d)
                    sum = fma_(factor, k[((query.at * h.m + j0 + t) * h.kv_heads + query.shared) * h.d + c], sum);
            }
        }
        if (c < h.d)
            write(op, run, run.at(op.writes[1]), ((query.at * h.n + query.i) * h.heads + query.head) * h.d + c,
                  (REAL)0.5 * (query.q[c] * sum));
    }
}

LIGHT(attention_back) // q, k, v, mask, rows, out, s; to_v, to_q, to_k
{
    const Heads& h = *(const Heads*)op.index;
    const i64 keys = run.samples * (i64)h.lead * h.kv_heads * h.m;
    const i64 queries = op.detached ? 0 : run.samples * (i64)h.lead * h.heads * h.n;
    FOR_EACH_ROW(task, keys + queries)
    {
        if (task < keys)
            back_to_key(op, run, h, task, lane);
        else
            back_to_query(op, run, h, task - keys, lane);
    }
}
