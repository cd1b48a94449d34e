/* op.c - operations: announced also when they have ended before, the same answer for everybody,
 * and going on when their handle is freed (spec 08 part 7, item 13). */
#include "check.h"

enum { THREADS = 4 };

static void announced(struct talk *talk)
{
    int fd = slim_app_fd(talk->alice);
    slim_op *op = NULL;
    uint64_t tag = 0;

    /* Ended before anybody asked to be told. */
    OK(slim_session_publish_start(talk->ours, NULL, "one", 3, NULL, &op));
    OK(slim_op_wait(op, PATIENCE));
    EXPECT(SLIM_ERR_TIMEOUT, slim_app_next_done(talk->alice, &tag));
    OK(slim_op_notify(op, UINT64_MAX));
    CHECK(readable(fd));
    OK(slim_app_next_done(talk->alice, &tag));
    CHECK(tag == UINT64_MAX);
    EXPECT(SLIM_ERR_TIMEOUT, slim_app_next_done(talk->alice, &tag));
    /* Waited for twice. */
    OK(slim_op_wait(op, PATIENCE));
    OK(slim_op_wait(op, 0));
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, slim_op_wait(op, -2));
    slim_op_free(op);
    hear(talk->theirs, "one");

    /* Asked before it has ended, and the handle freed. */
    op = NULL;
    OK(slim_session_publish_start(talk->ours, NULL, "two", 3, NULL, &op));
    OK(slim_op_notify(op, 2));
    slim_op_free(op);
    CHECK(gets_readable(fd));
    OK(slim_app_next_done(talk->alice, &tag));
    CHECK(tag == 2);
    hear(talk->theirs, "two");
}

/* Who has waited for an operation finds its tag on the list. */
static void announced_in_order(struct talk *talk)
{
    for (uint64_t i = 0; i < 200; i++) {
        slim_op *op = NULL;
        uint64_t tag = 0;
        OK(slim_session_publish_start(talk->ours, NULL, "x", 1, NULL, &op));
        OK(slim_op_notify(op, i));
        OK(slim_op_wait(op, PATIENCE));
        OK(slim_app_next_done(talk->alice, &tag));
        CHECK(tag == i);
        slim_op_free(op);
        hear(talk->theirs, "x");
    }
}

/* Freed while it runs: for the peer nothing changes. */
static void freed(struct talk *talk)
{
    for (int i = 0; i < 20; i++) {
        slim_op *op = NULL;
        OK(slim_session_publish_start(talk->ours, NULL, "gone", 4, NULL, &op));
        slim_op_free(op);
    }
    for (int i = 0; i < 20; i++)
        hear(talk->theirs, "gone");
    OK(slim_session_flush(talk->ours, PATIENCE));
}

static slim_op *common;

static void *wait_for_failure(void *argument)
{
    (void)argument;
    EXPECT(SLIM_ERR_NO_ROUTE, slim_op_wait(common, SLIM_WAIT_FOREVER));
    SAYS("org/ns/nobody");
    EXPECT(SLIM_ERR_NO_ROUTE, slim_op_wait(common, 0));
    return NULL;
}

/* Several threads, a failure: each gets it, with its text. */
static void several_threads(struct talk *talk)
{
    pthread_t thread[THREADS];
    slim_session *session = NULL;
    slim_message *message = NULL;

    common = NULL;
    OK(slim_session_open_start(talk->alice, NULL, "org/ns/nobody", &session, &common));
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&thread[i], NULL, wait_for_failure, NULL) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
    EXPECT(SLIM_ERR_NO_ROUTE, slim_op_wait(common, PATIENCE));
    slim_op_free(common);
    EXPECT(SLIM_ERR_CLOSED, slim_session_receive(session, PATIENCE, &message));
    slim_session_free(session);
}

/* Published before the peer has joined: kept for it. */
static void early(struct talk *talk)
{
    slim_session *ours = NULL, *theirs = NULL;
    slim_op *open = NULL, *sent = NULL;

    OK(slim_session_open_start(talk->alice, NULL, "org/ns/bob", &ours, &open));
    OK(slim_session_publish_start(ours, NULL, "early", 5, NULL, &sent));
    OK(slim_app_accept(talk->bob, PATIENCE, &theirs));
    hear(theirs, "early");
    OK(slim_op_wait(open, PATIENCE));
    OK(slim_op_wait(sent, PATIENCE));
    slim_op_free(open);
    slim_op_free(sent);
    slim_session_free(ours);
    slim_session_free(theirs);
}

/* The parents go first: the operation has an answer, and can be announced to nobody. */
static void orphaned(void)
{
    struct talk talk;
    slim_session *session = NULL;
    slim_op *op = NULL;
    slim_status st;

    talk_begin(&talk, NULL);
    OK(slim_session_open_start(talk.alice, NULL, "org/ns/nobody", &session, &op));
    slim_session_free(session);
    talk_end(&talk);
    st = slim_op_wait(op, PATIENCE);
    CHECK(st == SLIM_ERR_CLOSED || st == SLIM_ERR_NO_ROUTE);
    EXPECT(st, slim_op_wait(op, 0));
    OK(slim_op_notify(op, 1));
    slim_op_free(op);
}

int main(void)
{
    struct talk talk;
    talk_begin(&talk, NULL);
    announced(&talk);
    announced_in_order(&talk);
    freed(&talk);
    several_threads(&talk);
    early(&talk);
    talk_end(&talk);
    orphaned();
    return 0;
}
