/* nulls.c - every function with NULL for each pointer in turn: INVALID_ARGUMENT and a text that
 * names the argument, outputs untouched; _free() does nothing (spec 08 part 7, items 5 and 7). */
#include "check.h"

/* `what` is the name of the argument that is NULL. */
#define NIL(what, call)                             \
    do {                                            \
        forget_error();                             \
        EXPECT(SLIM_ERR_INVALID_ARGUMENT, call);    \
        SAYS(what " is NULL");                      \
        CHECK(untouched());                         \
    } while (0)

/* Every output of every call. */
static slim_node *node;
static slim_app *app;
static slim_session *session;
static slim_message *message;
static slim_op *op;
static slim_participants *participants;
static uint64_t number;
static uint16_t port;

static void poison(void)
{
    node = POISON;
    app = POISON;
    session = POISON;
    message = POISON;
    op = POISON;
    participants = POISON;
    number = 4711;
    port = 47;
}

static int untouched(void)
{
    return node == POISON && app == POISON && session == POISON && message == POISON &&
           op == POISON && participants == POISON && number == 4711 && port == 47;
}

static void nodes(struct talk *talk)
{
    size_t needed = 4711;
    char buffer[8] = "as ever";

    NIL("node", slim_node_new(NULL, NULL));
    NIL("node", slim_node_listen(NULL, "127.0.0.1:0", &port));
    NIL("server", slim_node_listen(talk->node, NULL, &port));
    NIL("node", slim_node_connect(NULL, "http://127.0.0.1:1", 0, &number));
    NIL("client", slim_node_connect(talk->node, NULL, 0, &number));
    NIL("node", slim_node_disconnect(NULL, 1));
    slim_node_stop(NULL);
    NIL("node", slim_node_wait(NULL, 0));
    NIL("node", slim_node_stats(NULL, buffer, sizeof buffer, &needed));
    NIL("buffer", slim_node_stats(talk->node, NULL, 1, &needed));
    CHECK(strcmp(buffer, "as ever") == 0 && needed == 4711);
    slim_node_free(NULL);

    /* What may be NULL. */
    OK(slim_node_listen(talk->node, "127.0.0.1:0", NULL));
    OK(slim_node_stats(talk->node, NULL, 0, &needed));
    CHECK(needed > 8 && needed < 4711);
    OK(slim_node_stats(talk->node, buffer, sizeof buffer, NULL));
    CHECK(strlen(buffer) == 7 && buffer[0] == '{');
}

static void apps(struct talk *talk)
{
    static const char identity[] =
        "{\"provider\": {\"type\": \"shared_secret\", \"data\": \"" SECRET "\"},"
        " \"verifier\": {\"type\": \"shared_secret\", \"data\": \"" SECRET "\"}}";
    const char *name = "org/ns/x";

    NIL("node", slim_app_new(NULL, name, identity, &app));
    NIL("name", slim_app_new(talk->node, NULL, identity, &app));
    NIL("identity_json", slim_app_new(talk->node, name, NULL, &app));
    NIL("app", slim_app_new(talk->node, name, identity, NULL));
    NIL("node", slim_app_new_with_secret(NULL, name, SECRET, &app));
    NIL("name", slim_app_new_with_secret(talk->node, NULL, SECRET, &app));
    NIL("secret", slim_app_new_with_secret(talk->node, name, NULL, &app));
    NIL("app", slim_app_new_with_secret(talk->node, name, SECRET, NULL));
    CHECK(strcmp(slim_app_name(NULL), "") == 0);
    NIL("app", slim_app_connect(NULL, "http://127.0.0.1:1", 0, &number));
    NIL("client", slim_app_connect(talk->alice, NULL, 0, &number));
    NIL("app", slim_app_subscribe(NULL, name, 1, 0));
    NIL("name", slim_app_subscribe(talk->alice, NULL, 1, 0));
    NIL("app", slim_app_unsubscribe(NULL, name, 1, 0));
    NIL("name", slim_app_unsubscribe(talk->alice, NULL, 1, 0));
    NIL("app", slim_app_set_route(NULL, name, 1));
    NIL("name", slim_app_set_route(talk->alice, NULL, 1));
    NIL("app", slim_app_remove_route(NULL, name, 1));
    NIL("name", slim_app_remove_route(talk->alice, NULL, 1));
    NIL("app", slim_app_set_direction(NULL, 0));
    NIL("app", slim_app_accept(NULL, 0, &session));
    NIL("session", slim_app_accept(talk->alice, 0, NULL));
    CHECK(slim_app_fd(NULL) == SLIM_ERR_INVALID_ARGUMENT);
    SAYS("app is NULL");
    NIL("app", slim_app_next_done(NULL, &number));
    NIL("tag", slim_app_next_done(talk->alice, NULL));
    slim_app_free(NULL);
}

