/* descriptor.c - the descriptors tell the truth (spec 08 part 7, item 11). What happens inside one
 * over 10,000 random steps is tested beside src/driver/inbox.rs; here are the promises that a C
 * program can see. */
#include "check.h"

/* xorshift: the same steps in each run. */
static uint32_t next_random(void)
{
    static uint32_t state = 1;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

static int is_epoll(int fd)
{
    char path[64], target[64] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(readlink(path, target, sizeof target - 1) > 0);
    return strstr(target, "eventpoll") != NULL;
}

/* Every descriptor that was not there before is close-on-exec and never blocks. */
static void well_made(const char known[1024])
{
    for (int fd = 0; fd < 1024; fd++)
        if (!known[fd] && fcntl(fd, F_GETFD) >= 0) {
            CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
            /* An epoll has no such mode. */
            if (!is_epoll(fd))
                CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
        }
}

/* A program that takes the byte out, which is not its own, hinders nobody but itself. */
static void greedy(void)
{
    struct talk talk;
    char byte;
    int fd;

    talk_begin(&talk, NULL);
    fd = slim_session_fd(talk.theirs);
    for (int i = 0; i < 3; i++) {
        CHECK(read(fd, &byte, 1) < 0 && errno == EAGAIN);
        say(talk.ours, "x");
        CHECK(gets_readable(fd) && read(fd, &byte, 1) == 1);
        hear(talk.theirs, "x");
    }
    talk_end(&talk);
}

/* No descriptor exists before somebody asks. */
static void none_before(void)
{
    struct talk talk;
    int before, fd;

    talk_begin(&talk, NULL);
    before = descriptors();
    say(talk.ours, "x");
    hear(talk.theirs, "x");
    OK(slim_session_flush(talk.ours, PATIENCE));
    CHECK(descriptors() == before);
    fd = slim_session_fd(talk.theirs);
    CHECK(fd >= 0 && descriptors() == before + 2);
    CHECK(slim_session_fd(talk.theirs) == fd && descriptors() == before + 2);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    CHECK(slim_app_fd(talk.bob) >= 0 && descriptors() == before + 4);
    /* It goes with the session, when the peer has confirmed its end. */
    OK(slim_session_close(talk.theirs, PATIENCE));
    slim_session_free(talk.theirs);
    CHECK(descriptors() == before + 2);
    /* The answer comes from the node's thread, which has forgotten the app before. */
    slim_app_free(talk.bob);
    OK(slim_node_stats(talk.node, NULL, 0, NULL));
    CHECK(descriptors() == before);
    talk.theirs = NULL;
    talk.bob = NULL;
    talk_end(&talk);
}

/* A take with 0 and the descriptor agree, whatever was sent and taken before; a close at the end
 * raises it for ever, behind the messages that came before it. */
static void random_steps(int steps)
{
    struct talk talk;
    slim_message *message;
    slim_op *op;
    int held = 0, taken = 0, said = 0, fd = -1;

    talk_begin(&talk, NULL);
    for (int step = 0; step < steps; step++) {
        if (step == steps / 10)
            fd = slim_session_fd(talk.theirs);
        if (next_random() % 2) {
            /* Acknowledged: it is in the inbox. */
            op = NULL;
            OK(slim_session_publish_start(talk.ours, NULL, "x", 1, NULL, &op));
            OK(slim_op_wait(op, PATIENCE));
            slim_op_free(op);
            held++;
            said++;
        } else {
            message = NULL;
            EXPECT(held ? SLIM_OK : SLIM_ERR_TIMEOUT,
                   slim_session_receive(talk.theirs, 0, &message));
            CHECK((message != NULL) == (held > 0));
            slim_message_free(message);
            held -= held > 0;
        }
        CHECK(fd < 0 || readable(fd) == (held > 0));
    }
    say(talk.ours, "last");
    OK(slim_session_close(talk.ours, PATIENCE));
    CHECK(readable(fd));
    for (; held > 0; held--, taken++)
        hear(talk.theirs, "x");
    hear(talk.theirs, "last");
    for (int i = 0; i < 3; i++) {
        CHECK(readable(fd));
        message = POISON;
        EXPECT(SLIM_ERR_CLOSED, slim_session_receive(talk.theirs, 0, &message));
        CHECK(message == POISON);
    }
    CHECK(said > steps / 3);
    talk_end(&talk);
}

/* One thread sends, two take whenever the descriptor says so: nothing is lost, and nobody waits
 * for what is there already. */
static struct {
    slim_session *session;
    pthread_mutex_t lock;
    int taken;
} shared = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *take(void *argument)
{
    int fd = slim_session_fd(shared.session);
    (void)argument;
    for (;;) {
        slim_message *message = NULL;
        slim_status st;
        CHECK(gets_readable(fd));
        st = slim_session_receive(shared.session, 0, &message);
        if (st == SLIM_ERR_CLOSED)
            return NULL;
        if (st == SLIM_ERR_TIMEOUT)
            continue;
        OK(st);
        slim_message_free(message);
        pthread_mutex_lock(&shared.lock);
        shared.taken++;
        pthread_mutex_unlock(&shared.lock);
    }
}

static void concurrent_takers(int messages)
{
    pthread_t thread[2];
    struct talk talk;

    talk_begin(&talk, NULL);
    shared.session = talk.theirs;
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&thread[i], NULL, take, NULL) == 0);
    for (int i = 0; i < messages; i++)
        say(talk.ours, "x");
    OK(slim_session_close(talk.ours, PATIENCE));
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
    CHECK(shared.taken == messages);
    talk_end(&talk);
}

