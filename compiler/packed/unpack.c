/* Restores a weight file of an edgec bundle from its packed form: what an app does once, before it starts the engine.

       cc -O2 -o unpack unpack.c
       ./unpack target/llm.mnn.weight.packed target/llm.mnn.weight

   In an app: compile with -DEDGEC_UNPACK_LIBRARY and call `edgec_unpack`. C99, no libraries, 48 MiB of memory at most.
   docs/bundle.md of edgec, "The packed weight file", has the layout. The file is not trusted: sizes are checked before
   they are used, the sha256 of what was restored is compared, and the result gets its name when it is complete. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EDGEC_OK, EDGEC_NO_INPUT, EDGEC_NO_PACKED_FILE, EDGEC_DAMAGED, EDGEC_OTHER_BYTES, EDGEC_NO_OUTPUT, EDGEC_NO_MEMORY };

static const char *const edgec_messages[] = {
    "ok", "the packed file cannot be read", "it is no packed weight file of version 1", "the packed file is damaged",
    "the restored bytes are not those that were packed", "the restored file cannot be written", "no memory",
};

#define RECORD 64               /* bytes of the header, and of a segment's row in the table */
#define MOST (16u << 20)        /* bytes of integers in a segment */
#define LARGEST_GROUP 64
#define LARGEST_TABLE 65536     /* masks that are tabulated; above they are computed one by one */

typedef struct {
    unsigned kind, bits, high_first, unit, group, keep, zero;
    uint64_t count, run, dense, stored;
    unsigned units, rank_bits;  /* of a group */
    uint64_t masks;             /* ways to keep `keep` of `units` */
} Segment;

static uint64_t number(const uint8_t *at, unsigned bytes) {
    uint64_t value = 0;
    while (bytes--) value = value << 8 | at[bytes];
    return value;
}

static uint64_t choose(unsigned n, unsigned k) {
    uint64_t ways = 1;
    if (k > n) return 0;
    for (unsigned i = 0; i < k; i++) {  /* exact, and below 2^63 up to 64 over 32: divide before multiplying */
        uint64_t next = n - i, by = i + 1, whole = ways / by, rest = ways % by;
        ways = whole * next + rest * next / by;
    }
    return ways;
}

static uint64_t bytes_of(uint64_t count, unsigned bits) { return (count * bits + 7) / 8; }

/* A row of the table; 0 if a reader of this version can restore it. */
static int read_segment(const uint8_t *row, Segment *s) {
    memset(s, 0, sizeof *s);
    s->kind = row[0];
    s->dense = number(row + 32, 8);
    s->stored = number(row + 40, 8);
    if (s->kind == 0) return s->dense == s->stored ? EDGEC_OK : EDGEC_DAMAGED;
    s->bits = row[1];
    s->high_first = row[2];
    s->unit = row[3];
    s->group = (unsigned)number(row + 4, 2);
    s->keep = (unsigned)number(row + 6, 2);
    s->count = number(row + 8, 8);
    s->run = number(row + 16, 8);
    s->zero = (unsigned)number(row + 24, 4);
    if (s->kind != 1 || s->bits < 1 || s->bits > 8 || s->high_first > 1 || s->unit < 1 || s->unit > 2) return EDGEC_DAMAGED;
    if (s->group < 2 || s->group > LARGEST_GROUP || s->group % s->unit) return EDGEC_DAMAGED;
    s->units = s->group / s->unit;
    if (s->keep < 1 || s->keep >= s->units || s->zero >> s->bits) return EDGEC_DAMAGED;
    if (!s->count || s->count > 8ull * MOST || s->count % s->group || s->count * s->bits % 8) return EDGEC_DAMAGED;
    if (s->dense != s->count * s->bits / 8 || s->dense > MOST || (s->run && s->count % s->run)) return EDGEC_DAMAGED;
    s->masks = choose(s->units, s->keep);
    while ((s->masks - 1) >> s->rank_bits) s->rank_bits++;
    uint64_t groups = s->count / s->group;
    uint64_t sizes = bytes_of(groups * s->keep * s->unit, s->bits) + bytes_of(groups, s->rank_bits);
    if (s->run) sizes += bytes_of(s->count / s->run, s->bits);
    return sizes == s->stored ? EDGEC_OK : EDGEC_DAMAGED;
}

