// Causal attention with heads of 32 in bfloat16, forward and backward, for CPUs with AMX.
//
// Tensors are [batch, heads, length, 32] with any strides (in elements) but the last, which
// is 1; length is a multiple of 32. Query heads share key heads: head h uses key head
// h / (heads / groups). Scores are recomputed in the backward pass from `lse`, the
// logarithm of each query's sum of exponentials.

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { D = 32, ROWS = 16, TILE = 512 /* bf16 values of a tile */ };

typedef uint16_t bf16;

typedef struct {
    bf16 *data;
    int64_t batch, head, row; // strides
} tensor;

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} tile_config;

// The system lets a process use tiles when it asks for them.
int prepare(void) { return (int)syscall(SYS_arch_prctl, 0x1023, 18); }

static void configure(void) {
    tile_config config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = ROWS;
    _tile_loadconfig(&config);
}

static bf16 *at(tensor t, int64_t batch, int64_t head) { return t.data + batch * t.batch + head * t.head; }

static void *buffer(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

static __m512 exp512(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
    const __m512 y = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    const __m512 n = _mm512_roundscale_ps(y, 0);
    const __m512 f = _mm512_sub_ps(y, n);
    __m512 p = _mm512_set1_ps(1.3333558e-3f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.6181291e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5504109e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022651e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314718e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

static void store_bf16(bf16 *to, __m512 x) {
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x));
}

// Right operands that stand for the transposed rows: one tile for 16 rows.
static void pack_transposed(const bf16 *rows, int64_t stride, int length, bf16 *tiles) {
    const __m512i index = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32((int)stride));
    for (int i = 0; i < length; i += ROWS, tiles += TILE)
        for (int pair = 0; pair < D / 2; pair++)
            _mm512_store_si512(tiles + pair * 32, _mm512_i32gather_epi32(index, rows + i * stride + 2 * pair, 2));
}

// Right operands that stand for the rows themselves: two tiles (columns 0 to 15, 16 to 31) for 32 rows.
static void pack(const bf16 *rows, int64_t stride, int length, bf16 *tiles) {
    uint16_t low[32], high[32];
    for (int c = 0; c < 16; c++) {
        low[2 * c] = (uint16_t)c, low[2 * c + 1] = (uint16_t)(c + 32);
        high[2 * c] = (uint16_t)(c + 16), high[2 * c + 1] = (uint16_t)(c + 48);
    }
    const __m512i pick_low = _mm512_loadu_si512(low), pick_high = _mm512_loadu_si512(high);
    for (int i = 0; i < length; i += 32, tiles += 2 * TILE)
        for (int pair = 0; pair < 16; pair++) {
            const __m512i a = _mm512_loadu_si512(rows + (i + 2 * pair) * stride);
            const __m512i b = _mm512_loadu_si512(rows + (i + 2 * pair + 1) * stride);
            _mm512_store_si512(tiles + pair * 32, _mm512_permutex2var_epi16(a, pick_low, b));
            _mm512_store_si512(tiles + TILE + pair * 32, _mm512_permutex2var_epi16(a, pick_high, b));
        }
}

// Tiles 0 and 1 hold 16 rows of 32: times a factor per row (or one factor), as bf16.
static void store_rows(bf16 *to, int64_t stride, const float *factors, float factor) {
    float low[256] __attribute__((aligned(64))), high[256] __attribute__((aligned(64)));
    _tile_stored(0, low, 64);
    _tile_stored(1, high, 64);
    for (int r = 0; r < ROWS; r++) {
        const __m512 by = _mm512_set1_ps(factors ? factors[r] : factor);
        store_bf16(to + r * stride, _mm512_mul_ps(_mm512_load_ps(low + r * 16), by));
        store_bf16(to + r * stride + 16, _mm512_mul_ps(_mm512_load_ps(high + r * 16), by));
    }
}

