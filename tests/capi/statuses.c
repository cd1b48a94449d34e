/* statuses.c - every status provoked: its code, its name, and a text that names what was wrong
 * (spec 08 part 7, item 6). */
#include "check.h"

/* Nothing in C can provoke these in this version. */
static const int32_t not_provoked[] = {
    SLIM_ERR_TLS, /* there is no TLS */
};

/* Needs a bug, which a release has not: "bug" on the command line says that this is none. */
static int has_bug;

static const struct {
    int32_t status;
    const char *name;
} names[] = {
#define NAMED(status) {status, #status}
    NAMED(SLIM_OK),
    NAMED(SLIM_ERR_INVALID_ARGUMENT),
    NAMED(SLIM_ERR_INVALID_NAME),
    NAMED(SLIM_ERR_INVALID_CONFIG),
    NAMED(SLIM_ERR_TIMEOUT),
    NAMED(SLIM_ERR_CLOSED),
    NAMED(SLIM_ERR_NOT_FOUND),
    NAMED(SLIM_ERR_EXISTS),
    NAMED(SLIM_ERR_NOT_ALLOWED),
    NAMED(SLIM_ERR_TOO_LARGE),
    NAMED(SLIM_ERR_LIMIT),
    NAMED(SLIM_ERR_CONNECT),
    NAMED(SLIM_ERR_TLS),
    NAMED(SLIM_ERR_AUTH),
    NAMED(SLIM_ERR_PROTOCOL),
    NAMED(SLIM_ERR_MLS),
    NAMED(SLIM_ERR_NO_ROUTE),
    NAMED(SLIM_ERR_UNDELIVERED),
    NAMED(SLIM_ERR_IO),
    NAMED(SLIM_ERR_UNSUPPORTED),
    NAMED(SLIM_ERR_FORKED),
    NAMED(SLIM_ERR_INTERNAL),
};
#define NAMES (sizeof names / sizeof *names)

static int provoked[NAMES];

/* The call failed with this status and says so. */
#define PROVOKE(status, call, text) \
    do {                            \
        EXPECT(status, call);       \
        SAYS(text);                 \
        mark(status);               \
    } while (0)

static void mark(int32_t status)
{
    for (size_t i = 0; i < NAMES; i++)
        if (names[i].status == status)
            provoked[i] = 1;
}

static void arguments_and_config(struct talk *talk)
{
    slim_message *message = POISON;
    slim_app *app = POISON;
    slim_node *node = POISON;

    PROVOKE(SLIM_ERR_INVALID_ARGUMENT, slim_session_receive(talk->ours, -2, &message), "-2");
    PROVOKE(SLIM_ERR_INVALID_ARGUMENT, slim_node_new("\xff", &node), "config_json");
    PROVOKE(SLIM_ERR_INVALID_NAME,
            slim_app_new_with_secret(talk->node, "org/only-two", SECRET, &app), "org/only-two");
    PROVOKE(SLIM_ERR_INVALID_CONFIG, slim_node_new("{\"nodeid\": \"x\"}", &node), "nodeid");
    PROVOKE(SLIM_ERR_INVALID_CONFIG, slim_node_new("{", &node), "line 1");
    PROVOKE(SLIM_ERR_AUTH,
            slim_app_new_with_secret(talk->node, "org/ns/weak", "only 16 letters.", &app), "32");
    CHECK(message == POISON && app == POISON && node == POISON);
}