/* Bits from a stream of bytes, low bits first. */
typedef struct {
    const uint8_t *at;
    uint64_t held;
    unsigned bits;
} Bits;

static uint32_t take(Bits *from, unsigned bits) {  /* 0 to 32 */
    uint64_t value;
    while (from->bits < bits) from->held |= (uint64_t)*from->at++ << from->bits, from->bits += 8;
    value = from->held & ((1ull << bits) - 1);
    from->held >>= bits;
    from->bits -= bits;
    return (uint32_t)value;
}

static uint64_t take_long(Bits *from, unsigned bits) {
    uint64_t low = take(from, bits < 32 ? bits : 32);
    return bits > 32 ? low | (uint64_t)take(from, bits - 32) << 32 : low;
}

/* The next larger number with as many bits set. */
static uint64_t next_mask(uint64_t mask) {
    uint64_t low = mask & (~mask + 1), up = mask + low;
    return up | ((mask ^ up) / low) >> 2;
}

/* The mask of a rank: masks with `keep` bits set are counted in the order of their numbers. */
static uint64_t mask_of(uint64_t rank, unsigned units, unsigned keep) {
    uint64_t mask = 0;
    for (unsigned at = units; keep; keep--) {
        do at--; while (choose(at, keep) > rank);
        rank -= choose(at, keep);
        mask |= 1ull << at;
    }
    return mask;
}

typedef struct {  /* of a segment's bytes */
    const uint8_t *zeros, *values, *ranks;
} Stored;

/* Four bits, two of four units: a table of what two values and a mask make of two bytes. */
static int restore_nibbles(const Segment *s, Stored from, uint8_t *dense) {
    uint16_t made[8 * 256], holes[8];
    unsigned halves = s->unit;
    memset(made, 0, sizeof made);
    memset(holes, 0, sizeof holes);
    uint64_t mask = 3;
    for (unsigned rank = 0; rank < 6; rank++, mask = next_mask(mask))
        for (unsigned v = 0; v < 256; v++) {
            unsigned rest = v, word = 0, hole = 0;
            for (unsigned k = 0; k < 4; k++) {
                unsigned at = 4 * (s->high_first ? k ^ 1 : k);
                if (mask >> k & 1) word |= (rest & 15) << at, rest >>= 4;
                else hole |= 15u << at;
            }
            made[rank * 256 + v] = (uint16_t)word;
            holes[rank] = (uint16_t)hole;
        }
    Bits ranks = {from.ranks, 0, 0}, zeros = {from.zeros, 0, 0};
    uint64_t groups = s->count / s->group, left = 0;
    unsigned zero = s->zero * 0x1111, eight = 0, wrong = 0;
    for (uint64_t g = 0; g < groups; g++) {
        if (g % 8 == 0) {
            eight = take(&ranks, groups - g < 8 ? (unsigned)(groups - g) * 3 : 24);
            wrong |= (eight >> 2) & (eight >> 1) & 0x249249;  /* a rank of 6 or 7 */
        }
        if (s->run && !left--) zero = take(&zeros, 4) * 0x1111, left = s->run / s->group - 1;
        const uint16_t *row = made + (eight & 7) * 256;
        unsigned hole = holes[eight & 7] & zero;
        eight >>= 3;
        for (unsigned half = 0; half < halves; half++) {
            unsigned word = row[*from.values++] | hole;
            *dense++ = (uint8_t)word;
            *dense++ = (uint8_t)(word >> 8);
        }
    }
    return wrong ? EDGEC_DAMAGED : EDGEC_OK;
}

