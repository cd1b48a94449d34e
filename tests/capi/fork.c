/* fork.c - handles do not survive fork(), the child's own nodes work, the parent notices nothing
 * (spec 08 part 7, item 14). Also while threads are under load, in the midst of the first node, and
 * beside copies of the process that the library does not know of. */
#include "check.h"

#include <stdatomic.h>
#include <sys/syscall.h>

#define FORKED(call)                         \
    do {                                     \
        forget_error();                      \
        EXPECT(SLIM_ERR_FORKED, call);       \
        SAYS("the handle was made before fork()"); \
    } while (0)

static struct {
    struct talk talk;
    slim_node *hub, *node;
    slim_app *app;
    slim_message *message;
    slim_op *op;
    slim_participants *participants;
    char endpoint[64];
} parent;

/* Every call, on handles of the parent. */
static void all_refuse(void)
{
    struct talk *talk = &parent.talk;
    slim_app *app = POISON;
    slim_session *session = POISON;
    slim_message *message = POISON;
    slim_op *op = POISON;
    slim_participants *participants = POISON;
    slim_session_fields session_fields = SLIM_SESSION_FIELDS_INIT;
    slim_message_fields fields = SLIM_MESSAGE_FIELDS_INIT;
    uint64_t number = 4711;
    uint16_t port = 47;
    char buffer[4] = "abc";
    size_t len = 4711;

    FORKED(slim_node_listen(talk->node, "127.0.0.1:0", &port));
    FORKED(slim_node_connect(talk->node, parent.endpoint, PATIENCE, &number));
    FORKED(slim_node_disconnect(talk->node, 1));
    slim_node_stop(talk->node);
    FORKED(slim_node_wait(talk->node, SLIM_WAIT_FOREVER));
    FORKED(slim_node_stats(talk->node, buffer, sizeof buffer, &len));
    FORKED(slim_app_new_with_secret(talk->node, "org/ns/x", SECRET, &app));
    FORKED(slim_app_new(talk->node, "org/ns/x",
                        "{\"provider\": {\"type\": \"shared_secret\", \"data\": \"" SECRET "\"},"
                        " \"verifier\": {\"type\": \"shared_secret\", \"data\": \"" SECRET "\"}}",
                        &app));
    FORKED(slim_app_connect(talk->alice, parent.endpoint, PATIENCE, &number));
    FORKED(slim_app_subscribe(talk->alice, "org/ns/x", 1, PATIENCE));
    FORKED(slim_app_unsubscribe(talk->alice, "org/ns/x", 1, PATIENCE));
    FORKED(slim_app_set_route(talk->alice, "org/ns/x", 1));
    FORKED(slim_app_remove_route(talk->alice, "org/ns/x", 1));
    FORKED(slim_app_set_direction(talk->alice, 0));
    FORKED(slim_app_accept(talk->alice, SLIM_WAIT_FOREVER, &session));
    CHECK(slim_app_fd(talk->alice) == SLIM_ERR_FORKED);
    FORKED(slim_app_next_done(talk->alice, &number));
    FORKED(slim_session_open(talk->alice, NULL, "org/ns/bob", PATIENCE, &session));
    FORKED(slim_session_open_start(talk->alice, NULL, "org/ns/bob", &session, &op));
    FORKED(slim_session_view(talk->ours, &session_fields));
    FORKED(slim_session_publish(talk->ours, "x", 1, NULL, PATIENCE));
    FORKED(slim_session_publish_to(talk->ours, parent.message, "x", 1, NULL, PATIENCE));
    FORKED(slim_session_publish_start(talk->ours, NULL, "x", 1, NULL, &op));
    FORKED(slim_session_flush(talk->ours, SLIM_WAIT_FOREVER));
    FORKED(slim_session_receive(talk->ours, SLIM_WAIT_FOREVER, &message));
    CHECK(slim_session_fd(talk->ours) == SLIM_ERR_FORKED);
    FORKED(slim_session_set_events(talk->ours, 1));
    FORKED(slim_session_invite(talk->ours, "org/ns/x", PATIENCE));
    FORKED(slim_session_invite_start(talk->ours, "org/ns/x", &op));
    FORKED(slim_session_remove(talk->ours, "org/ns/x", PATIENCE));
    FORKED(slim_session_remove_start(talk->ours, "org/ns/x", &op));
    FORKED(slim_session_suspend(talk->ours, PATIENCE));
    FORKED(slim_session_rejoin(talk->ours, PATIENCE));
    FORKED(slim_session_participants(talk->ours, PATIENCE, &participants));
    /* A list is only memory. */
    CHECK(slim_participants_count(parent.participants) == 2);
    CHECK(slim_participants_at(parent.participants, 1, NULL) != NULL);
    FORKED(slim_session_close(talk->ours, PATIENCE));
    FORKED(slim_message_view(parent.message, &fields));
    CHECK(slim_message_data(parent.message, &len) == NULL && len == 0);
    FORKED(slim_op_wait(parent.op, SLIM_WAIT_FOREVER));
    FORKED(slim_op_notify(parent.op, 1));
    CHECK(app == POISON && session == POISON && message == POISON && op == POISON);
    CHECK(participants == POISON && number == 4711 && port == 47 && strcmp(buffer, "abc") == 0);
    CHECK(session_fields.source == NULL && fields.source == NULL);
}

