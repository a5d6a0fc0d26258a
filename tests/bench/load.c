/* A closed-loop HTTP/1.1 load generator over a Unix socket: every connection has one
 * request in progress. One thread, epoll; it uses a fraction of the CPU of any server.
 *
 *   load keep|new SOCKET CONNECTIONS SECONDS PATH BODY     one JSON object on stdout
 *
 * `keep` sends one request after the other on each connection, `new` makes a connection
 * for each request. A response that is not 200 with exactly the bytes of the file BODY
 * ends the run. The first fifth of the time is warm-up and is not counted. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAX_ANSWER = 64 * 1024, MAX_SAMPLES = 1 << 24 };

struct connection {
    int fd;
    size_t have;          /* bytes of the response so far */
    size_t want;          /* length of the response, 0 until the head is complete */
    uint64_t started;
    char answer[MAX_ANSWER];
};

static char request[2048], body[MAX_ANSWER];
static size_t request_length, body_length;
static int is_new; /* a connection for each request */
static const char *socket_path;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void open_connection(struct connection *c, int epoll)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    strncpy(address.sun_path, socket_path, sizeof address.sun_path - 1);
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    while (connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0)
        if (errno != EAGAIN)
            die(socket_path);
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) || epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event))
        die("epoll_ctl");
}

static void send_request(struct connection *c, int epoll)
{
    c->have = c->want = 0;
    c->started = now_ns();
    if (is_new && c->fd >= 0)
        close(c->fd);
    if (is_new)
        open_connection(c, epoll);
    if (write(c->fd, request, request_length) != (ssize_t)request_length)
        die("write");
}

/* The length of the response, 0 if the head is incomplete, SIZE_MAX if it is malformed. */
static size_t answer_length(const struct connection *c)
{
    const char *end = memmem(c->answer, c->have, "\r\n\r\n", 4);
    if (!end)
        return c->have == MAX_ANSWER ? SIZE_MAX : 0;
    if (strncmp(c->answer, "HTTP/1.1 200 ", 13) != 0)
        return SIZE_MAX;
    for (const char *line = c->answer; line < end; line++) {
        line = memchr(line, '\n', (size_t)(end - line));
        if (!line)
            break;
        if (strncasecmp(line + 1, "content-length:", 15) == 0)
            return (size_t)(end - c->answer) + 4 + strtoul(line + 16, NULL, 10);
    }
    return SIZE_MAX;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static int is_right(const struct connection *c)
{
    return c->have == c->want && c->want >= body_length &&
           memcmp(c->answer + c->want - body_length, body, body_length) == 0;
}

static void read_body(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        die(path);
    body_length = fread(body, 1, sizeof body, file);
    fclose(file);
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: load keep|new SOCKET CONNECTIONS SECONDS PATH BODY\n");
        return 2;
    }
    is_new = strcmp(argv[1], "new") == 0;
    socket_path = argv[2];
    int count = atoi(argv[3]), epoll = epoll_create1(EPOLL_CLOEXEC);
    uint64_t length = (uint64_t)(strtod(argv[4], NULL) * 1e9);
    uint32_t *samples = malloc(sizeof *samples * MAX_SAMPLES);
    struct connection *all = calloc((size_t)count, sizeof *all);
    size_t taken = 0, answered = 0;

    if (count < 1 || epoll < 0 || !samples || !all)
        die("set-up");
    read_body(argv[6]);
    request_length = (size_t)snprintf(request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n%s\r\n", argv[5],
        is_new ? "Connection: close\r\n" : "");
    for (int i = 0; i < count; i++) {
        all[i].fd = -1;
        if (!is_new)
            open_connection(&all[i], epoll);
        send_request(&all[i], epoll);
    }
    uint64_t begin = now_ns(), counted_from = begin + length / 5, end = begin + length;
    for (uint64_t t = begin; t < end;) {
        struct epoll_event events[256];
        int ready = epoll_wait(epoll, events, 256, 1000);
        t = now_ns();
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            ssize_t got = read(c->fd, c->answer + c->have, MAX_ANSWER - c->have);
            if (got < 0 && errno == EAGAIN)
                continue;
            if (got <= 0) {
                fprintf(stderr, "load: the server closed a connection\n");
                return 1;
            }
            c->have += (size_t)got;
            if (!c->want)
                c->want = answer_length(c);
            if (c->want == SIZE_MAX) {
                fprintf(stderr, "load: not a 200: %.60s\n", c->answer);
                return 1;
            }
            if (!c->want || c->have < c->want)
                continue;
            if (!is_right(c)) {
                fprintf(stderr, "load: a response with other bytes\n");
                return 1;
            }
            answered++;
            if (t >= counted_from && taken < MAX_SAMPLES)
                samples[taken++] = (uint32_t)((t - c->started) / 1000);
            send_request(c, epoll);
        }
    }
    qsort(samples, taken, sizeof *samples, compare);
    printf("{\"per_second\": %.0f, \"p50_us\": %u, \"p99_us\": %u, \"answered\": %zu}\n",
           (double)taken / ((double)(length - length / 5) / 1e9),
           taken ? samples[taken / 2] : 0, taken ? samples[taken * 99 / 100] : 0, answered);
    return 0;
}
