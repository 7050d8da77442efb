// wgmma for the stand-in: part of cuda_shim.h, inside of its namespace.
//
// What the instructions do is from the PTX ISA (8.8), sections 9.7.15.4 to 9.7.15.7: fragments of m64n128k8, the layout
// of an operand in shared memory, its descriptor, and what must be fenced and waited for. Products are computed when
// they are waited for, not before, from what shared memory held when they were asked for; if it has changed meanwhile,
// that is an error.

struct Product {
    float* d;
    uint64_t rows;
    int keep, group;
    float a[2][8], b[32][8];                            // of this lane's two rows, and of its 32 columns
};

// The 18 bits of an address in shared memory.
static unsigned shared_address(const void* p) {
    size_t offset = (const char*)p - shared_arena;
    if (!shared_arena || offset >= SHARED_ROOM) fail("an address outside of dynamic shared memory, %s", where(current));
    return (unsigned)offset;
}
// Element (n, k) of eight columns of the operand that a descriptor tells of.
static float operand(uint64_t descriptor, int n, int k, int line) {
    const uint64_t fields = 0x3fffull | 0x3fffull << 16 | 0x3fffull << 32 | 7ull << 49 | 3ull << 62;
    unsigned start = (descriptor & 0x3fff) << 4, apart = (descriptor >> 32 & 0x3fff) << 4;
    if (descriptor & ~fields) fail("reserved bits of a descriptor are set in line %d, %s", line, where(current));
    if (descriptor >> 62 != 1) fail("only 128-byte swizzling is emulated, line %d, %s", line, where(current));
    if (descriptor >> 49 & 7 || start % 1024 >= 128)
        fail("a swizzled pattern must begin at a multiple of 1024 bytes, line %d, %s", line, where(current));
    unsigned linear = start + n / 8 * apart + n % 8 * 128 + k * 4, at = linear ^ (linear >> 7 & 7) << 4;
    if (at + 4 > SHARED_ROOM || shared_arena + at < dynamic_shared)
        fail("wgmma reads outside of dynamic shared memory in line %d, %s", line, where(current));
    unsigned bits;
    memcpy(&bits, shared_arena + at, 4);
    return from_tf32(bits);
}
static void gather(Product& p, int line) {
    for (int c = 0; c < 32; ++c)
        for (int k = 0; k < 8; ++k) p.b[c][k] = operand(p.rows, c / 2 * 8 + lane() % 4 * 2 + c % 2, k, line);
}

static void wgmma_fence() { threads[current].fenced = true; }
static void wgmma_commit() {
    threads[current].fenced = false;                    // whatever registers are written next need another
    ++threads[current].product_group;
}
// fence.proxy.async: what this thread has written to shared memory may be read by wgmma after the next barrier
static void proxy_fence() { threads[current].unshown = false; }

// d (64, 128) = d + a (64, 8) b (8, 128), or a b alone
static void wgmma_m64n128k8(float* d, const unsigned* a, uint64_t rows, int keep, int line) {
    static uint64_t asked[MAX_THREADS / 128][1 << 14];  // by the first warp of each group of four that got there
    Thread& t = threads[current];
    int group = current / 128, number = t.product_number++ & ((1 << 14) - 1);
    if (!t.fenced) fail("wgmma without wgmma.fence before it in line %d, %s", line, where(current));
    if (unshown) fail("wgmma reads what fence.proxy.async has not shown it, line %d, %s", line, where(current));
    if (t.product_number > most_products[group]) {
        most_products[group] = t.product_number;
        asked[group][number] = rows ^ keep;
    } else if (asked[group][number] != (rows ^ keep))
        fail("the warps of a wgmma differ in line %d, %s", line, where(current));
    if (t.products == t.product_room)
        t.product = (Product*)realloc(t.product, (t.product_room = 2 * t.product_room + 16) * sizeof(Product));
    Warp& w = warp();
    int me = lane(), half = w.round & 1;
    for (int i = 0; i < 4; ++i) w.tile[half][me][i] = from_tf32(a[i]);
    meet(0xffffffffu, rows, line);
    Product& p = t.product[t.products++];
    p.d = d, p.rows = rows, p.keep = keep, p.group = t.product_group;
    for (int h = 0; h < 2; ++h)
        for (int k = 0; k < 8; ++k) p.a[h][k] = w.tile[half][me / 4 * 4 + k % 4][h + k / 4 * 2];
    gather(p, line);
}
static void wgmma_wait(int line) {                      // for all groups that are committed
    Thread& t = threads[current];
    int n = 0;
    for (; n < t.products && t.product[n].group < t.product_group; ++n) {
        Product &p = t.product[n], now = p;
        gather(now, line);
        if (memcmp(p.b, now.b, sizeof p.b)) fail("the operand of a wgmma under way has changed, %s", where(current));
        for (int e = 0; e < 64; ++e) {
            double sum = p.keep ? p.d[e] : 0;
            for (int k = 0; k < 8; ++k) sum += (double)p.a[e / 2 % 2][k] * p.b[e / 4 * 2 + e % 2][k];
            p.d[e] = truncated(sum);
        }
    }
    memmove(t.product, t.product + n, (t.products -= n) * sizeof(Product));
}