static void free_all(void)
{
    slim_participants_free(parent.participants);
    slim_op_free(parent.op);
    slim_message_free(parent.message);
    slim_app_free(parent.app);
    slim_node_free(parent.node);
    slim_node_free(parent.hub);
    talk_end(&parent.talk);
}

/* What the child does: it tells the parent that it has started, refuses, and talks to the parent's
 * node with one of its own. It lives until the parent has closed `until`. */
static void child(int report, int until)
{
    slim_session *session = NULL;
    slim_node *node = NULL;
    slim_app *app;
    char byte;

    CHECK(threads() == 1);
    all_refuse();
    free_all();
    memset(&parent.talk, 0, sizeof parent.talk);
    app = peer("org/ns/child", parent.endpoint, &node);
    OK(slim_session_open(app, NULL, "org/ns/waiting", PATIENCE, &session));
    say(session, "from the child");
    hear(session, "to the child");
    CHECK(write(report, "c", 1) == 1);
    while (read(until, &byte, 1) < 0)
        CHECK(errno == EINTR);
    slim_session_free(session);
    slim_app_free(app);
    slim_node_free(node);
    end_child();
}

/* A connection of the parent ends when the parent ends it, although the child lives. */
static void ends_for_the_peer(slim_node *hub)
{
    char request[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    struct sockaddr_in name;
    char byte[256];
    ssize_t got;
    int raw = socket(AF_INET, SOCK_STREAM, 0);

    memset(&name, 0, sizeof name);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    name.sin_port = htons((uint16_t)atoi(strrchr(parent.endpoint, ':') + 1));
    CHECK(connect(raw, (struct sockaddr *)&name, sizeof name) == 0);
    CHECK(write(raw, request, strlen(request)) > 0);
    /* It was accepted: the node says its SETTINGS. */
    CHECK(gets_readable(raw) && read(raw, byte, sizeof byte) > 0);
    {
        int pipes[2];
        pid_t living;
        CHECK(pipe(pipes) == 0);
        living = fork_child();
        if (living == 0) {
            close(raw);
            close(pipes[1]);
            while (read(pipes[0], byte, 1) < 0)
                CHECK(errno == EINTR);
            end_child();
        }
        close(pipes[0]);
        slim_node_free(hub);
        do {
            CHECK(gets_readable(raw));
            got = read(raw, byte, sizeof byte);
        } while (got > 0);
        CHECK(got == 0 || errno == ECONNRESET);
        /* Nobody listens there any more, neither. */
        close(raw);
        raw = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(connect(raw, (struct sockaddr *)&name, sizeof name) < 0 && errno == ECONNREFUSED);
        close(raw);
        close(pipes[1]);
        check_child(living);
    }
}

/* A copy that was made behind the C library's back holds all descriptors, and the library does not
 * know of it: what the parent ends, it ends for the peers all the same. */
static void copied_unawares(void)
{
    struct sockaddr_in name;
    slim_node *hub;
    char endpoint[64], byte[256];
    ssize_t got;
    int until[2], raw = socket(AF_INET, SOCK_STREAM, 0);
    pid_t copy;

    hub = server(endpoint);
    memset(&name, 0, sizeof name);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    name.sin_port = htons((uint16_t)atoi(strrchr(endpoint, ':') + 1));
    CHECK(connect(raw, (struct sockaddr *)&name, sizeof name) == 0);
    CHECK(gets_readable(raw) && read(raw, byte, sizeof byte) > 0);
    CHECK(pipe(until) == 0);
    copy = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    CHECK(copy >= 0);
    if (copy == 0) {
        close(until[1]);
        while (read(until[0], byte, 1) < 0)
            CHECK(errno == EINTR);
        _exit(0);
    }
    close(until[0]);
    slim_node_free(hub);
    do {
        CHECK(gets_readable(raw));
        got = read(raw, byte, sizeof byte);
    } while (got > 0);
    CHECK(got == 0 || errno == ECONNRESET);
    close(raw);
    raw = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(raw, (struct sockaddr *)&name, sizeof name) < 0 && errno == ECONNREFUSED);
    close(raw);
    close(until[1]);
    check_child(copy);
}