static void sessions(struct talk *talk)
{
    static char big[5 * 1024 * 1024];
    struct {
        slim_session_options known;
        uint64_t more;
    } later = {SLIM_SESSION_OPTIONS_INIT, 1};
    slim_session *session = POISON;
    slim_message *message = POISON;
    slim_op *op = NULL;
    slim_status st;
    char text[32];

    PROVOKE(SLIM_ERR_TIMEOUT, slim_app_accept(talk->bob, 0, &session), "waiting for a session");
    PROVOKE(SLIM_ERR_TIMEOUT, slim_session_receive(talk->ours, 0, &message), "message");
    snprintf(text, sizeof text, "%zu", sizeof big);
    PROVOKE(SLIM_ERR_TOO_LARGE, slim_session_publish(talk->ours, big, sizeof big, NULL, 0), text);
    PROVOKE(SLIM_ERR_NO_ROUTE,
            slim_session_open(talk->alice, NULL, "org/ns/nobody", PATIENCE, &session),
            "org/ns/nobody");
    later.known.size = sizeof later;
    PROVOKE(SLIM_ERR_UNSUPPORTED,
            slim_session_open(talk->alice, &later.known, "org/ns/g", 0, &session), "options");
    CHECK(session == POISON && message == POISON);

    /* The queue is full at last, since Bob has no chance to acknowledge all that at once. */
    do {
        slim_op_free(op);
        op = NULL;
        st = slim_session_publish_start(talk->ours, NULL, big, 3 * 1024 * 1024, NULL, &op);
    } while (st == SLIM_OK);
    PROVOKE(SLIM_ERR_LIMIT, st, "send queue is full");
    CHECK(op == NULL);
}

/* Who may change a group, and what of it cannot be. */
static void groups(struct talk *talk)
{
    slim_session_options options = SLIM_SESSION_OPTIONS_INIT;
    slim_session *group = NULL, *bobs = NULL;
    slim_app *other = NULL;
    slim_op *op = POISON;

    options.kind = SLIM_SESSION_GROUP;
    options.retry_interval_ms = 50 * (uint32_t)slowness();
    options.max_retries = 2;
    OK(slim_session_open(talk->alice, &options, "org/ns/group", PATIENCE, &group));

    PROVOKE(SLIM_ERR_NOT_ALLOWED, slim_session_invite(talk->ours, "org/ns/carol", 0),
            "cannot invite participant to point-to-point session: org/ns/carol");
    PROVOKE(SLIM_ERR_NOT_ALLOWED, slim_session_invite_start(talk->ours, "org/ns/carol", &op),
            "org/ns/carol");
    PROVOKE(SLIM_ERR_NOT_ALLOWED, slim_session_remove(talk->ours, "org/ns/carol", 0),
            "cannot remove participant from point-to-point session: org/ns/carol");
    PROVOKE(SLIM_ERR_NOT_ALLOWED, slim_session_remove_start(talk->ours, "org/ns/carol", &op),
            "org/ns/carol");
    PROVOKE(SLIM_ERR_NOT_ALLOWED, slim_session_suspend(talk->ours, PATIENCE), "point-to-point");
    PROVOKE(SLIM_ERR_NOT_ALLOWED, slim_session_rejoin(talk->ours, PATIENCE), "point-to-point");
    CHECK(op == POISON);

    PROVOKE(SLIM_ERR_INVALID_NAME, slim_session_invite(group, "carol", PATIENCE), "carol");
    PROVOKE(SLIM_ERR_INVALID_NAME, slim_session_remove(group, "carol", PATIENCE), "carol");
    PROVOKE(SLIM_ERR_NO_ROUTE, slim_session_invite(group, "org/ns/carol", PATIENCE),
            "org/ns/carol");
    OK(slim_app_new_with_secret(talk->node, "org/ns/dave", "another secret, of 32 bytes or so",
                                &other));
    PROVOKE(SLIM_ERR_NO_ROUTE, slim_session_invite(group, "org/ns/dave", PATIENCE),
            "nobody valid answered for org/ns/dave");
    PROVOKE(SLIM_ERR_INVALID_ARGUMENT,
            slim_session_invite(group, slim_app_name(talk->alice), PATIENCE), "this app itself");
    PROVOKE(SLIM_ERR_NOT_FOUND, slim_session_remove(group, "org/ns/bob", PATIENCE), "org/ns/bob");
    OK(slim_session_remove_start(group, "org/ns/bob", &op));
    PROVOKE(SLIM_ERR_NOT_FOUND, slim_op_wait(op, PATIENCE), "org/ns/bob");
    slim_op_free(op);

    OK(slim_session_invite(group, "org/ns/bob", PATIENCE));
    OK(slim_app_accept(talk->bob, PATIENCE, &bobs));
    PROVOKE(SLIM_ERR_EXISTS, slim_session_invite(group, "org/ns/bob", PATIENCE),
            "already in group: org/ns/bob");
    PROVOKE(SLIM_ERR_EXISTS, slim_session_invite(group, slim_app_name(talk->bob), PATIENCE),
            slim_app_name(talk->bob));
    PROVOKE(SLIM_ERR_NOT_ALLOWED, slim_session_invite(bobs, "org/ns/carol", PATIENCE),
            "only initiator can modify participants");
    PROVOKE(SLIM_ERR_NOT_ALLOWED, slim_session_remove(bobs, slim_app_name(talk->alice), PATIENCE),
            "only initiator can modify participants");
    PROVOKE(SLIM_ERR_NOT_ALLOWED, slim_session_rejoin(bobs, PATIENCE), "not suspended");
    OK(slim_session_suspend(bobs, PATIENCE));
    PROVOKE(SLIM_ERR_NOT_ALLOWED, slim_session_suspend(bobs, PATIENCE), "is suspended");
    say(bobs, "x");
    PROVOKE(SLIM_ERR_NOT_ALLOWED, slim_session_flush(bobs, PATIENCE), "suspended");
    OK(slim_session_rejoin(bobs, PATIENCE));

    OK(slim_session_close(group, PATIENCE));
    PROVOKE(SLIM_ERR_CLOSED, slim_session_invite(group, "org/ns/carol", PATIENCE), "closed");
    PROVOKE(SLIM_ERR_CLOSED, slim_session_remove(group, "org/ns/bob", PATIENCE), "closed");
    PROVOKE(SLIM_ERR_CLOSED, slim_session_suspend(group, PATIENCE), "closed");
    PROVOKE(SLIM_ERR_CLOSED, slim_session_rejoin(group, PATIENCE), "closed");
    slim_session_free(bobs);
    slim_session_free(group);
    slim_app_free(other);
}