static void sessions(struct talk *talk, slim_message *said)
{
    const char *name = "org/ns/x";
    slim_session_fields fields = SLIM_SESSION_FIELDS_INIT;
    fields.source = POISON;

    NIL("app", slim_session_open(NULL, NULL, name, 0, &session));
    NIL("destination", slim_session_open(talk->alice, NULL, NULL, 0, &session));
    NIL("session", slim_session_open(talk->alice, NULL, name, 0, NULL));
    NIL("app", slim_session_open_start(NULL, NULL, name, &session, &op));
    NIL("destination", slim_session_open_start(talk->alice, NULL, NULL, &session, &op));
    NIL("session", slim_session_open_start(talk->alice, NULL, name, NULL, &op));
    NIL("op", slim_session_open_start(talk->alice, NULL, name, &session, NULL));
    NIL("session", slim_session_view(NULL, &fields));
    NIL("fields", slim_session_view(talk->ours, NULL));
    CHECK(fields.source == POISON && fields.size == sizeof fields);
    NIL("session", slim_session_publish(NULL, "x", 1, NULL, 0));
    NIL("data", slim_session_publish(talk->ours, NULL, 1, NULL, 0));
    NIL("session", slim_session_publish_to(NULL, said, "x", 1, NULL, 0));
    NIL("message", slim_session_publish_to(talk->theirs, NULL, "x", 1, NULL, 0));
    NIL("data", slim_session_publish_to(talk->theirs, said, NULL, 1, NULL, 0));
    NIL("session", slim_session_publish_start(NULL, said, "x", 1, NULL, &op));
    NIL("data", slim_session_publish_start(talk->ours, NULL, NULL, 1, NULL, &op));
    NIL("op", slim_session_publish_start(talk->ours, NULL, "x", 1, NULL, NULL));
    NIL("session", slim_session_flush(NULL, 0));
    NIL("session", slim_session_receive(NULL, 0, &message));
    NIL("message", slim_session_receive(talk->ours, 0, NULL));
    CHECK(slim_session_fd(NULL) == SLIM_ERR_INVALID_ARGUMENT);
    CHECK(slim_session_set_events(NULL, 1) == SLIM_ERR_INVALID_ARGUMENT);
    SAYS("session is NULL");
    NIL("session", slim_session_invite(NULL, name, 0));
    NIL("name", slim_session_invite(talk->ours, NULL, 0));
    NIL("session", slim_session_invite_start(NULL, name, &op));
    NIL("name", slim_session_invite_start(talk->ours, NULL, &op));
    NIL("op", slim_session_invite_start(talk->ours, name, NULL));
    NIL("session", slim_session_remove(NULL, name, 0));
    NIL("name", slim_session_remove(talk->ours, NULL, 0));
    NIL("session", slim_session_remove_start(NULL, name, &op));
    NIL("name", slim_session_remove_start(talk->ours, NULL, &op));
    NIL("op", slim_session_remove_start(talk->ours, name, NULL));
    NIL("session", slim_session_suspend(NULL, 0));
    NIL("session", slim_session_rejoin(NULL, 0));
    NIL("session", slim_session_participants(NULL, 0, &participants));
    NIL("participants", slim_session_participants(talk->ours, 0, NULL));
    NIL("session", slim_session_close(NULL, 0));
    slim_session_free(NULL);
}

static void the_rest(slim_message *said)
{
    slim_message_fields fields = SLIM_MESSAGE_FIELDS_INIT;
    slim_participants *list = NULL;
    size_t len = 4711;
    int32_t online = 4711;
    fields.source = POISON;

    CHECK(slim_message_data(NULL, &len) == NULL && len == 0);
    CHECK(slim_message_data(NULL, NULL) == NULL);
    CHECK(slim_message_data(said, NULL) != NULL);
    NIL("message", slim_message_view(NULL, &fields));
    NIL("fields", slim_message_view(said, NULL));
    CHECK(fields.source == POISON && fields.size == sizeof fields);
    slim_message_free(NULL);
    CHECK(slim_participants_count(list) == 0);
    CHECK(slim_participants_at(list, 0, &online) == NULL && online == 4711);
    slim_participants_free(NULL);
    NIL("op", slim_op_wait(NULL, 0));
    NIL("op", slim_op_notify(NULL, 1));
    slim_op_free(NULL);
}

int main(void)
{
    struct talk talk;
    slim_message *said = NULL;
    slim_op *none = NULL;

    poison();
    talk_begin(&talk, NULL);
    say(talk.ours, "x");
    OK(slim_session_receive(talk.theirs, PATIENCE, &said));
    nodes(&talk);
    apps(&talk);
    sessions(&talk, said);
    the_rest(said);
    /* No call that failed has done anything. */
    say(talk.ours, "y");
    hear(talk.theirs, "y");
    EXPECT(SLIM_ERR_TIMEOUT, slim_session_receive(talk.ours, 0, &message));
    EXPECT(SLIM_ERR_TIMEOUT, slim_app_next_done(talk.alice, &number));
    EXPECT(SLIM_ERR_TIMEOUT, slim_app_accept(talk.bob, 0, &session));
    CHECK(untouched());
    /* An empty payload may be NULL. */
    OK(slim_session_publish_start(talk.ours, NULL, NULL, 0, NULL, &none));
    OK(slim_op_wait(none, PATIENCE));
    hear(talk.theirs, "");
    slim_op_free(none);
    slim_message_free(said);
    talk_end(&talk);
    return 0;
}
