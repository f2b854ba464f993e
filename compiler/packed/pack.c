/* Packs the integers of a segment; beside `edgec_restore` of unpack.c what edgec itself calls. numpy_kernels.py makes the
   same bytes where no compiler is at hand. */

#define EDGEC_RESTORE_ONLY
#include "unpack.c"

typedef struct {  /* the way back of Bits */
    uint8_t *at;
    uint64_t held;
    unsigned bits;
} Sink;

static void put(Sink *to, uint32_t value, unsigned bits) {
    to->held |= (uint64_t)value << to->bits;
    to->bits += bits;
    while (to->bits >= 8) *to->at++ = (uint8_t)to->held, to->held >>= 8, to->bits -= 8;
}

static uint8_t *end(Sink *to) {  /* fill the last byte up; what stands behind it */
    if (to->bits) *to->at++ = (uint8_t)to->held;
    return to->at;
}

static uint32_t take_high(Bits *from, unsigned bits) {  /* high bits first */
    while (from->bits < bits) from->held = from->held << 8 | *from->at++, from->bits += 8;
    from->bits -= bits;
    return (uint32_t)(from->held >> from->bits) & ((1u << bits) - 1);
}

static uint64_t rank_of(uint64_t mask, unsigned units) {
    static uint64_t ways[LARGEST_GROUP][LARGEST_GROUP + 1];  /* written once, the same numbers by whoever comes first */
    uint64_t rank = 0;
    unsigned kept = 0;
    for (unsigned at = 0; at < units; at++)
        if (mask >> at & 1) {
            uint64_t *known = &ways[at][++kept];
            if (!*known && at >= kept) *known = choose(at, kept);
            rank += *known;
        }
    return rank;
}

/* What becomes of the two bytes of four integers, for either order in a byte: the two kept ones, their rank at bit 8,
   and 0x8000 if there are more than two. Codes for zero are taken off before. */
static uint16_t kept_nibbles[2][65536];

static void fill_nibbles(void) {
    if (kept_nibbles[1][65535]) return;  /* more than two: the last to be written */
    for (unsigned order = 0; order < 2; order++)
        for (unsigned word = 0; word < 65536; word++) {
            unsigned mask = 0, count = 0, made = 0, held = 0;
            for (unsigned k = 0; k < 4; k++) mask |= (unsigned)((word >> 4 * (k ^ order) & 15) != 0) << k;
            for (unsigned k = 0; k < 4; k++) count += mask >> k & 1;
            for (unsigned k = 0; count < 2; k++)  /* filled up with the first units that hold nothing */
                if (!(mask >> k & 1)) mask |= 1u << k, count++;
            for (unsigned k = 0; k < 4; k++)
                if (mask >> k & 1) made |= (word >> 4 * (k ^ order) & 15) << held, held += 4;
            kept_nibbles[order][word] = count > 2 ? 0x8000 : (uint16_t)(made | rank_of(mask, 4) << 8);
        }
}

/* Four bits, two of four. */
static int pack_nibbles(const Segment *s, const uint8_t *dense, const uint8_t *zeros, uint8_t *values, uint8_t *ranks) {
    unsigned zero = s->zero * 0x1111, all = 0;
    uint64_t left = 0, groups = s->count / s->group, held = 0;
    const uint16_t *table = kept_nibbles[s->high_first];
    fill_nibbles();
    for (uint64_t g = 0; g < groups; g++) {
        if (s->run && !left--) zero = *zeros++ * 0x1111u, left = s->run / 4 - 1;
        unsigned found = table[(dense[0] | dense[1] << 8) ^ zero];
        dense += 2;
        *values++ = (uint8_t)(found ^ zero);
        all |= found;
        held |= (uint64_t)(found >> 8 & 7) << 3 * (g % 8);
        if (g % 8 == 7 || g + 1 == groups) {
            for (unsigned bits = 0; bits < 3 * (g % 8 + 1); bits += 8) *ranks++ = (uint8_t)(held >> bits);
            held = 0;
        }
    }
    return all & 0x8000 ? EDGEC_DAMAGED : EDGEC_OK;
}

