/* log.c - who gets the log, how much of it, and what is never in it (spec 08 part 7, item 19);
 * what a callback may do. */
#include "check.h"

#include <semaphore.h>
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

/* Two threads in one callback, and the second sets another: it waits for the first, not for
 * itself. */
static struct {
    sem_t entered, setting, leave;
    atomic_int turn, left, returned;
} pair_of;

static void nothing(void *user, int32_t level, const char *target, const char *message)
{
    (void)user, (void)level, (void)target, (void)message;
}

static void replace_from_inside(void *user, int32_t level, const char *target, const char *message)
{
    (void)user, (void)level, (void)target, (void)message;
    switch (atomic_fetch_add(&pair_of.turn, 1)) {
    case 0:
        sem_post(&pair_of.entered);
        while (sem_wait(&pair_of.leave) < 0)
            ;
        atomic_store(&pair_of.left, 1);
        break;
    case 1:
        sem_post(&pair_of.setting);
        OK(slim_log_set(SLIM_LOG_TRACE, nothing, NULL));
        CHECK(atomic_load(&pair_of.left));
        atomic_store(&pair_of.returned, 1);
        break;
    default:;
    }
}

static void *make_a_node(void *argument)
{
    char endpoint[64];
    slim_node_free(server(endpoint));
    return argument;
}