/* An app that is in an encrypted group wants to be in it once more, under another name. */
static void encrypted(void)
{
    slim_session_options options = SLIM_SESSION_OPTIONS_INIT;
    slim_session *group = NULL, *bobs = NULL;
    slim_node *hub, *node = NULL, *other = NULL;
    slim_app *alice, *bob = NULL;
    uint64_t connection = 0;
    char endpoint[64], alias[128];

    hub = server(endpoint);
    alice = peer("org/ns/alice", endpoint, &node);
    OK(slim_node_new(NULL, &other));
    OK(slim_app_new_with_secret(other, "org/ns/bob", SECRET, &bob));
    OK(slim_app_connect(bob, endpoint, PATIENCE, &connection));
    options.kind = SLIM_SESSION_GROUP;
    options.mls = 1;
    OK(slim_session_open(alice, &options, "org/ns/secret", PATIENCE, &group));
    OK(slim_session_invite(group, "org/ns/bob", PATIENCE));
    OK(slim_app_accept(bob, PATIENCE, &bobs));
    OK(slim_app_subscribe(bob, "org/ns/robert", connection, PATIENCE));
    snprintf(alias, sizeof alias, "org/ns/robert%s", strrchr(slim_app_name(bob), '/'));
    PROVOKE(SLIM_ERR_MLS, slim_session_invite(group, alias, PATIENCE), "in the MLS group already");
    slim_session_free(bobs);
    slim_session_free(group);
    slim_app_free(alice);
    slim_app_free(bob);
    slim_node_free(node);
    slim_node_free(other);
    slim_node_free(hub);
}

static void limits(struct talk *talk)
{
    static char keys[257][8];
    static slim_pair pairs[257];
    slim_publish_options options = SLIM_PUBLISH_OPTIONS_INIT;
    for (int i = 0; i < 257; i++) {
        snprintf(keys[i], sizeof keys[i], "k%d", i);
        pairs[i] = (slim_pair){keys[i], "v"};
    }
    options.metadata = pairs;
    options.metadata_len = 257;
    PROVOKE(SLIM_ERR_LIMIT, slim_session_publish(talk->ours, "x", 1, &options, 0), "257");
    options.metadata_len = 256;
    OK(slim_session_publish(talk->ours, "x", 1, &options, PATIENCE));
}

