/*
 * ssebench: thousands of subscribers of a server-sent events stream in one process, on one epoll loop.
 *
 * Problem: to say what a delivery costs a server, the client must cost less than the server, must not hide a lost
 * frame, and must tell a slow server from a slow client. A client library spends more on a frame than the server does.
 * So: sockets, epoll and a parser that looks at every byte once. It understands chunked and unchunked bodies, counts
 * frames, ends and [DONE] for each connection, and takes latencies from the frames themselves: `bytes_downloaded` of a
 * `downloading` event is the publisher's CLOCK_MONOTONIC in microseconds.
 *
 * It is told what to do on standard input, and answers each command with one line of JSON on standard output:
 *   window           what came since the last `window`, and begins a new one
 *   reconnect        cut every connection, open all again at once, and answer when each has its first frame
 *   end SECONDS      answer when every connection that reads is closed, or after SECONDS
 * Before the first command it opens all connections and answers `ready`. It ends with its input, or at its deadline.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "body.h"
#include "histogram.h"

/* Bytes of a request and of one path. */
#define REQUEST_BYTES 1024
/* Bytes read in one go. */
#define READ_BYTES 65536
/* Events taken from epoll in one go. */
#define EVENTS 512
/* Connections to one address before the next source address: below the number of ephemeral ports. */
#define PER_SOURCE 20000
/* Connections that may be under way while all are opened gently: below any server's backlog. */
#define GENTLE 256
/* Seconds after which an attempt to open all connections is given up. */
#define OPEN_TIMEOUT_S 60

enum state { CONNECTING, HEAD, BODY, CLOSED, FAILED };

struct connection {
    int fd;
    uint8_t state;         /* enum state */
    bool stalled;          /* never reads */
    bool has_first;        /* a frame has come since it was opened */
    bool frame_has_data;   /* the frame under way has a data line */
    bool frame_is_end;     /* and it is a terminal event */
    bool frame_is_done;    /* and it is [DONE] */
    uint32_t window_frames;
    uint32_t terminals, dones;
    uint64_t opened_us;
    struct body body;
};

static struct {
    const char *host;
    int port;
    int subscribers;
    int stalled;
    int stall_rcvbuf;
    double deadline_s;
    char **paths;
    int path_count;
} option = {.host = "127.0.0.1", .stall_rcvbuf = 2048, .deadline_s = 120};

static struct connection *connections;
static int total, poller;
static struct sockaddr_in server;
static char buffer[READ_BYTES];
static struct histogram latency, first_frame;
static uint64_t window_began_us, window_frames, window_comments, window_bytes, window_reads;
/* Over the whole run. */
static uint64_t violations, refused, closed;
/* Of the present round of opening connections. */
static int opened, under_way, have_first, broken;

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void fail(const char *what) {
    fprintf(stderr, "ssebench: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* -- reading a stream ---------------------------------------------------------------------------------------------- */

static bool has(const char *text, size_t length, const char *word) {
    return memmem(text, length, word, strlen(word)) != NULL;
}

static void on_frame(struct connection *c, uint64_t t) {
    if (c->dones) violations++; /* nothing may follow [DONE] */
    if (c->frame_is_done) {
        c->dones++;
        if (!c->terminals || c->dones > 1) violations++;
    } else if (c->frame_is_end) {
        if (++c->terminals > 1) violations++;
    } else if (c->terminals) {
        violations++; /* no event follows the end */
    }
    c->window_frames++;
    window_frames++;
    if (!c->has_first) {
        c->has_first = true;
        have_first++;
        under_way--;
        note(&first_frame, t - c->opened_us);
    }
}

static void on_line(void *whose, const char *line, size_t length, uint64_t t) {
    struct connection *c = whose;
    if (length == 0) {
        if (c->frame_has_data) on_frame(c, t);
        c->frame_has_data = c->frame_is_end = c->frame_is_done = false;
        return;
    }
    if (line[0] == ':') {
        window_comments++;
        return;
    }
    if (length < 5 || memcmp(line, "data:", 5)) return;
    c->frame_has_data = true;
    c->frame_is_done = length < 13 && has(line, length, "[DONE]");
    c->frame_is_end = has(line, length, "\"stage\":\"complete\"") || has(line, length, "\"stage\":\"error\"");
    const char *at = memmem(line, length, "\"bytes_downloaded\":", 19);
    if (at && !c->frame_is_end && c->has_first) {
        uint64_t sent = strtoull(at + 19, NULL, 10);
        if (sent) note(&latency, t > sent ? t - sent : 0);
    }
}

/* The head must come in one piece, as it does from every server that writes it at once. False is an error. */
static bool on_head(struct connection *c, const char *data, size_t length, uint64_t t) {
    const char *end = memmem(data, length, "\r\n\r\n", 4);
    if (!end || length < 12 || memcmp(data, "HTTP/1.", 7)) return false;
    if (memcmp(data + 9, "200", 3)) {
        refused++;
        return false;
    }
    size_t head = (size_t)(end - data) + 4;
    char text[2048];
    if (head >= sizeof text) return false;
    memcpy(text, data, head);
    text[head] = 0;
    c->body = (struct body){.chunked = strcasestr(text, "transfer-encoding: chunked") != NULL};
    c->state = BODY;
    feed(&c->body, data + head, length - head, on_line, c, t);
    return true;
}

/* -- connections --------------------------------------------------------------------------------------------------- */

static void drop(struct connection *c, enum state state) {
    if (c->fd >= 0) close(c->fd);
    if (c->stalled ? c->state == CONNECTING : !c->has_first) under_way--, broken++;
    closed++;
    c->fd = -1;
    c->state = (uint8_t)state;
}

static void open_one(int index) {
    struct connection *c = &connections[index];
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002u + (uint32_t)(index / PER_SOURCE))};
    *c = (struct connection){.stalled = index >= option.subscribers, .opened_us = now_us()};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) fail("socket");
    if (c->stalled) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &option.stall_rcvbuf, sizeof option.stall_rcvbuf);
    int one = 1;
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(c->fd, (void *)&source, sizeof source)) fail("bind");
    opened++;
    under_way++;
    c->state = CONNECTING;
    if (connect(c->fd, (void *)&server, sizeof server) && errno != EINPROGRESS) {
        drop(c, FAILED);
        return;
    }
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl");
}

