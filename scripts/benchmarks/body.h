/* Lines from the bytes of an HTTP body as they come, chunked or not. Only a line that comes in pieces is copied. */
#ifndef BODY_H
#define BODY_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Bytes of a line that are kept when it comes in pieces; stage and bytes_downloaded stand at its start. */
#define LINE_BYTES 256

enum chunk { SIZE, DATA, DATA_END, TRAILER };

struct body {
    bool chunked;
    uint8_t chunk; /* enum chunk: what comes next */
    uint16_t line_length;
    uint64_t left; /* bytes left of the chunk */
    char line[LINE_BYTES];
};

/* Takes a line without its end, whose it is, and the time. */
typedef void line_taker(void *whose, const char *line, size_t length, uint64_t t);

static void take(const char *line, size_t length, line_taker *taker, void *whose, uint64_t t) {
    if (length && line[length - 1] == '\r') length--;
    taker(whose, line, length, t);
}

static void feed_lines(struct body *b, const char *data, size_t length, line_taker *taker, void *whose, uint64_t t) {
    const char *end = data + length, *newline;
    while (data < end && (newline = memchr(data, '\n', (size_t)(end - data)))) {
        size_t part = (size_t)(newline - data);
        if (b->line_length) {
            size_t room = sizeof b->line - b->line_length, kept = part < room ? part : room;
            memcpy(b->line + b->line_length, data, kept);
            take(b->line, b->line_length + kept, taker, whose, t);
            b->line_length = 0;
        } else {
            take(data, part, taker, whose, t);
        }
        data = newline + 1;
    }
    size_t rest = (size_t)(end - data), room = sizeof b->line - b->line_length;
    if (rest > room) rest = room;
    memcpy(b->line + b->line_length, data, rest);
    b->line_length = (uint16_t)(b->line_length + rest);
}

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Gives every line that is whole by now to `taker`. */
static void feed(struct body *b, const char *data, size_t length, line_taker *taker, void *whose, uint64_t t) {
    const char *end = data + length;
    if (!b->chunked) {
        feed_lines(b, data, length, taker, whose, t);
        return;
    }
    while (data < end) {
        if (b->chunk == DATA) {
            size_t part = (size_t)(end - data) < b->left ? (size_t)(end - data) : (size_t)b->left;
            feed_lines(b, data, part, taker, whose, t);
            data += part;
            b->left -= part;
            if (!b->left) b->chunk = DATA_END;
            continue;
        }
        char byte = *data++;
        if (b->chunk == SIZE && hex(byte) >= 0) b->left = b->left * 16 + (uint64_t)hex(byte);
        else if (byte != '\n') continue;
        else if (b->chunk == SIZE) b->chunk = b->left ? DATA : TRAILER;
        else if (b->chunk == DATA_END) b->chunk = SIZE;
    }
}

#endif
