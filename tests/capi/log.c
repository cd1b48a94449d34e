/* log.c - who gets the log, how much of it, and what is never in it (spec 08 part 7, item 19). */
#include "check.h"

#include <stdatomic.h>

#define PAYLOAD "marker-of-a-payload"
#define VALUE "marker-of-metadata"
#define LOUD_SECRET "marker-of-a-secret that has 32 bytes and more"

/* One receiver of lines. */
struct receiver {
    atomic_int set, inside, lines, highest;
};

static void receive(void *user, int32_t level, const char *target, const char *message)
{
    struct receiver *receiver = user;
    int highest = atomic_load(&receiver->highest);

    atomic_fetch_add(&receiver->inside, 1);
    CHECK(atomic_load(&receiver->set));
    CHECK(level >= SLIM_LOG_ERROR && level <= SLIM_LOG_TRACE);
    CHECK(target && message && *target && !strchr(message, '\n'));
    if (strstr(message, PAYLOAD) || strstr(message, VALUE) || strstr(message, "marker-of-a-sec")) {
        fprintf(stderr, "logged: %s\n", message);
        _exit(1);
    }
    while (level > highest &&
           !atomic_compare_exchange_weak(&receiver->highest, &highest, level))
        ;
    atomic_fetch_add(&receiver->lines, 1);
    atomic_fetch_sub(&receiver->inside, 1);
}

/* Whatever makes the library talk: links, sessions, messages, mistakes. */
static void make_noise(int rounds)
{
    static char payload[3 * 1024];
    slim_pair pair = {"key", VALUE};
    slim_publish_options options = SLIM_PUBLISH_OPTIONS_INIT;
    char endpoint[64];

    memset(payload, '.', sizeof payload);
    memcpy(payload, PAYLOAD, strlen(PAYLOAD));
    options.metadata = &pair;
    options.metadata_len = 1;
    for (int i = 0; i < rounds; i++) {
        slim_node *hub = server(endpoint), *nodes[2] = {NULL, NULL};
        slim_app *apps[2] = {NULL, NULL}, *carol = NULL, *weak = POISON;
        slim_session *ours = NULL, *theirs = NULL, *none = POISON;
        slim_message *message = NULL;
        for (int j = 0; j < 2; j++) {
            OK(slim_node_new(NULL, &nodes[j]));
            OK(slim_app_new_with_secret(nodes[j], j ? "org/ns/bob" : "org/ns/alice", LOUD_SECRET,
                                        &apps[j]));
            OK(slim_app_connect(apps[j], endpoint, PATIENCE, NULL));
        }
        open_between(apps[0], apps[1], NULL, &ours, &theirs);
        OK(slim_session_publish(ours, payload, sizeof payload, &options, PATIENCE));
        OK(slim_session_receive(theirs, PATIENCE, &message));
        OK(slim_session_publish_to(theirs, message, PAYLOAD, strlen(PAYLOAD), &options, PATIENCE));
        hear(ours, PAYLOAD);
        EXPECT(SLIM_ERR_AUTH, slim_app_new_with_secret(hub, "org/ns/w", "marker-of-a-sec", &weak));
        CHECK(!strstr(slim_last_error(), "marker"));
        OK(slim_app_new_with_secret(hub, "org/ns/carol", LOUD_SECRET, &carol));
        EXPECT(SLIM_ERR_NO_ROUTE, slim_session_open(carol, NULL, "org/ns/x", PATIENCE, &none));
        slim_app_free(carol);
        slim_message_free(message);
        slim_node_free(hub);
        slim_session_free(ours);
        slim_session_free(theirs);
        for (int j = 0; j < 2; j++) {
            slim_app_free(apps[j]);
            slim_node_free(nodes[j]);
        }
    }
}

static atomic_int enough;

static void *work(void *argument)
{
    while (!atomic_load(&enough))
        make_noise(1);
    return argument;
}