void forward(tensor q, tensor k, tensor v, tensor out, float *lse, int batch, int heads, int groups, int length) {
    const float scale = 1.0f / sqrtf(D);
    const int shared = heads / groups;
#pragma omp parallel for
    for (int pair = 0; pair < batch * groups; pair++) {
        configure();
        const int b = pair / groups, g = pair % groups;
        bf16 *keys = buffer(length * D * 2), *values = buffer(length * D * 2), *p = buffer(ROWS * length * 2);
        float *scores = buffer(ROWS * length * 4);
        pack_transposed(at(k, b, g), k.row, length, keys);
        pack(at(v, b, g), v.row, length, values);
        for (int head = g * shared; head < (g + 1) * shared; head++)
            for (int i = 0; i < length; i += ROWS) {
                const int seen = i + ROWS, padded = (seen + 31) / 32 * 32;
                _tile_loadd(2, at(q, b, head) + i * q.row, q.row * 2);
                for (int j = 0; j < seen; j += ROWS) {
                    _tile_zero(0);
                    _tile_loadd(3, keys + j * D, 64);
                    _tile_dpbf16ps(0, 2, 3);
                    _tile_stored(0, scores + j, length * 4);
                }
                float inverse[ROWS];
                for (int r = 0; r < ROWS; r++) {
                    float *row = scores + r * length;
                    const int n = i + r + 1;
                    for (int j = n; j < padded; j++) row[j] = -INFINITY;
                    __m512 top = _mm512_loadu_ps(row);
                    for (int j = 16; j < padded; j += 16) top = _mm512_max_ps(top, _mm512_loadu_ps(row + j));
                    const float most = _mm512_reduce_max_ps(top) * scale;
                    __m512 sum = _mm512_setzero_ps();
                    for (int j = 0; j < padded; j += 16) {
                        const __m512 s = _mm512_loadu_ps(row + j);
                        const __m512 e = exp512(_mm512_fmsub_ps(s, _mm512_set1_ps(scale), _mm512_set1_ps(most)));
                        const __m512 kept = _mm512_maskz_mov_ps(
                            _mm512_cmp_ps_mask(s, _mm512_set1_ps(-INFINITY), _CMP_NEQ_OQ), e);
                        sum = _mm512_add_ps(sum, kept);
                        store_bf16(p + r * length + j, kept);
                    }
                    const float total = _mm512_reduce_add_ps(sum);
                    inverse[r] = 1.0f / total;
                    lse[((int64_t)b * heads + head) * length + i + r] = most + logf(total);
                }
                _tile_zero(0);
                _tile_zero(1);
                for (int j = 0; j < padded; j += 32) {
                    _tile_loadd(2, p + j, length * 2);
                    _tile_loadd(3, values + j * D, 64);
                    _tile_loadd(4, values + j * D + TILE, 64);
                    _tile_dpbf16ps(0, 2, 3);
                    _tile_dpbf16ps(1, 2, 4);
                }
                store_rows(at(out, b, head) + i * out.row, out.row, inverse, 0);
            }
        free(keys), free(values), free(p), free(scores);
        _tile_release();
    }
}

static float row_dot(const bf16 *a, const bf16 *b) {
    const __m512 sum = _mm512_dpbf16_ps(
        _mm512_setzero_ps(), (__m512bh)_mm512_loadu_si512(a), (__m512bh)_mm512_loadu_si512(b));
    return _mm512_reduce_add_ps(sum);
}