static void set_by_two(void)
{
    struct timespec moment = {0, 20 * 1000 * 1000};
    pthread_t thread[2];

    CHECK(sem_init(&pair_of.entered, 0, 0) == 0 && sem_init(&pair_of.setting, 0, 0) == 0);
    CHECK(sem_init(&pair_of.leave, 0, 0) == 0);
    OK(slim_log_set(SLIM_LOG_TRACE, replace_from_inside, NULL));
    CHECK(pthread_create(&thread[0], NULL, make_a_node, NULL) == 0);
    CHECK(sem_wait(&pair_of.entered) == 0);
    CHECK(pthread_create(&thread[1], NULL, make_a_node, NULL) == 0);
    CHECK(sem_wait(&pair_of.setting) == 0);
    /* Should it not wait, it comes back now, too early. */
    nanosleep(&moment, NULL);
    CHECK(sem_post(&pair_of.leave) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
    CHECK(atomic_load(&pair_of.returned));
    OK(slim_log_set(SLIM_LOG_OFF, NULL, NULL));
}

/* A callback that calls back: what would have to wait is refused, in the node's own thread as
 * elsewhere; the rest works. At last it frees the node whose thread it is called in. */
static struct {
    struct talk talk;
    slim_session *group;
    slim_node *hub;
    pthread_t main;
    atomic_int of_main, of_node, free_it, freed;
} inner;

#define REFUSED(call)                           \
    do {                                        \
        forget_error();                         \
        EXPECT(SLIM_ERR_NOT_ALLOWED, call);     \
        SAYS("a log callback must not wait"); \
    } while (0)

static void call_back(void *user, int32_t level, const char *target, const char *message)
{
    struct talk *talk = &inner.talk;
    slim_session *session = POISON;
    slim_message *received = POISON;
    slim_app *app = POISON;
    slim_participants *list = POISON;
    slim_op *op = NULL;
    uint64_t number;
    uint16_t port;

    (void)user, (void)level, (void)target, (void)message;
    REFUSED(slim_node_stats(talk->node, NULL, 0, NULL));
    REFUSED(slim_node_listen(talk->node, "127.0.0.1:0", &port));
    REFUSED(slim_node_connect(talk->node, "http://127.0.0.1:1", PATIENCE, &number));
    REFUSED(slim_node_disconnect(talk->node, 1));
    REFUSED(slim_node_wait(talk->node, SLIM_WAIT_FOREVER));
    REFUSED(slim_app_new_with_secret(talk->node, "org/ns/x", SECRET, &app));
    REFUSED(slim_app_subscribe(talk->alice, "org/ns/x", 1, PATIENCE));
    REFUSED(slim_app_accept(talk->alice, SLIM_WAIT_FOREVER, &session));
    REFUSED(slim_session_open(talk->alice, NULL, "org/ns/bob", PATIENCE, &session));
    REFUSED(slim_session_open_start(talk->alice, NULL, "org/ns/bob", &session, &op));
    REFUSED(slim_session_receive(talk->ours, PATIENCE, &received));
    REFUSED(slim_session_invite(inner.group, "org/ns/bob", PATIENCE));
    REFUSED(slim_session_remove(inner.group, "org/ns/bob", PATIENCE));
    REFUSED(slim_session_suspend(inner.group, PATIENCE));
    REFUSED(slim_session_rejoin(inner.group, PATIENCE));
    REFUSED(slim_session_participants(talk->ours, PATIENCE, &list));
    REFUSED(slim_session_close(talk->ours, SLIM_WAIT_FOREVER));
    EXPECT(SLIM_ERR_TIMEOUT, slim_session_receive(talk->ours, 0, &received));
    EXPECT(SLIM_ERR_TIMEOUT, slim_app_accept(talk->alice, 0, &session));
    OK(slim_session_publish_start(talk->ours, NULL, "from inside", 11, NULL, &op));
    OK(slim_op_notify(op, 1));
    slim_op_free(op);
    CHECK(slim_session_fd(talk->ours) >= 0 && slim_app_fd(talk->alice) >= 0);
    CHECK(session == POISON && received == POISON && app == POISON && list == POISON);
    if (pthread_equal(pthread_self(), inner.main))
        atomic_store(&inner.of_main, 1);
    else
        atomic_store(&inner.of_node, 1);
}

static void free_inside(void *user, int32_t level, const char *target, const char *message)
{
    (void)user, (void)level, (void)target, (void)message;
    if (!pthread_equal(pthread_self(), inner.main) && atomic_exchange(&inner.free_it, 0)) {
        slim_node_free(inner.hub);
        atomic_store(&inner.freed, 1);
    }
}

static void calls_from_inside(void)
{
    struct sockaddr_in name;
    char endpoint[64], bytes[256];
    ssize_t got;
    int raw = socket(AF_INET, SOCK_STREAM, 0);
    slim_session_options options = SLIM_SESSION_OPTIONS_INIT;
    slim_session *none = POISON;

    inner.main = pthread_self();
    talk_begin(&inner.talk, NULL);
    options.kind = SLIM_SESSION_GROUP;
    OK(slim_session_open(inner.talk.alice, &options, "org/ns/group", PATIENCE, &inner.group));
    OK(slim_log_set(SLIM_LOG_TRACE, call_back, NULL));
    do {
        slim_node *node = server(endpoint), *other = NULL;
        slim_app_free(peer("org/ns/y", endpoint, &other));
        slim_node_free(other);
        slim_node_free(node);
    } while (!atomic_load(&inner.of_main) || !atomic_load(&inner.of_node));
    OK(slim_log_set(SLIM_LOG_OFF, NULL, NULL));
    hear(inner.talk.theirs, "from inside");
    /* What was refused was not begun. */
    OK(slim_session_close(inner.group, PATIENCE));
    EXPECT(SLIM_ERR_TIMEOUT, slim_app_accept(inner.talk.bob, 0, &none));
    CHECK(none == POISON);
    slim_session_free(inner.group);
    talk_end(&inner.talk);

    inner.hub = server(endpoint);
    OK(slim_log_set(SLIM_LOG_TRACE, free_inside, NULL));
    atomic_store(&inner.free_it, 1);
    memset(&name, 0, sizeof name);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    name.sin_port = htons((uint16_t)atoi(strrchr(endpoint, ':') + 1));
    CHECK(connect(raw, (struct sockaddr *)&name, sizeof name) == 0);
    do {
        CHECK(gets_readable(raw));
        got = read(raw, bytes, sizeof bytes);
    } while (got > 0);
    CHECK(got == 0 || errno == ECONNRESET);
    close(raw);
    while (!atomic_load(&inner.freed))
        sched_yield();
    OK(slim_log_set(SLIM_LOG_OFF, NULL, NULL));
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
    set_by_two();
    calls_from_inside();
    replaced_under_load(getenv("SLIM_SOAK") ? 1000 : 30);
    return 0;
}