static void nodes(struct talk *talk)
{
    slim_node *node = NULL;
    uint16_t port = 0, other = 7;
    uint64_t connection = 7;
    char address[64], text[16];
    struct sockaddr_in name;
    socklen_t len = sizeof name;
    int bound = socket(AF_INET, SOCK_STREAM, 0);

    PROVOKE(SLIM_ERR_NOT_FOUND, slim_node_disconnect(talk->node, 987654321), "987654321");
    PROVOKE(SLIM_ERR_NOT_FOUND,
            slim_app_subscribe(talk->alice, "org/ns/x", 987654321, PATIENCE), "987654321");
    PROVOKE(SLIM_ERR_IO, slim_node_listen(talk->node, "192.0.2.1:0", &other), "192.0.2.1");
    OK(slim_node_listen(talk->node, "127.0.0.1:0", &port));
    snprintf(address, sizeof address, "127.0.0.1:%u", (unsigned)port);
    PROVOKE(SLIM_ERR_EXISTS, slim_node_listen(talk->node, address, &other), address);

    /* A port that nobody else gets, and nobody listens on. */
    memset(&name, 0, sizeof name);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(bound, (struct sockaddr *)&name, sizeof name) == 0);
    CHECK(getsockname(bound, (struct sockaddr *)&name, &len) == 0);
    snprintf(address, sizeof address, "http://127.0.0.1:%u", (unsigned)ntohs(name.sin_port));
    snprintf(text, sizeof text, ":%u", (unsigned)ntohs(name.sin_port));
    OK(slim_node_new(NULL, &node));
    PROVOKE(SLIM_ERR_CONNECT, slim_node_connect(node, address, 200, &connection), text);
    /* One that listens and never answers. */
    CHECK(listen(bound, 1) == 0);
    PROVOKE(SLIM_ERR_TIMEOUT, slim_node_connect(node, address, 100, &connection), text);
    close(bound);
    CHECK(other == 7 && connection == 7);

    slim_node_stop(node);
    OK(slim_node_wait(node, PATIENCE));
    PROVOKE(SLIM_ERR_CLOSED, slim_node_listen(node, "127.0.0.1:0", &other), "node closed");
    CHECK(other == 7);
    slim_node_free(node);
}

/* The peer is there, and then it is gone without a word. */
static void undelivered(void)
{
    slim_session_options quick = SLIM_SESSION_OPTIONS_INIT;
    slim_session *ours = NULL;
    slim_node *hub, *node = NULL;
    slim_app *alice;
    slim_op *op = NULL;
    char endpoint[64];
    int ready[2];
    pid_t child;

    hub = server(endpoint);
    CHECK(pipe(ready) == 0);
    child = fork_child();
    if (child == 0) {
        peer("org/ns/mortal", endpoint, &node);
        CHECK(write(ready[1], "r", 1) == 1);
        for (;;)
            pause();
    }
    CHECK(read(ready[0], &endpoint[sizeof endpoint - 1], 1) == 1);
    endpoint[sizeof endpoint - 1] = 0;
    alice = peer("org/ns/alice", endpoint, &node);
    quick.retry_interval_ms = 50 * (uint32_t)slowness();
    quick.max_retries = 2;
    OK(slim_session_open(alice, &quick, "org/ns/mortal", PATIENCE, &ours));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    OK(slim_session_publish_start(ours, NULL, "to nobody", 9, NULL, &op));
    PROVOKE(SLIM_ERR_UNDELIVERED, slim_op_wait(op, PATIENCE), "org/ns/mortal");
    OK(slim_session_publish(ours, "to nobody", 9, NULL, PATIENCE));
    PROVOKE(SLIM_ERR_UNDELIVERED, slim_session_flush(ours, PATIENCE), "org/ns/mortal");
    slim_op_free(op);
    slim_session_free(ours);
    slim_app_free(alice);
    slim_node_free(node);
    slim_node_free(hub);
    close(ready[0]);
    close(ready[1]);
}

static void forked(struct talk *talk)
{
    pid_t child = fork_child();
    if (child == 0) {
        EXPECT(SLIM_ERR_FORKED, slim_session_flush(talk->ours, 0));
        SAYS("before fork()");
        end_child();
    }
    check_child(child);
    mark(SLIM_ERR_FORKED);
}