/* Two receivers take turns while two threads make noise: who was replaced is not called. */
static void replaced_under_load(int turns)
{
    struct receiver receivers[2] = {{0}, {0}};
    pthread_t thread[2];

    atomic_store(&receivers[1].set, 1);
    OK(slim_log_set(SLIM_LOG_TRACE, receive, &receivers[1]));
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&thread[i], NULL, work, NULL) == 0);
    for (int turn = 0; turn < turns; turn++) {
        struct receiver *next = &receivers[turn % 2], *last = &receivers[1 - turn % 2];
        int lines = atomic_load(&next->lines);
        atomic_store(&next->set, 1);
        OK(slim_log_set(SLIM_LOG_TRACE, receive, next));
        CHECK(atomic_load(&last->inside) == 0);
        atomic_store(&last->set, 0);
        while (atomic_load(&next->lines) < lines + 10)
            sched_yield();
    }
    OK(slim_log_set(SLIM_LOG_OFF, NULL, NULL));
    CHECK(atomic_load(&receivers[0].inside) == 0 && atomic_load(&receivers[1].inside) == 0);
    atomic_store(&receivers[0].set, 0);
    atomic_store(&receivers[1].set, 0);
    atomic_store(&enough, 1);
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
    CHECK(atomic_load(&receivers[0].lines) > 0 && atomic_load(&receivers[1].lines) > 0);
}

/* Each level includes the ones before it, and no more. */
static void levels(void)
{
    int lines[SLIM_LOG_TRACE + 1];
    for (int32_t level = SLIM_LOG_OFF; level <= SLIM_LOG_TRACE; level++) {
        struct receiver receiver = {0};
        atomic_store(&receiver.set, 1);
        OK(slim_log_set(level, receive, &receiver));
        make_noise(1);
        OK(slim_log_set(SLIM_LOG_OFF, NULL, NULL));
        CHECK(atomic_load(&receiver.highest) <= level);
        lines[level] = atomic_load(&receiver.lines);
    }
    CHECK(lines[SLIM_LOG_OFF] == 0 && lines[SLIM_LOG_INFO] > 0);
    CHECK(lines[SLIM_LOG_DEBUG] > lines[SLIM_LOG_INFO]);
    CHECK(lines[SLIM_LOG_TRACE] >= lines[SLIM_LOG_DEBUG]);
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, slim_log_set(-1, receive, NULL));
    SAYS("level is -1");
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, slim_log_set(6, NULL, NULL));
    SAYS("level is 6");
}

/* Runs this program anew; returns how much it wrote to standard error. */
static size_t standard_error_of(const char *program, const char *mode, const char *variable)
{
    static char text[1024 * 1024];
    size_t len = 0;
    ssize_t got;
    int out[2];
    pid_t child;

    CHECK(pipe(out) == 0);
    child = fork_child();
    if (child == 0) {
        if (variable)
            setenv("SLIM_LOG", variable, 1);
        else
            unsetenv("SLIM_LOG");
        dup2(out[1], 2);
        close(out[0]);
        close(out[1]);
        execl(program, program, mode, (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    while ((got = read(out[0], text + len, sizeof text - 1 - len)) > 0)
        len += (size_t)got;
    close(out[0]);
    check_child(child);
    text[len] = 0;
    CHECK(!strstr(text, "marker"));
    CHECK(len == 0 || text[len - 1] == '\n');
    CHECK(len == 0 || strstr(text, "slim"));
    return len;
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        if (strcmp(argv[1], "stderr") == 0)
            OK(slim_log_set(SLIM_LOG_INFO, NULL, NULL));
        if (strcmp(argv[1], "off") == 0)
            OK(slim_log_set(SLIM_LOG_OFF, NULL, NULL));
        make_noise(1);
        return 0;
    }
    /* Nothing until somebody asks; SLIM_LOG asks; the program's word is the last. */
    CHECK(standard_error_of(argv[0], "silent", NULL) == 0);
    CHECK(standard_error_of(argv[0], "silent", "info") > 0);
    CHECK(standard_error_of(argv[0], "silent", "trace") > 0);
    CHECK(standard_error_of(argv[0], "stderr", NULL) > 0);
    CHECK(standard_error_of(argv[0], "off", "trace") == 0);
    levels();
    replaced_under_load(getenv("SLIM_SOAK") ? 1000 : 30);
    return 0;
}