static void on_connected(struct connection *c) {
    char request[REQUEST_BYTES];
    int index = (int)(c - connections);
    int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s:%d\r\nAccept: text/event-stream\r\n\r\n",
                          option.paths[index % option.path_count], option.host, option.port);
    if (write(c->fd, request, (size_t)length) != length) {
        drop(c, FAILED);
        return;
    }
    c->state = HEAD;
    if (c->stalled) under_way--;
    struct epoll_event event = {.events = c->stalled ? EPOLLRDHUP : EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event)) fail("epoll_ctl");
}

static void on_event(struct connection *c, uint32_t events) {
    if (c->fd < 0) return;
    if (c->state == CONNECTING) {
        if (events & (EPOLLERR | EPOLLHUP)) drop(c, FAILED);
        else on_connected(c);
        return;
    }
    if (c->stalled) {
        drop(c, CLOSED);
        return;
    }
    ssize_t got = read(c->fd, buffer, sizeof buffer);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        drop(c, CLOSED);
        return;
    }
    uint64_t t = now_us();
    window_reads++;
    window_bytes += (uint64_t)got;
    if (c->state == HEAD) {
        if (!on_head(c, buffer, (size_t)got, t)) drop(c, FAILED);
    } else {
        feed(&c->body, buffer, (size_t)got, on_line, c, t);
    }
}

static uint64_t deadline_us;

static bool turn(int timeout_ms);

/* Opens every connection; `most` may be under way at once. */
static void open_all(int most) {
    uint64_t began = now_us(), give_up = began + OPEN_TIMEOUT_S * 1000000ull;
    opened = under_way = have_first = broken = 0;
    memset(&first_frame, 0, sizeof first_frame);
    while (opened < total || under_way > 0) {
        while (opened < total && under_way < most) open_one(opened);
        turn(10);
        if (now_us() > give_up || now_us() > deadline_us) break;
    }
    printf("{\"what\":\"ready\",\"seconds\":%.3f,\"connections\":%d,\"with_frame\":%d,\"broken\":%d,\"refused\":%lu",
           (double)(now_us() - began) / 1e6, total, have_first, broken, (unsigned long)refused);
    print_histogram("first_frame", &first_frame);
    puts("}");
}

static void close_all(void) {
    for (int i = 0; i < total; i++)
        if (connections[i].fd >= 0) close(connections[i].fd), connections[i].fd = -1;
}

/* -- commands ------------------------------------------------------------------------------------------------------ */