/* Turns "done" in an acknowledgement of a subscription into "not done": behind gRPC's five bytes it
 * is field 6 of a message, with the number of the request in field 1 and 1 in field 2. */
static void spoil(unsigned char *bytes, ssize_t len)
{
    for (ssize_t i = 0; i + 7 < len; i++) {
        unsigned char *at = bytes + i;
        ssize_t size = at[4];
        if (!at[0] && !at[1] && !at[2] && !at[3] && size > 5 && i + 5 + size <= len &&
            at[5] == 0x32 && at[6] == size - 2 && at[7] == 0x08 && at[5 + size - 2] == 0x10)
            at[5 + size - 1] = 0;
    }
}

/* Stands between a client and its node, which seems to refuse all subscriptions. */
static struct {
    int listens;
    struct sockaddr_in node;
} between;

static void *pass_on(void *argument)
{
    unsigned char bytes[16 * 1024];
    struct pollfd ends[2] = {{-1, POLLIN, 0}, {-1, POLLIN, 0}};

    ends[0].fd = accept(between.listens, NULL, NULL);
    ends[1].fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(ends[0].fd >= 0);
    CHECK(connect(ends[1].fd, (struct sockaddr *)&between.node, sizeof between.node) == 0);
    for (;;) {
        CHECK(poll(ends, 2, PATIENCE) > 0);
        for (int i = 0; i < 2; i++) {
            ssize_t len;
            if (!ends[i].revents)
                continue;
            len = read(ends[i].fd, bytes, sizeof bytes);
            if (len <= 0) {
                close(ends[0].fd);
                close(ends[1].fd);
                return argument;
            }
            if (i == 1)
                spoil(bytes, len);
            /* Without SIGPIPE, should the other side have gone. */
            if (send(ends[1 - i].fd, bytes, (size_t)len, MSG_NOSIGNAL) < len)
                shutdown(ends[i].fd, SHUT_RD);
        }
    }
}

static void refused(void)
{
    slim_node *node = NULL, *hub;
    slim_app *app = NULL;
    uint64_t connection = 7;
    char endpoint[64];
    struct sockaddr_in here;
    socklen_t len = sizeof here;
    pthread_t thread;

    hub = server(endpoint);
    memset(&here, 0, sizeof here);
    here.sin_family = AF_INET;
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    between.node = here;
    between.node.sin_port = htons((uint16_t)atoi(strrchr(endpoint, ':') + 1));
    between.listens = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(between.listens, (struct sockaddr *)&here, sizeof here) == 0);
    CHECK(listen(between.listens, 1) == 0);
    CHECK(getsockname(between.listens, (struct sockaddr *)&here, &len) == 0);
    CHECK(pthread_create(&thread, NULL, pass_on, NULL) == 0);

    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%u", (unsigned)ntohs(here.sin_port));
    OK(slim_node_new(NULL, &node));
    OK(slim_app_new_with_secret(node, "org/ns/unwanted", SECRET, &app));
    PROVOKE(SLIM_ERR_PROTOCOL, slim_app_connect(app, endpoint, PATIENCE, &connection),
            "org/ns/unwanted");
    CHECK(connection == 7);
    slim_app_free(app);
    slim_node_free(node);
    CHECK(pthread_join(thread, NULL) == 0);
    close(between.listens);
    slim_node_free(hub);
}

/* A node whose thread has met a bug: whoever waits is told, and so is everybody who comes later. */
static void *wait_for_a_session(void *app)
{
    slim_session *session = POISON;
    PROVOKE(SLIM_ERR_INTERNAL, slim_app_accept(app, SLIM_WAIT_FOREVER, &session), "the node is dead");
    CHECK(session == POISON);
    return NULL;
}

