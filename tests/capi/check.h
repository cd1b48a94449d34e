/* check.h - what the test programs of the C interface share. Include it first.
 *
 * A program ends with 0, or prints one line that says what was wrong and where, and ends with 1.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "slim.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECRET "a secret of at least 32 characters"
/* Long enough for a busy machine; nothing waits so long when all is well. */
#define PATIENCE 30000

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: not true: %s (last error: %s)\n", __FILE__, __LINE__, \
                    #condition, slim_last_error());                                       \
            _exit(1);                                                                     \
        }                                                                                 \
    } while (0)

#define EXPECT(wanted, call)                                                                 \
    do {                                                                                     \
        slim_status got_ = (call);                                                           \
        if (got_ != (wanted)) {                                                              \
            fprintf(stderr, "%s:%d: %s is %s, not %s (last error: %s)\n", __FILE__, __LINE__, \
                    #call, slim_status_name(got_), slim_status_name(wanted),                 \
                    slim_last_error());                                                      \
            _exit(1);                                                                        \
        }                                                                                    \
    } while (0)

#define OK(call) EXPECT(SLIM_OK, call)

/* The text of the last error is one line and has `part` in it. */
#define SAYS(part)                                                                          \
    do {                                                                                    \
        const char *text_ = slim_last_error();                                              \
        if (!strstr(text_, (part)) || strchr(text_, '\n')) {                                \
            fprintf(stderr, "%s:%d: \"%s\" does not say \"%s\"\n", __FILE__, __LINE__, text_, \
                    (part));                                                                \
            _exit(1);                                                                       \
        }                                                                                   \
    } while (0)

/* No text of a call before is taken for that of the next. */
static inline void forget_error(void)
{
    slim_node *none = NULL;
    EXPECT(SLIM_ERR_INVALID_CONFIG, slim_node_new("[", &none));
}

/* What outputs hold before a call that must not write them. */
#define POISON ((void *)(uintptr_t)0x5a5a5a50)

static inline int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* 1, or more where everything is slow. Upper bounds of times are multiplied with it. */
static inline int slowness(void)
{
    const char *text = getenv("SLIM_TEST_SLOWNESS");
    int slowness = text ? atoi(text) : 1;
    return slowness > 0 ? slowness : 1;
}

static inline int entries(const char *path)
{
    DIR *dir = opendir(path);
    int count = 0;
    CHECK(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count - 2;
}

/* Without the one that looks. */
static inline int descriptors(void)
{
    return entries("/proc/self/fd") - 1;
}

static inline int threads(void)
{
    return entries("/proc/self/task");
}

static inline int readable(int fd)
{
    struct pollfd asked = {fd, POLLIN, 0};
    return poll(&asked, 1, 0) == 1;
}

/* Becomes readable in reasonable time. */
static inline int gets_readable(int fd)
{
    struct pollfd asked = {fd, POLLIN, 0};
    int found;
    do
        found = poll(&asked, 1, PATIENCE);
    while (found < 0 && errno == EINTR);
    return found == 1;
}

/* Opens a session from one app to another; both ends. */
static inline void open_between(slim_app *from, slim_app *to, const slim_session_options *options,
                                slim_session **ours, slim_session **theirs)
{
    OK(slim_session_open(from, options, slim_app_name(to), PATIENCE, ours));
    OK(slim_app_accept(to, PATIENCE, theirs));
}

static inline void say(slim_session *session, const char *text)
{
    OK(slim_session_publish(session, text, strlen(text), NULL, PATIENCE));
}

/* The next item is a message with this text. */
static inline void hear(slim_session *session, const char *text)
{
    slim_message *message = NULL;
    size_t len = 0;
    const void *data;
    OK(slim_session_receive(session, PATIENCE, &message));
    data = slim_message_data(message, &len);
    if (len != strlen(text) || (len && memcmp(data, text, len) != 0)) {
        fprintf(stderr, "heard \"%.*s\", not \"%s\"\n", (int)len, (const char *)data, text);
        _exit(1);
    }
    slim_message_free(message);
}

/* The next item is this event. */
static inline slim_message *event(slim_session *session, int32_t kind, const char *source)
{
    slim_message_fields fields = SLIM_MESSAGE_FIELDS_INIT;
    slim_message *message = NULL;

    CHECK(gets_readable(slim_session_fd(session)));
    OK(slim_session_receive(session, 0, &message));
    OK(slim_message_view(message, &fields));
    if (fields.kind != kind || strcmp(fields.source, source) != 0) {
        fprintf(stderr, "event %d of \"%s\", not %d\n", (int)fields.kind, fields.source, (int)kind);
        _exit(1);
    }
    CHECK(fields.is_reply == 0 && fields.connection == 0 && fields.metadata_len == 0);
    CHECK(strcmp(fields.destination, "") == 0 && strcmp(fields.payload_type, "") == 0);
    return message;
}

/* Two apps on one node, and a session between them. */
struct talk {
    slim_node *node;
    slim_app *alice, *bob;
    slim_session *ours, *theirs;
};

static inline void talk_begin(struct talk *talk, const slim_session_options *options)
{
    memset(talk, 0, sizeof *talk);
    OK(slim_node_new(NULL, &talk->node));
    OK(slim_app_new_with_secret(talk->node, "org/ns/alice", SECRET, &talk->alice));
    OK(slim_app_new_with_secret(talk->node, "org/ns/bob", SECRET, &talk->bob));
    open_between(talk->alice, talk->bob, options, &talk->ours, &talk->theirs);
}

static inline void talk_end(struct talk *talk)
{
    slim_session_free(talk->ours);
    slim_session_free(talk->theirs);
    slim_app_free(talk->alice);
    slim_app_free(talk->bob);
    slim_node_free(talk->node);
}

/* A node that listens, and where. */
static inline slim_node *server(char endpoint[64])
{
    slim_node *node = NULL;
    uint16_t port = 0;
    memset(endpoint, 0, 64);
    OK(slim_node_new(NULL, &node));
    OK(slim_node_listen(node, "127.0.0.1:0", &port));
    snprintf(endpoint, 64, "http://127.0.0.1:%u", (unsigned)port);
    return node;
}

/* A node of its own with a connected app. */
static inline slim_app *peer(const char *name, const char *endpoint, slim_node **node)
{
    slim_app *app = NULL;
    OK(slim_node_new(NULL, node));
    OK(slim_app_new_with_secret(*node, name, SECRET, &app));
    OK(slim_app_connect(app, endpoint, PATIENCE, NULL));
    return app;
}

/* fork(), but the child does not outlive its parent. */
static inline pid_t fork_child(void)
{
    pid_t parent = getpid(), child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
    }
    return child;
}

static inline int on_valgrind(void)
{
    char line[512];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    while (!found && fgets(line, sizeof line, maps))
        found = strstr(line, "vgpreload") != NULL;
    fclose(maps);
    return found;
}

/* Ends a child well. What its parent's handles held is left alone when they are freed in it, which
 * valgrind would call a leak: it does not look at a process that becomes another program. */
static inline void end_child(void)
{
    if (on_valgrind())
        execlp("true", "true", (char *)NULL);
    exit(0);
}

/* A child ended with 0. */
static inline void check_child(pid_t child)
{
    int status = -1;
    while (waitpid(child, &status, 0) < 0)
        CHECK(errno == EINTR);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
}

#endif