/* Four bits, two of the four pairs in eight. */
static int pack_pairs(const Segment *s, const uint8_t *dense, const uint8_t *zeros, uint8_t *values, uint8_t *ranks) {
    static const uint8_t ways[16] = {0, 0, 0, 0, 1, 1, 2, 255, 3, 3, 4, 255, 5, 255, 255, 255};
    static const uint8_t first[6] = {0, 0, 4, 0, 4, 8}, second[6] = {4, 8, 8, 12, 12, 12};
    unsigned zero = s->zero * 0x1111, wrong = 0;
    uint64_t left = 0;
    Sink sink = {ranks, 0, 0};
    for (uint64_t g = s->count / 8; g; g--, dense += 4) {
        if (s->run && !left--) zero = *zeros++ * 0x1111u, left = s->run / 8 - 1;
        unsigned low = dense[0] | dense[1] << 8, high = dense[2] | dense[3] << 8, rank, x;
        if (s->high_first) low = (low & 0x0f0f) << 4 | (low >> 4 & 0x0f0f), high = (high & 0x0f0f) << 4 | (high >> 4 & 0x0f0f);
        x = (low ^ zero) | (high ^ zero);
        x |= x >> 1;
        x = (x | x >> 2) & 0x1111;  /* a bit for each pair that is not zero */
        rank = ways[x * 0x1248 >> 12 & 15];
        wrong |= rank;
        rank &= 7;
        if (rank > 5) break;
        *values++ = (uint8_t)((low >> first[rank] & 15) | (low >> second[rank] & 15) << 4);
        *values++ = (uint8_t)((high >> first[rank] & 15) | (high >> second[rank] & 15) << 4);
        put(&sink, rank, 3);
    }
    end(&sink);
    return wrong & 128 ? EDGEC_DAMAGED : EDGEC_OK;
}

static int pack_any(const Segment *s, const uint8_t *dense, const uint8_t *zeros, uint8_t *values, uint8_t *ranks) {
    Bits from = {dense, 0, 0};
    Sink kept = {values, 0, 0}, sink = {ranks, 0, 0};
    uint64_t left = 0;
    unsigned zero = s->zero, codes[LARGEST_GROUP];
    for (uint64_t g = s->count / s->group; g; g--) {
        uint64_t mask = 0, inputs, rank;
        unsigned count = 0;
        for (unsigned k = 0; k < s->group; k++) {
            unsigned code = s->high_first ? take_high(&from, s->bits) : take(&from, s->bits);
            if (s->run && !left--) zero = *zeros++, left = s->run - 1;
            codes[k] = code;
            mask |= (uint64_t)(code != zero) << k;
        }
        if (s->unit == 2) mask = (mask | mask >> s->units) & ((1ull << s->units) - 1);
        for (uint64_t rest = mask; rest; rest &= rest - 1) count++;
        if (count > s->keep) return EDGEC_DAMAGED;
        for (unsigned k = 0; count < s->keep; k++)  /* filled up with the first units that hold nothing */
            if (!(mask >> k & 1)) mask |= 1ull << k, count++;
        inputs = s->unit == 2 ? mask | mask << s->units : mask;
        for (unsigned k = 0; inputs; k++, inputs >>= 1)
            if (inputs & 1) put(&kept, codes[k], s->bits);
        rank = rank_of(mask, s->units);
        put(&sink, (uint32_t)rank, s->rank_bits < 32 ? s->rank_bits : 32);
        if (s->rank_bits > 32) put(&sink, (uint32_t)(rank >> 32), s->rank_bits - 32);
    }
    end(&kept);
    end(&sink);
    return EDGEC_OK;
}

/* Pack the integers `dense` of one segment into `stored`, both of the sizes in its `row`; `zeros`: a byte per run.
   EDGEC_DAMAGED if a group holds more units than the pattern keeps. */
int edgec_pack(const uint8_t *row, const uint8_t *dense, const uint8_t *zeros, uint8_t *stored) {
    Segment s;
    if (read_segment(row, &s) || !s.kind) return EDGEC_DAMAGED;
    Sink codes = {stored, 0, 0};
    for (uint64_t run = 0; s.run && run < s.count / s.run; run++) put(&codes, zeros[run], s.bits);
    uint8_t *values = end(&codes), *ranks = values + bytes_of(s.count / s.group * s.keep * s.unit, s.bits);
    int whole = !s.run || s.run % s.group == 0;
    if (s.bits == 4 && s.units == 4 && s.keep == 2 && whole)
        return s.unit == 1 ? pack_nibbles(&s, dense, zeros, values, ranks) : pack_pairs(&s, dense, zeros, values, ranks);
    return pack_any(&s, dense, zeros, values, ranks);
}