static atomic_int enough;

/* One thread opens and closes nodes, links and descriptors all the time, */
static void *come_and_go(void *argument)
{
    while (!atomic_load(&enough)) {
        slim_session *session = NULL;
        slim_node *node = NULL;
        slim_app *app = peer("org/ns/restless", parent.endpoint, &node);
        OK(slim_session_open(app, NULL, "org/ns/waiting", PATIENCE, &session));
        CHECK(slim_session_fd(session) >= 0 && slim_app_fd(app) >= 0);
        slim_session_free(session);
        slim_app_free(app);
        slim_node_free(node);
    }
    return argument;
}

/* one takes the sessions that the other opens, */
static void *take_sessions(void *argument)
{
    slim_session *session = NULL;
    slim_status st;
    while ((st = slim_app_accept(parent.app, SLIM_WAIT_FOREVER, &session)) == SLIM_OK)
        slim_session_free(session);
    EXPECT(SLIM_ERR_CLOSED, st);
    return argument;
}

/* and one talks: every message arrives, once and in order. */
static void *talk_on(void *argument)
{
    int *rounds = argument;
    while (!atomic_load(&enough)) {
        char text[32];
        snprintf(text, sizeof text, "round %d", (*rounds)++);
        say(parent.talk.ours, text);
        hear(parent.talk.theirs, text);
    }
    return argument;
}

/* No descriptor of the parent is in the child, whatever its threads were doing, and the child can
 * do all of it anew. */
static void child_of_load(int before)
{
    slim_message *message = POISON;
    struct talk talk;

    /* Valgrind closes one of its own there. */
    if (descriptors() > before || (descriptors() < before && !on_valgrind())) {
        char command[64];
        fprintf(stderr, "%d descriptors, not %d:\n", descriptors(), before);
        snprintf(command, sizeof command, "ls -l /proc/%d/fd >&2", (int)getpid());
        CHECK(system(command) >= 0);
        _exit(1);
    }
    FORKED(slim_session_receive(parent.talk.theirs, SLIM_WAIT_FOREVER, &message));
    FORKED(slim_session_publish(parent.talk.ours, "x", 1, NULL, SLIM_WAIT_FOREVER));
    talk_begin(&talk, NULL);
    say(talk.ours, "in the child");
    hear(talk.theirs, "in the child");
    talk_end(&talk);
    end_child();
}

