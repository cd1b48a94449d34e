/* encryption.c - encrypted sessions: how often the keys have changed is seen, no thread is left by
 * any change, and a forked child may do all of it anew (spec 05, item 20). */
#include "check.h"

struct peers {
    slim_node *node;
    slim_app *ann, *bob, *carol;
};

static void begin(struct peers *peers)
{
    memset(peers, 0, sizeof *peers);
    OK(slim_node_new(NULL, &peers->node));
    OK(slim_app_new_with_secret(peers->node, "org/ns/ann", SECRET, &peers->ann));
    OK(slim_app_new_with_secret(peers->node, "org/ns/bob", SECRET, &peers->bob));
    OK(slim_app_new_with_secret(peers->node, "org/ns/carol", SECRET, &peers->carol));
}

static void end(struct peers *peers)
{
    slim_app_free(peers->ann);
    slim_app_free(peers->bob);
    slim_app_free(peers->carol);
    slim_node_free(peers->node);
}

static int64_t epoch(slim_session *session)
{
    slim_session_fields known = SLIM_SESSION_FIELDS_INIT;
    OK(slim_session_view(session, &known));
    return known.epoch;
}

/* Messages of encrypted sessions that the node's apps could not read. */
static void all_was_readable(slim_node *node)
{
    char text[1024];
    size_t len = 0;
    OK(slim_node_stats(node, text, sizeof text, &len));
    CHECK(len < sizeof text && strstr(text, "\"unreadable\":0"));
}

static void tell(slim_session *from, slim_session *to, const char *text)
{
    slim_op *op = NULL;
    OK(slim_session_publish_start(from, NULL, text, strlen(text), NULL, &op));
    OK(slim_op_wait(op, PATIENCE));
    slim_op_free(op);
    hear(to, text);
}

static void point_to_point(const struct peers *peers)
{
    slim_session_options options = SLIM_SESSION_OPTIONS_INIT;
    slim_session *ours = NULL, *theirs = NULL;

    open_between(peers->ann, peers->bob, NULL, &ours, &theirs);
    CHECK(epoch(ours) == -1 && epoch(theirs) == -1);
    slim_session_free(ours);
    slim_session_free(theirs);
    ours = theirs = NULL;
    options.mls = 1;
    open_between(peers->ann, peers->bob, &options, &ours, &theirs);
    CHECK(epoch(ours) == 1 && epoch(theirs) == 1);
    tell(ours, theirs, "there");
    tell(theirs, ours, "and back");
    slim_session_free(ours);
    slim_session_free(theirs);
}

/* `others`: the threads beside the node's. */
static void group(const struct peers *peers, int others)
{
    slim_session_options options = SLIM_SESSION_OPTIONS_INIT;
    slim_session *anns = NULL, *bobs = NULL, *carols = NULL;

    options.kind = SLIM_SESSION_GROUP;
    options.mls = 1;
    OK(slim_session_open(peers->ann, &options, "org/ns/group", PATIENCE, &anns));
    CHECK(epoch(anns) == -1);
    OK(slim_session_invite(anns, "org/ns/bob", PATIENCE));
    OK(slim_app_accept(peers->bob, PATIENCE, &bobs));
    CHECK(epoch(anns) == 1 && epoch(bobs) == 1 && threads() == others + 1);
    OK(slim_session_invite(anns, "org/ns/carol", PATIENCE));
    OK(slim_app_accept(peers->carol, PATIENCE, &carols));
    CHECK(epoch(anns) == 2 && epoch(bobs) == 2 && epoch(carols) == 2);
    CHECK(threads() == others + 1);
    tell(anns, bobs, "to all");
    hear(carols, "to all");
    OK(slim_session_remove(anns, "org/ns/bob", PATIENCE));
    CHECK(epoch(anns) == 3 && epoch(carols) == 3 && threads() == others + 1);
    tell(carols, anns, "to one");
    /* It comes anew, and back after it was away. */
    slim_session_free(bobs);
    bobs = NULL;
    OK(slim_session_invite(anns, "org/ns/bob", PATIENCE));
    OK(slim_app_accept(peers->bob, PATIENCE, &bobs));
    OK(slim_session_suspend(bobs, PATIENCE));
    OK(slim_session_rejoin(bobs, PATIENCE));
    tell(bobs, anns, "back");
    hear(carols, "back");
    CHECK(epoch(anns) == 4 && epoch(bobs) == 4 && epoch(carols) == 4);
    CHECK(threads() == others + 1);
    slim_session_free(bobs);
    slim_session_free(carols);
    slim_session_free(anns);
}

static void all(int others)
{
    struct peers peers;
    begin(&peers);
    point_to_point(&peers);
    group(&peers, others);
    all_was_readable(peers.node);
    end(&peers);
}

static void forked(int others)
{
    pid_t pid = fork_child();
    if (pid == 0) {
        all(others);
        end_child();
    }
    check_child(pid);
}

int main(void)
{
    int others = threads();
    struct peers peers;

    /* Before the process has ever used encryption, after it has, and while it does. */
    forked(others);
    all(others);
    forked(others);
    begin(&peers);
    point_to_point(&peers);
    forked(others);
    group(&peers, others);
    end(&peers);
    return 0;
}