static void window(void) {
    uint32_t least = UINT32_MAX, most = 0;
    uint64_t t = now_us(), terminals = 0, dones = 0, open = 0;
    for (int i = 0; i < option.subscribers; i++) {
        struct connection *c = &connections[i];
        if (c->window_frames < least) least = c->window_frames;
        if (c->window_frames > most) most = c->window_frames;
        terminals += c->terminals > 0;
        dones += c->dones > 0;
        open += c->fd >= 0;
        c->window_frames = 0;
    }
    printf("{\"what\":\"window\",\"seconds\":%.3f,\"frames\":%lu,\"comments\":%lu,\"bytes\":%lu,\"reads\":%lu,"
           "\"least\":%u,\"most\":%u,\"open\":%lu,\"closed\":%lu,\"terminals\":%lu,\"dones\":%lu,\"violations\":%lu",
           (double)(t - window_began_us) / 1e6, (unsigned long)window_frames, (unsigned long)window_comments,
           (unsigned long)window_bytes, (unsigned long)window_reads, option.subscribers ? least : 0, most,
           (unsigned long)open, (unsigned long)closed, (unsigned long)terminals, (unsigned long)dones,
           (unsigned long)violations);
    print_histogram("latency", &latency);
    puts("}");
    memset(&latency, 0, sizeof latency);
    window_frames = window_comments = window_bytes = window_reads = 0;
    window_began_us = t;
}

static void end(double seconds) {
    uint64_t until = now_us() + (uint64_t)(seconds * 1e6);
    while (now_us() < until) {
        int open = 0;
        for (int i = 0; i < option.subscribers && !open; i++) open = connections[i].fd >= 0;
        if (!open) break;
        turn(10);
    }
    window();
}

static void command(const char *line) {
    if (!strncmp(line, "window", 6)) window();
    else if (!strncmp(line, "reconnect", 9)) close_all(), open_all(total);
    else if (!strncmp(line, "end ", 4)) end(atof(line + 4));
    else fprintf(stderr, "ssebench: unknown command: %s\n", line), exit(2);
}

/* Handles what has come, waiting up to `timeout_ms`. True when standard input has something. */
static bool turn(int timeout_ms) {
    struct epoll_event events[EVENTS];
    bool told = false;
    int count = epoll_wait(poller, events, EVENTS, timeout_ms);
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr) on_event(events[i].data.ptr, events[i].events);
        else told = true;
    }
    return told;
}

/* -- start --------------------------------------------------------------------------------------------------------- */

static void usage(void) {
    fputs("usage: ssebench --port PORT --subscribers N [--host ADDRESS] [--stalled N] [--stall-rcvbuf BYTES]\n"
          "                [--deadline SECONDS] PATH...\n"
          "Connection i asks for path i modulo their number. The last --stalled connections never read.\n",
          stderr);
    exit(2);
}

static void read_options(int argc, char **argv) {
    static const struct option names[] = {
        {"host", required_argument, 0, 'h'},    {"port", required_argument, 0, 'p'},
        {"subscribers", required_argument, 0, 'n'}, {"stalled", required_argument, 0, 's'},
        {"stall-rcvbuf", required_argument, 0, 'r'}, {"deadline", required_argument, 0, 'd'}, {0}};
    int key;
    while ((key = getopt_long(argc, argv, "", names, NULL)) != -1) {
        if (key == 'h') option.host = optarg;
        else if (key == 'p') option.port = atoi(optarg);
        else if (key == 'n') option.subscribers = atoi(optarg);
        else if (key == 's') option.stalled = atoi(optarg);
        else if (key == 'r') option.stall_rcvbuf = atoi(optarg);
        else if (key == 'd') option.deadline_s = atof(optarg);
        else usage();
    }
    option.paths = argv + optind;
    option.path_count = argc - optind;
    total = option.subscribers + option.stalled;
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)option.port)};
    if (option.path_count < 1 || option.port < 1 || total < 1 || inet_pton(AF_INET, option.host, &server.sin_addr) != 1) usage();
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    struct rlimit limit = {(rlim_t)total + 64, (rlim_t)total + 64}, had;
    getrlimit(RLIMIT_NOFILE, &had);
    if (had.rlim_cur < limit.rlim_cur && setrlimit(RLIMIT_NOFILE, &limit)) fail("too few open files are allowed");
    setvbuf(stdout, NULL, _IOLBF, 0);
    connections = calloc((size_t)total, sizeof *connections);
    if (!connections) fail("memory");
    poller = epoll_create1(EPOLL_CLOEXEC);
    deadline_us = now_us() + (uint64_t)(option.deadline_s * 1e6);
    open_all(GENTLE);
    window_began_us = now_us();
    struct epoll_event input = {.events = EPOLLIN};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &input)) fail("epoll_ctl");
    while (now_us() < deadline_us) {
        if (!turn(100)) continue;
        char line[128];
        ssize_t got = read(STDIN_FILENO, line, sizeof line - 1);
        if (got <= 0) return 0;
        line[got] = 0;
        command(line);
    }
    fputs("ssebench: the deadline has come\n", stderr);
    return 3;
}