/* `before`: how many descriptors there were before there was a node. */
static void under_load(int forks, int before)
{
    pthread_t thread[3];
    int rounds = 0;

    CHECK(pthread_create(&thread[0], NULL, take_sessions, NULL) == 0);
    CHECK(pthread_create(&thread[1], NULL, come_and_go, NULL) == 0);
    CHECK(pthread_create(&thread[2], NULL, talk_on, &rounds) == 0);
    for (int i = 0; i < forks; i++) {
        pid_t pid = fork_child();
        if (pid == 0)
            child_of_load(before);
        check_child(pid);
    }
    atomic_store(&enough, 1);
    CHECK(pthread_join(thread[1], NULL) == 0 && pthread_join(thread[2], NULL) == 0);
    CHECK(rounds > 0);
    slim_node_stop(parent.node);
    CHECK(pthread_join(thread[0], NULL) == 0);
}

/* A child that is made while another thread makes the first node of the process. */
static void *first_node(void *argument)
{
    slim_node *node = NULL;
    OK(slim_node_new(NULL, &node));
    slim_node_free(node);
    return argument;
}

static void in_the_midst_of_the_first(const char *program, int times)
{
    for (int i = 0; i < times; i++) {
        pid_t pid = fork_child();
        if (pid == 0) {
            execl(program, program, "first", (char *)NULL);
            _exit(127);
        }
        check_child(pid);
    }
}

static int first(void)
{
    pthread_t thread;
    pid_t pid;

    CHECK(pthread_create(&thread, NULL, first_node, NULL) == 0);
    pid = fork_child();
    if (pid == 0) {
        alarm(60);
        first_node(NULL);
        end_child();
    }
    check_child(pid);
    CHECK(pthread_join(thread, NULL) == 0);
    return 0;
}

int main(int argc, char **argv)
{
    slim_session *theirs = NULL;
    slim_message *message = POISON;
    int report[2], until[2];
    int before, soak = getenv("SLIM_SOAK") != NULL;
    char byte;
    pid_t pid;

    if (argc > 1)
        return first();
    in_the_midst_of_the_first(argv[0], on_valgrind() ? 1 : soak ? 1000 : 20);
    before = descriptors();
    talk_begin(&parent.talk, NULL);
    parent.hub = server(parent.endpoint);
    parent.app = peer("org/ns/waiting", parent.endpoint, &parent.node);
    say(parent.talk.theirs, "kept");
    OK(slim_session_receive(parent.talk.ours, PATIENCE, &parent.message));
    OK(slim_session_publish_start(parent.talk.ours, NULL, "x", 1, NULL, &parent.op));
    OK(slim_op_wait(parent.op, PATIENCE));
    hear(parent.talk.theirs, "x");
    OK(slim_session_participants(parent.talk.ours, PATIENCE, &parent.participants));
    CHECK(slim_session_fd(parent.talk.ours) >= 0 && slim_app_fd(parent.talk.bob) >= 0);

    CHECK(pipe(report) == 0 && pipe(until) == 0);
    pid = fork_child();
    if (pid == 0) {
        close(report[0]);
        close(until[1]);
        child(report[1], until[0]);
    }
    close(report[1]);
    close(until[0]);
    OK(slim_app_accept(parent.app, PATIENCE, &theirs));
    hear(theirs, "from the child");
    say(theirs, "to the child");
    CHECK(read(report[0], &byte, 1) == 1);
    /* The child has used and freed its copies of everything. */
    say(parent.talk.ours, "undisturbed");
    hear(parent.talk.theirs, "undisturbed");
    close(until[1]);
    check_child(pid);
    close(report[0]);
    EXPECT(SLIM_ERR_CLOSED, slim_session_receive(theirs, PATIENCE, &message));
    slim_session_free(theirs);
    say(parent.talk.ours, "undisturbed still");
    hear(parent.talk.theirs, "undisturbed still");
    CHECK(readable(slim_session_fd(parent.talk.ours)) == 0);
    say(parent.talk.theirs, "back");
    CHECK(gets_readable(slim_session_fd(parent.talk.ours)));
    OK(slim_op_wait(parent.op, 0));

    under_load(on_valgrind() ? 2 : soak ? 1000 : 20, before);
    ends_for_the_peer(parent.hub);
    parent.hub = NULL;
    /* Valgrind follows no bare clone(). */
    if (!on_valgrind())
        copied_unawares();
    free_all();
    return 0;
}
