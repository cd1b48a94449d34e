/* events.c - what else happens to a session comes out of it, if that was asked for. */
#include "check.h"

static slim_session_options with_events(void)
{
    slim_session_options options = SLIM_SESSION_OPTIONS_INIT;
    options.events = 1;
    return options;
}

static void the_end(void)
{
    slim_session_options options = with_events();
    slim_session *other = NULL, *others = NULL;
    slim_message *message = NULL, *none = POISON;
    struct talk talk;
    slim_op *op = POISON;
    size_t len = 0;
    const char *reason;

    talk_begin(&talk, &options);
    open_between(talk.alice, talk.bob, NULL, &other, &others);
    say(talk.ours, "before");
    OK(slim_session_close(talk.ours, PATIENCE));
    OK(slim_session_close(other, PATIENCE));
    message = event(talk.ours, SLIM_EVENT_SESSION_CLOSED, "");
    reason = slim_message_data(message, &len);
    CHECK(reason && len > 0);
    /* There is nobody to answer. */
    EXPECT(SLIM_ERR_INVALID_ARGUMENT,
           slim_session_publish_to(others, message, "x", 1, NULL, PATIENCE));
    SAYS("message is an event");
    EXPECT(SLIM_ERR_INVALID_ARGUMENT,
           slim_session_publish_start(others, message, "x", 1, NULL, &op));
    SAYS("message is an event");
    CHECK(op == POISON);
    EXPECT(SLIM_ERR_CLOSED, slim_session_receive(talk.ours, PATIENCE, &none));
    slim_message_free(message);
    /* These did not ask. */
    hear(talk.theirs, "before");
    EXPECT(SLIM_ERR_CLOSED, slim_session_receive(talk.theirs, PATIENCE, &none));
    EXPECT(SLIM_ERR_CLOSED, slim_session_receive(other, PATIENCE, &none));
    EXPECT(SLIM_ERR_CLOSED, slim_session_receive(others, PATIENCE, &none));
    CHECK(none == POISON);
    slim_session_free(other);
    slim_session_free(others);
    talk_end(&talk);
}

/* The node goes away and comes back under the same address. */
static void the_link(void)
{
    slim_session_options options = with_events();
    slim_session *ours = NULL, *theirs = NULL;
    slim_node *hub, *a = NULL, *b = NULL;
    slim_app *alice, *bob;
    char endpoint[64];

    hub = server(endpoint);
    alice = peer("org/ns/alice", endpoint, &a);
    bob = peer("org/ns/bob", endpoint, &b);
    open_between(alice, bob, &options, &ours, &theirs);
    /* Who accepted asks for them afterwards. */
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, slim_session_set_events(theirs, 2));
    SAYS("events is 2");
    OK(slim_session_set_events(theirs, 1));
    slim_node_free(hub);
    slim_message_free(event(ours, SLIM_EVENT_CONNECTION_LOST, ""));
    slim_message_free(event(theirs, SLIM_EVENT_CONNECTION_LOST, ""));
    OK(slim_session_set_events(theirs, 0));
    hub = NULL;
    OK(slim_node_new(NULL, &hub));
    OK(slim_node_listen(hub, endpoint + strlen("http://"), NULL));
    slim_message_free(event(ours, SLIM_EVENT_CONNECTION_BACK, ""));
    say(ours, "again");
    hear(theirs, "again");
    slim_session_free(ours);
    slim_session_free(theirs);
    slim_app_free(alice);
    slim_app_free(bob);
    slim_node_free(a);
    slim_node_free(b);
    slim_node_free(hub);
}

int main(void)
{
    the_end();
    the_link();
    return 0;
}