static int restore_any(const Segment *s, Stored from, uint8_t *dense) {
    Bits ranks = {from.ranks, 0, 0}, values = {from.values, 0, 0}, zeros = {from.zeros, 0, 0};
    uint64_t left = 0, *table = NULL;
    uint32_t out = 0, zero = s->zero;
    unsigned filled = 0, wrong = 0;
    if (s->masks <= LARGEST_TABLE) {
        uint64_t mask = (1ull << s->keep) - 1;
        if (!(table = malloc(s->masks * sizeof *table))) return EDGEC_NO_MEMORY;
        for (uint64_t rank = 0; rank < s->masks; rank++) {
            table[rank] = mask;
            if (rank + 1 < s->masks) mask = next_mask(mask);
        }
    }
    for (uint64_t g = s->count / s->group; g; g--) {
        uint64_t rank = take_long(&ranks, s->rank_bits), mask;
        if (rank >= s->masks) {
            wrong = 1;
            break;
        }
        mask = table ? table[rank] : mask_of(rank, s->units, s->keep);
        if (s->unit == 2) mask |= mask << s->units;
        for (unsigned k = 0; k < s->group; k++, mask >>= 1) {
            uint32_t code;
            if (s->run && !left--) zero = take(&zeros, s->bits), left = s->run - 1;
            code = mask & 1 ? take(&values, s->bits) : zero;
            if (s->high_first) out = out << s->bits | code;
            else out |= code << filled;
            filled += s->bits;
            if (filled >= 8) {
                filled -= 8;
                if (s->high_first) *dense++ = (uint8_t)(out >> filled);
                else *dense++ = (uint8_t)out, out >>= 8;
            }
        }
    }
    free(table);
    return wrong ? EDGEC_DAMAGED : EDGEC_OK;
}

/* Restore the bytes of one segment: `row` of the table, `stored` as many bytes as it says, `dense` room for its bytes. */
int edgec_restore(const uint8_t *row, const uint8_t *stored, uint64_t bytes, uint8_t *dense) {
    Segment s;
    Stored from;
    if (read_segment(row, &s) || s.stored != bytes) return EDGEC_DAMAGED;
    if (!s.kind) {
        memcpy(dense, stored, s.dense);
        return EDGEC_OK;
    }
    from.zeros = stored;
    from.values = stored + (s.run ? bytes_of(s.count / s.run, s.bits) : 0);
    from.ranks = from.values + bytes_of(s.count / s.group * s.keep * s.unit, s.bits);
    int whole = !s.run || s.run % s.group == 0;
    return s.bits == 4 && s.units == 4 && s.keep == 2 && whole ? restore_nibbles(&s, from, dense) : restore_any(&s, from, dense);
}

#ifndef EDGEC_RESTORE_ONLY

/* FIPS 180-4. */
typedef struct {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64];
} Sha256;

static const uint32_t sha256_first[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static const uint32_t sha256_round[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

#define ROTATED(x, n) ((x) >> (n) | (x) << (32 - (n)))

static void sha256_block(uint32_t *state, const uint8_t *block) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (ROTATED(a, 7) ^ ROTATED(a, 18) ^ a >> 3) + w[i - 7] + (ROTATED(b, 17) ^ ROTATED(b, 19) ^ b >> 10);
    }
    memcpy(v, state, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t a = v[0], e = v[4];
        uint32_t one = v[7] + (ROTATED(e, 6) ^ ROTATED(e, 11) ^ ROTATED(e, 25)) + ((e & v[5]) ^ (~e & v[6])) + sha256_round[i] + w[i];
        uint32_t two = (ROTATED(a, 2) ^ ROTATED(a, 13) ^ ROTATED(a, 22)) + ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += one;
        v[0] = one + two;
    }
    for (int i = 0; i < 8; i++) state[i] += v[i];
}

static void sha256_add(Sha256 *sha, const uint8_t *data, size_t bytes) {
    while (bytes) {
        size_t held = sha->bytes % 64, step = 64 - held;
        if (step > bytes) step = bytes;
        if (step == 64) sha256_block(sha->state, data);
        else {
            memcpy(sha->block + held, data, step);
            if (held + step == 64) sha256_block(sha->state, sha->block);
        }
        sha->bytes += step;
        data += step;
        bytes -= step;
    }
}

static void sha256_end(Sha256 *sha, uint8_t *digest) {
    uint64_t bits = sha->bytes * 8;
    uint8_t end[72] = {0x80}, length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)(bits >> 8 * (7 - i));
    sha256_add(sha, end, 1 + (119 - sha->bytes % 64) % 64);
    sha256_add(sha, length, 8);
    for (int i = 0; i < 32; i++) digest[i] = (uint8_t)(sha->state[i / 4] >> 8 * (3 - i % 4));
}