/* The app's: sessions to accept, operations that have ended, the end. */
static void of_an_app(void)
{
    struct talk talk;
    slim_session *ours = NULL, *theirs = NULL;
    slim_op *op = NULL;
    uint64_t tag = 0;
    int alice, bob;

    talk_begin(&talk, NULL);
    alice = slim_app_fd(talk.alice);
    bob = slim_app_fd(talk.bob);
    CHECK(alice >= 0 && bob >= 0 && alice != bob && !readable(alice) && !readable(bob));

    OK(slim_session_open_start(talk.alice, NULL, slim_app_name(talk.bob), &ours, &op));
    OK(slim_op_notify(op, 42));
    CHECK(gets_readable(bob) && gets_readable(alice));
    OK(slim_app_accept(talk.bob, 0, &theirs));
    CHECK(!readable(bob));
    OK(slim_app_next_done(talk.alice, &tag));
    CHECK(tag == 42 && !readable(alice));
    OK(slim_op_wait(op, 0));
    slim_op_free(op);

    /* Both at once: it stays readable until both are taken. */
    slim_session_free(ours);
    slim_session_free(theirs);
    OK(slim_session_open(talk.bob, NULL, slim_app_name(talk.alice), PATIENCE, &theirs));
    op = NULL;
    OK(slim_session_publish_start(talk.ours, NULL, "x", 1, NULL, &op));
    OK(slim_op_notify(op, 43));
    OK(slim_op_wait(op, PATIENCE));
    slim_op_free(op);
    OK(slim_app_accept(talk.alice, PATIENCE, &ours));
    CHECK(gets_readable(alice));
    OK(slim_app_next_done(talk.alice, &tag));
    CHECK(tag == 43 && !readable(alice));
    EXPECT(SLIM_ERR_TIMEOUT, slim_app_next_done(talk.alice, &tag));
    CHECK(tag == 43);

    slim_node_stop(talk.node);
    CHECK(gets_readable(alice) && gets_readable(bob));
    OK(slim_node_wait(talk.node, PATIENCE));
    slim_session_free(ours);
    slim_session_free(theirs);
    ours = POISON;
    EXPECT(SLIM_ERR_CLOSED, slim_app_accept(talk.alice, 0, &ours));
    EXPECT(SLIM_ERR_CLOSED, slim_app_next_done(talk.alice, &tag));
    CHECK(ours == POISON && tag == 43 && readable(alice) && readable(bob));
    talk_end(&talk);
}

/* An event loop of two sessions over a network, and the peer that goes away. */
static void two_sessions(void)
{
    slim_session *ours[2] = {NULL, NULL}, *theirs[2] = {NULL, NULL};
    slim_node *hub, *a = NULL, *b = NULL;
    slim_app *alice, *bob;
    slim_message *message = NULL;
    struct pollfd asked[2];
    char endpoint[64], known[1024];
    int heard[2] = {0, 0}, closed = 0;

    for (int fd = 0; fd < 1024; fd++)
        known[fd] = fcntl(fd, F_GETFD) >= 0;
    hub = server(endpoint);
    alice = peer("org/ns/alice", endpoint, &a);
    bob = peer("org/ns/bob", endpoint, &b);
    for (int i = 0; i < 2; i++) {
        open_between(alice, bob, NULL, &ours[i], &theirs[i]);
        asked[i] = (struct pollfd){slim_session_fd(theirs[i]), POLLIN, 0};
    }
    well_made(known);
    for (int i = 0; i < 20; i++)
        say(ours[i % 2], i % 2 ? "odd" : "even");
    for (int i = 0; i < 2; i++)
        OK(slim_session_close(ours[i], PATIENCE));
    while (closed < 2) {
        CHECK(poll(asked, 2, PATIENCE) > 0);
        for (int i = 0; i < 2; i++) {
            slim_status st = SLIM_OK;
            if (!(asked[i].revents & POLLIN))
                continue;
            while ((st = slim_session_receive(theirs[i], 0, &message)) == SLIM_OK) {
                size_t len = 0;
                slim_message_data(message, &len);
                CHECK(len == (i ? 3 : 4));
                slim_message_free(message);
                heard[i]++;
            }
            if (st == SLIM_ERR_CLOSED) {
                asked[i].fd = -1;
                closed++;
            } else {
                EXPECT(SLIM_ERR_TIMEOUT, st);
            }
        }
    }
    CHECK(heard[0] == 10 && heard[1] == 10);
    for (int i = 0; i < 2; i++) {
        slim_session_free(ours[i]);
        slim_session_free(theirs[i]);
    }
    slim_app_free(alice);
    slim_app_free(bob);
    slim_node_free(a);
    slim_node_free(b);
    slim_node_free(hub);
}

int main(void)
{
    int soak = getenv("SLIM_SOAK") != NULL;
    none_before();
    random_steps(soak ? 10000 : 1000);
    concurrent_takers(soak ? 10000 : 500);
    of_an_app();
    greedy();
    two_sessions();
    return 0;
}
