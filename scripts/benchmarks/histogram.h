/* Latencies of any number in bounded memory. */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>
#include <stdio.h>

/* Latencies go to buckets, 64 to each power of two: off by at most 1.6 percent, whatever their number. */
#define SUB_BITS 6
#define BUCKETS ((40 - SUB_BITS + 1) << SUB_BITS)

struct histogram {
    uint64_t count, max;
    uint32_t bucket[BUCKETS];
};

static void note(struct histogram *h, uint64_t us) {
    int shift = 0;
    if (us > h->max) h->max = us;
    h->count++;
    while (us >> shift >= 2u << SUB_BITS && shift < 40 - SUB_BITS) shift++;
    uint64_t index = ((uint64_t)shift << SUB_BITS) + (us >> shift);
    h->bucket[index < BUCKETS ? index : BUCKETS - 1]++;
}

static double percentile_ms(const struct histogram *h, double share) {
    uint64_t wanted = (uint64_t)(share * (double)h->count), seen = 0;
    for (uint64_t i = 0; i < BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen > wanted) {
            uint64_t shift = i >> SUB_BITS ? (i >> SUB_BITS) - 1 : 0;
            return (double)((i - (shift << SUB_BITS)) << shift) / 1e3;
        }
    }
    return (double)h->max / 1e3;
}

static void print_histogram(const char *name, const struct histogram *h) {
    printf(",\"%s\":{\"count\":%lu,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f}", name, (unsigned long)h->count,
           percentile_ms(h, 0.5), percentile_ms(h, 0.99), (double)h->max / 1e3);
}

#endif