/* Copy or restore one segment from `in` to `out`; `buffers` hold MOST bytes each. */
static int unpack_segment(const uint8_t *row, FILE *in, FILE *out, Sha256 *sha, uint8_t *buffers) {
    Segment s;
    int wrong = read_segment(row, &s);
    if (wrong) return wrong;
    if (s.kind) {
        uint8_t *dense = buffers + 2 * (size_t)MOST;
        if (s.stored > 2 * (uint64_t)MOST) return EDGEC_DAMAGED;
        if (fread(buffers, 1, (size_t)s.stored, in) != s.stored) return EDGEC_DAMAGED;
        if ((wrong = edgec_restore(row, buffers, s.stored, dense))) return wrong;
        sha256_add(sha, dense, (size_t)s.dense);
        return fwrite(dense, 1, (size_t)s.dense, out) == s.dense ? EDGEC_OK : EDGEC_NO_OUTPUT;
    }
    for (uint64_t left = s.dense; left;) {
        size_t step = left < MOST ? (size_t)left : MOST;
        if (fread(buffers, 1, step, in) != step) return EDGEC_DAMAGED;
        sha256_add(sha, buffers, step);
        if (fwrite(buffers, 1, step, out) != step) return EDGEC_NO_OUTPUT;
        left -= step;
    }
    return EDGEC_OK;
}

static int unpack_streams(FILE *table, FILE *in, FILE *out) {
    uint8_t head[RECORD], row[RECORD], digest[32], *buffers;
    Sha256 sha;
    uint64_t restored = 0, total;
    int wrong = EDGEC_OK;
    if (fread(head, 1, RECORD, table) != RECORD || memcmp(head, "edgecNM\n", 8) || number(head + 8, 4) != 1) return EDGEC_NO_PACKED_FILE;
    uint64_t count = number(head + 12, 4);
    total = number(head + 16, 8);
    if (fseek(in, 0, SEEK_END) || count * RECORD > 0x7fffffff || ftell(in) < (long)(RECORD + count * RECORD)) return EDGEC_DAMAGED;
    if (fseek(in, (long)(RECORD + count * RECORD), SEEK_SET)) return EDGEC_DAMAGED;
    if (!(buffers = malloc(3 * (size_t)MOST))) return EDGEC_NO_MEMORY;
    memset(&sha, 0, sizeof sha);
    memcpy(sha.state, sha256_first, sizeof sha256_first);
    for (uint64_t i = 0; i < count && !wrong; i++) {
        if (fread(row, 1, RECORD, table) != RECORD) wrong = EDGEC_DAMAGED;
        else if (number(row + 32, 8) > total - restored) wrong = EDGEC_DAMAGED;
        else wrong = unpack_segment(row, in, out, &sha, buffers);
        restored += number(row + 32, 8);
    }
    free(buffers);
    if (!wrong && (restored != total || fgetc(in) != EOF)) wrong = EDGEC_DAMAGED;
    if (wrong) return wrong;
    sha256_end(&sha, digest);
    return memcmp(digest, head + 32, 32) ? EDGEC_OTHER_BYTES : EDGEC_OK;
}

/* Restore the file `packed` to the file `dense`; one of the codes above. A file that was there is replaced at the end. */
int edgec_unpack(const char *packed, const char *dense) {
    size_t length = strlen(dense);
    char *partial = malloc(length + 9);
    FILE *table = fopen(packed, "rb"), *in = fopen(packed, "rb"), *out = NULL;
    int wrong = table && in ? EDGEC_OK : EDGEC_NO_INPUT;
    if (!partial) wrong = EDGEC_NO_MEMORY;
    if (!wrong) {
        memcpy(partial, dense, length);
        memcpy(partial + length, ".partial", 9);
        if (!(out = fopen(partial, "wb"))) wrong = EDGEC_NO_OUTPUT;
    }
    if (!wrong) wrong = unpack_streams(table, in, out);
    if (out && fclose(out) && !wrong) wrong = EDGEC_NO_OUTPUT;
    if (out && !wrong && rename(partial, dense)) wrong = EDGEC_NO_OUTPUT;
    if (out && wrong) remove(partial);
    if (table) fclose(table);
    if (in) fclose(in);
    free(partial);
    return wrong;
}

#ifndef EDGEC_UNPACK_LIBRARY
int main(int count, char **words) {
    if (count != 3) {
        fprintf(stderr, "usage: %s PACKED DENSE\n", words[0]);
        return 2;
    }
    int wrong = edgec_unpack(words[1], words[2]);
    if (wrong) fprintf(stderr, "%s: %s\n", words[1], edgec_messages[wrong]);
    return wrong != 0;
}
#endif
#endif