void backward(tensor q, tensor k, tensor v, tensor out, const float *lse, tensor d_out, tensor dq, tensor dk, tensor dv,
              int batch, int heads, int groups, int length) {
    const float scale = 1.0f / sqrtf(D);
    const int shared = heads / groups, size = length * D;
    const __m512 by = _mm512_set1_ps(scale);
#pragma omp parallel for
    for (int pair = 0; pair < batch * groups; pair++) {
        configure();
        const int b = pair / groups, g = pair % groups;
        const bf16 *kr = at(k, b, g), *vr = at(v, b, g);
        bf16 *kt = buffer(size * 2), *vt = buffer(size * 2), *kp = buffer(size * 2), *ds = buffer(ROWS * length * 2);
        bf16 *qt = buffer(shared * size * 2), *qp = buffer(shared * size * 2);
        bf16 *ot = buffer(shared * size * 2), *op = buffer(shared * size * 2);
        float *delta = buffer(shared * length * 4);
        float s[256] __attribute__((aligned(64))), dp[256] __attribute__((aligned(64)));
        bf16 pt[512] __attribute__((aligned(64))), dst[512] __attribute__((aligned(64)));
        pack_transposed(kr, k.row, length, kt);
        pack_transposed(vr, v.row, length, vt);
        pack(kr, k.row, length, kp);
        // Rows of queries: dq.
        for (int h = 0; h < shared; h++) {
            const int head = g * shared + h;
            const bf16 *qr = at(q, b, head), *dor = at(d_out, b, head), *outr = at(out, b, head);
            const float *lser = lse + ((int64_t)b * heads + head) * length;
            pack_transposed(qr, q.row, length, qt + h * size);
            pack(qr, q.row, length, qp + h * size);
            pack_transposed(dor, d_out.row, length, ot + h * size);
            pack(dor, d_out.row, length, op + h * size);
            for (int i = 0; i < length; i++)
                delta[h * length + i] = row_dot(dor + i * d_out.row, outr + i * out.row);
            for (int i = 0; i < length; i += ROWS) {
                const int seen = i + ROWS, padded = (seen + 31) / 32 * 32;
                _tile_loadd(6, qr + i * q.row, q.row * 2);
                _tile_loadd(7, dor + i * d_out.row, d_out.row * 2);
                for (int j = 0; j < seen; j += ROWS) {
                    _tile_zero(2);
                    _tile_zero(3);
                    _tile_loadd(4, kt + j * D, 64);
                    _tile_loadd(5, vt + j * D, 64);
                    _tile_dpbf16ps(2, 6, 4);
                    _tile_dpbf16ps(3, 7, 5);
                    _tile_stored(2, s, 64);
                    _tile_stored(3, dp, 64);
                    for (int r = 0; r < ROWS; r++) {
                        const __mmask16 kept = j == i ? (__mmask16)((2u << r) - 1) : (__mmask16)0xffff;
                        const __m512 p = exp512(_mm512_fmsub_ps(_mm512_load_ps(s + r * 16), by, _mm512_set1_ps(lser[i + r])));
                        const __m512 d = _mm512_sub_ps(_mm512_load_ps(dp + r * 16), _mm512_set1_ps(delta[h * length + i + r]));
                        store_bf16(ds + r * length + j, _mm512_maskz_mul_ps(kept, p, d));
                    }
                }
                if (padded > seen)
                    for (int r = 0; r < ROWS; r++) store_bf16(ds + r * length + seen, _mm512_setzero_ps());
                _tile_zero(0);
                _tile_zero(1);
                for (int j = 0; j < padded; j += 32) {
                    _tile_loadd(2, ds + j, length * 2);
                    _tile_loadd(3, kp + j * D, 64);
                    _tile_loadd(4, kp + j * D + TILE, 64);
                    _tile_dpbf16ps(0, 2, 3);
                    _tile_dpbf16ps(1, 2, 4);
                }
                store_rows(at(dq, b, head) + i * dq.row, dq.row, NULL, scale);
            }
        }
        // Rows of keys: dk and dv, from transposed scores.
        for (int j = 0; j < length; j += ROWS) {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int h = 0; h < shared; h++) {
                const float *lser = lse + ((int64_t)b * heads + g * shared + h) * length;
                for (int i = j / 32 * 32; i < length; i += 32) {
                    for (int half = 0; half < 32; half += ROWS) {
                        const int first = i + half;
                        _tile_zero(4);
                        _tile_zero(5);
                        _tile_loadd(6, kr + j * k.row, k.row * 2);
                        _tile_loadd(7, qt + h * size + first * D, 64);
                        _tile_dpbf16ps(4, 6, 7);
                        _tile_loadd(6, vr + j * v.row, v.row * 2);
                        _tile_loadd(7, ot + h * size + first * D, 64);
                        _tile_dpbf16ps(5, 6, 7);
                        _tile_stored(4, s, 64);
                        _tile_stored(5, dp, 64);
                        const __m512 l = _mm512_loadu_ps(lser + first), d = _mm512_loadu_ps(delta + h * length + first);
                        for (int r = 0; r < ROWS; r++) {
                            // Query first + lane sees key j + r.
                            const int from = j + r - first;
                            const __mmask16 kept = from <= 0 ? 0xffff : from > 15 ? 0 : (__mmask16)(0xffffu << from);
                            const __m512 p = _mm512_maskz_mov_ps(
                                kept, exp512(_mm512_fmsub_ps(_mm512_load_ps(s + r * 16), by, l)));
                            store_bf16(pt + r * 32 + half, p);
                            store_bf16(dst + r * 32 + half, _mm512_mul_ps(p, _mm512_sub_ps(_mm512_load_ps(dp + r * 16), d)));
                        }
                    }
                    _tile_loadd(4, pt, 64);
                    _tile_loadd(5, dst, 64);
                    _tile_loadd(6, op + h * size + i * D, 64);
                    _tile_loadd(7, op + h * size + i * D + TILE, 64);
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_dpbf16ps(1, 4, 7);
                    _tile_loadd(6, qp + h * size + i * D, 64);
                    _tile_loadd(7, qp + h * size + i * D + TILE, 64);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
            }
            store_rows(at(dv, b, g) + j * dv.row, dv.row, NULL, 1.0f);
            _tile_stored(2, s, 64);
            _tile_loadd(0, s, 64);
            _tile_stored(3, s, 64);
            _tile_loadd(1, s, 64);
            store_rows(at(dk, b, g) + j * dk.row, dk.row, NULL, scale);
        }
        free(kt), free(vt), free(kp), free(ds), free(qt), free(qp), free(ot), free(op), free(delta);
        _tile_release();
    }
}