static void bug(void)
{
    slim_session *session = POISON;
    slim_message *message = POISON;
    slim_app *app = POISON;
    slim_op *op = NULL;
    pthread_t thread;
    struct talk talk;
    size_t len = 4711;
    uint16_t port = 47;
    char endpoint[64];
    slim_node *other = server(endpoint);
    pid_t child = fork_child();

    /* In a process of its own: Rust says on standard error that there was a panic. */
    if (child == 0) {
        int nowhere = open("/dev/null", O_WRONLY), loud = fcntl(2, F_DUPFD_CLOEXEC, 3);
        talk_begin(&talk, NULL);
        OK(slim_session_publish_start(talk.ours, NULL, "x", 1, NULL, &op));
        OK(slim_op_wait(op, PATIENCE));
        CHECK(pthread_create(&thread, NULL, wait_for_a_session, talk.bob) == 0);
        CHECK(nowhere >= 0 && dup2(nowhere, 2) == 2);
        CHECK(setenv("SLIM_TEST_BUG", "stats", 1) == 0);
        slim_status st = slim_node_stats(talk.node, NULL, 0, &len);
        CHECK(dup2(loud, 2) == 2 && unsetenv("SLIM_TEST_BUG") == 0);
        PROVOKE(SLIM_ERR_INTERNAL, st, "a bug in libslim was caught: the node is dead");
        CHECK(pthread_join(thread, NULL) == 0);
        PROVOKE(SLIM_ERR_INTERNAL, slim_node_stats(talk.node, NULL, 0, &len), "the node is dead");
        PROVOKE(SLIM_ERR_INTERNAL, slim_node_listen(talk.node, "127.0.0.1:0", &port), "dead");
        PROVOKE(SLIM_ERR_INTERNAL,
                slim_app_new_with_secret(talk.node, "org/ns/x", SECRET, &app), "dead");
        PROVOKE(SLIM_ERR_INTERNAL,
                slim_session_open(talk.alice, NULL, "org/ns/bob", PATIENCE, &session), "dead");
        PROVOKE(SLIM_ERR_INTERNAL, slim_session_receive(talk.ours, SLIM_WAIT_FOREVER, &message),
                "dead");
        PROVOKE(SLIM_ERR_INTERNAL, slim_session_publish(talk.ours, "x", 1, NULL, PATIENCE), "dead");
        PROVOKE(SLIM_ERR_INTERNAL, slim_session_close(talk.ours, SLIM_WAIT_FOREVER), "dead");
        PROVOKE(SLIM_ERR_INTERNAL, slim_node_wait(talk.node, SLIM_WAIT_FOREVER), "dead");
        /* What had ended before stays as it was, and other nodes do not mind. */
        OK(slim_op_wait(op, 0));
        CHECK(len == 4711 && port == 47 && app == POISON && session == POISON && message == POISON);
        slim_op_free(op);
        talk_end(&talk);
        talk_begin(&talk, NULL);
        say(talk.ours, "alive");
        hear(talk.theirs, "alive");
        talk_end(&talk);
        end_child();
    }
    check_child(child);
    OK(slim_node_stats(other, NULL, 0, NULL));
    slim_node_free(other);
    mark(SLIM_ERR_INTERNAL);
}

int main(int argc, char **argv)
{
    struct talk talk;

    has_bug = argc > 1 && strcmp(argv[1], "bug") == 0;

    CHECK(strcmp(slim_last_error(), "") == 0);
    talk_begin(&talk, NULL);
    /* Success leaves the text as it was. */
    CHECK(strcmp(slim_last_error(), "") == 0);
    mark(SLIM_OK);

    arguments_and_config(&talk);
    nodes(&talk);
    limits(&talk);
    undelivered();
    forked(&talk);
    groups(&talk);
    sessions(&talk);
    talk_end(&talk);
    encrypted();
    refused();
    if (has_bug)
        bug();

    for (size_t i = 0; i < NAMES; i++) {
        int excused = 0;
        CHECK(strcmp(slim_status_name(names[i].status), names[i].name) == 0);
        for (size_t j = 0; j < sizeof not_provoked / sizeof *not_provoked; j++)
            excused |= not_provoked[j] == names[i].status;
        excused |= !has_bug && names[i].status == SLIM_ERR_INTERNAL;
        if (provoked[i] == excused) {
            fprintf(stderr, "%s: provoked %d, excused %d\n", names[i].name, provoked[i], excused);
            return 1;
        }
    }
    CHECK(strcmp(slim_status_name(-17), "SLIM_ERR_UNKNOWN") == 0);
    CHECK(strcmp(slim_status_name(1), "SLIM_ERR_UNKNOWN") == 0);
    return 0;
}
