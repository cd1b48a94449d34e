/* group.c - a moderator and its members, each on a node of its own, around one that forwards: who
 * comes, who goes, who is away, and what is heard of it. */
#include "check.h"

#define GROUP "org/ns/chat"

struct member {
    slim_node *node;
    slim_app *app;
    slim_session *session;
};

static char endpoint[64];
static slim_node *hub;
static struct member moderator, ann, bob, carol;

static void begin(struct member *member, const char *name)
{
    memset(member, 0, sizeof *member);
    member->app = peer(name, endpoint, &member->node);
}

static void end(struct member *member)
{
    slim_session_free(member->session);
    slim_app_free(member->app);
    slim_node_free(member->node);
}

/* A group with nobody in it. */
static void open_group(uint32_t interval_ms)
{
    slim_session_options options = SLIM_SESSION_OPTIONS_INIT;
    options.kind = SLIM_SESSION_GROUP;
    options.events = 1;
    options.retry_interval_ms = interval_ms;
    options.max_retries = 2;
    OK(slim_session_open(moderator.app, &options, GROUP, PATIENCE, &moderator.session));
}

/* Who was invited takes part. */
static void enter(struct member *member)
{
    slim_session_fields known = SLIM_SESSION_FIELDS_INIT;
    slim_session_free(member->session);
    member->session = NULL;
    OK(slim_app_accept(member->app, PATIENCE, &member->session));
    OK(slim_session_set_events(member->session, 1));
    OK(slim_session_view(member->session, &known));
    CHECK(known.kind == SLIM_SESSION_GROUP && known.initiator == 0);
    CHECK(strcmp(known.destination, GROUP) == 0);
    CHECK(strcmp(known.source, slim_app_name(member->app)) == 0);
}

static const char *name(const struct member *member)
{
    return slim_app_name(member->app);
}

static void expect_event(struct member *member, int32_t kind, const struct member *of)
{
    slim_message_free(event(member->session, kind, name(of)));
}

/* The session is over, and this is why. */
static void expect_end(struct member *member, const char *why)
{
    slim_message *message = event(member->session, SLIM_EVENT_SESSION_CLOSED, ""), *none = POISON;
    size_t len = 0;
    const char *text = slim_message_data(message, &len);
    CHECK(len == strlen(why) && memcmp(text, why, len) == 0);
    slim_message_free(message);
    EXPECT(SLIM_ERR_CLOSED, slim_session_receive(member->session, PATIENCE, &none));
    CHECK(none == POISON);
}

/* 1: a member that can be reached, 0: one that is away, -1: nobody. */
static int state_of(const struct member *member, const struct member *of)
{
    slim_participants *list = NULL;
    int32_t online = -1;
    size_t found = 0;
    OK(slim_session_participants(member->session, PATIENCE, &list));
    /* This side comes first, and is there. */
    CHECK(strcmp(slim_participants_at(list, 0, &online), name(member)) == 0 && online == 1);
    online = -1;
    for (size_t i = 0; i < slim_participants_count(list); i++) {
        if (strcmp(slim_participants_at(list, i, NULL), name(of)) == 0) {
            slim_participants_at(list, i, &online);
            found++;
        }
    }
    CHECK(found <= 1 && slim_participants_at(list, slim_participants_count(list), NULL) == NULL);
    slim_participants_free(list);
    return online;
}

static size_t count(const struct member *member)
{
    slim_participants *list = NULL;
    size_t count;
    OK(slim_session_participants(member->session, PATIENCE, &list));
    count = slim_participants_count(list);
    slim_participants_free(list);
    return count;
}

/* Publishes, and every receiver has it when this returns. */
static void tell(struct member *member, const char *text)
{
    slim_op *op = NULL;
    OK(slim_session_publish_start(member->session, NULL, text, strlen(text), NULL, &op));
    OK(slim_op_wait(op, PATIENCE));
    slim_op_free(op);
}

/* Its publish is refused. */
static void cannot_tell(struct member *member, const char *why)
{
    slim_op *op = NULL;
    OK(slim_session_publish_start(member->session, NULL, "x", 1, NULL, &op));
    EXPECT(SLIM_ERR_NOT_ALLOWED, slim_op_wait(op, PATIENCE));
    SAYS(why);
    slim_op_free(op);
    say(member->session, "x");
    EXPECT(SLIM_ERR_NOT_ALLOWED, slim_session_flush(member->session, PATIENCE));
    OK(slim_session_flush(member->session, PATIENCE));
}

static void hears_nothing(struct member *member)
{
    slim_message *none = POISON;
    EXPECT(SLIM_ERR_TIMEOUT, slim_session_receive(member->session, 0, &none));
    CHECK(none == POISON);
}

static void invitations(void)
{
    slim_session_fields known = SLIM_SESSION_FIELDS_INIT;
    slim_session *none = POISON;
    slim_op *op = NULL, *second = NULL;
    uint64_t tag = 0;

    OK(slim_session_view(moderator.session, &known));
    CHECK(known.kind == SLIM_SESSION_GROUP && known.initiator == 1);
    CHECK(strcmp(known.destination, GROUP) == 0 && count(&moderator) == 1);

    /* Blocking. */
    OK(slim_session_invite(moderator.session, "org/ns/ann", PATIENCE));
    enter(&ann);

    /* Behind one that takes its time, and not waited for. It is taken back, and may be repeated. */
    OK(slim_session_invite_start(moderator.session, "org/ns/nobody", &op));
    EXPECT(SLIM_ERR_TIMEOUT, slim_session_invite(moderator.session, "org/ns/carol", 0));
    SAYS("org/ns/carol");
    EXPECT(SLIM_ERR_NO_ROUTE, slim_op_wait(op, PATIENCE));
    slim_op_free(op);
    op = NULL;
    CHECK(count(&moderator) == 2);

    /* Started; the app's list says when it is done. They are carried out in their order. */
    EXPECT(SLIM_ERR_TIMEOUT, slim_app_next_done(moderator.app, &tag));
    OK(slim_session_invite_start(moderator.session, "org/ns/bob", &op));
    OK(slim_session_invite_start(moderator.session, name(&carol), &second));
    OK(slim_op_notify(op, 7));
    OK(slim_op_notify(second, 8));
    for (uint64_t wanted = 7; wanted <= 8; wanted++) {
        CHECK(gets_readable(slim_app_fd(moderator.app)));
        OK(slim_app_next_done(moderator.app, &tag));
        CHECK(tag == wanted);
    }
    OK(slim_op_wait(op, 0));
    OK(slim_op_wait(second, 0));
    slim_op_free(op);
    slim_op_free(second);
    enter(&bob);
    enter(&carol);
    /* The one that was taken back has left nothing. */
    EXPECT(SLIM_ERR_TIMEOUT, slim_app_accept(carol.app, 0, &none));
    CHECK(none == POISON && count(&moderator) == 4);

    EXPECT(SLIM_ERR_EXISTS, slim_session_invite(moderator.session, name(&bob), PATIENCE));
    EXPECT(SLIM_ERR_NOT_ALLOWED, slim_session_invite(bob.session, "org/ns/dan", PATIENCE));
}

static void messages(void)
{
    slim_message_fields fields = SLIM_MESSAGE_FIELDS_INIT;
    slim_message *message = NULL;
    slim_op *op = NULL;

    CHECK(state_of(&ann, &moderator) == 1 && state_of(&ann, &bob) == 1);
    CHECK(count(&ann) == 4 && count(&bob) == 4 && count(&carol) == 4);
    tell(&moderator, "welcome");
    hear(ann.session, "welcome");
    hear(bob.session, "welcome");
    hear(carol.session, "welcome");
    tell(&ann, "thanks");
    hear(moderator.session, "thanks");
    hear(carol.session, "thanks");
    OK(slim_session_receive(bob.session, PATIENCE, &message));
    OK(slim_message_view(message, &fields));
    CHECK(strcmp(fields.source, name(&ann)) == 0 && fields.is_reply == 0);
    CHECK(strncmp(fields.destination, GROUP "/", strlen(GROUP "/")) == 0);

    /* A reply goes to one alone, whichever way it is published. */
    OK(slim_session_publish_to(bob.session, message, "to you", 6, NULL, PATIENCE));
    OK(slim_session_flush(bob.session, PATIENCE));
    OK(slim_session_publish_start(bob.session, message, "only", 4, NULL, &op));
    OK(slim_op_wait(op, PATIENCE));
    slim_op_free(op);
    slim_message_free(message);
    tell(&bob, "to all");
    OK(slim_session_receive(ann.session, PATIENCE, &message));
    OK(slim_message_view(message, &fields));
    CHECK(fields.is_reply == 1 && fields.data_len == 6 && memcmp(fields.data, "to you", 6) == 0);
    CHECK(strcmp(fields.source, name(&bob)) == 0);
    slim_message_free(message);
    hear(ann.session, "only");
    hear(ann.session, "to all");
    hear(moderator.session, "to all");
    hear(carol.session, "to all");
}

/* The next message is this one, perhaps behind another. */
static void hear_after(slim_session *session, const char *perhaps, const char *text)
{
    slim_message *message = NULL;
    size_t len;
    const char *data;

    OK(slim_session_receive(session, PATIENCE, &message));
    data = slim_message_data(message, &len);
    if (len == strlen(perhaps) && memcmp(data, perhaps, len) == 0)
        hear(session, text);
    else
        CHECK(len == strlen(text) && memcmp(data, text, len) == 0);
    slim_message_free(message);
}

static void absence(void)
{
    struct member *others[] = {&moderator, &bob, &carol};

    OK(slim_session_suspend(ann.session, PATIENCE));
    for (int i = 0; i < 3; i++) {
        expect_event(others[i], SLIM_EVENT_PEER_OFFLINE, &ann);
        CHECK(state_of(others[i], &ann) == 0);
    }
    cannot_tell(&ann, "suspended");
    EXPECT(SLIM_ERR_NOT_ALLOWED, slim_session_suspend(ann.session, PATIENCE));
    /* She is not waited for, and misses this, unless it is on its way until she is back. */
    tell(&moderator, "where is Ann?");
    hear(bob.session, "where is Ann?");
    hear(carol.session, "where is Ann?");
    OK(slim_session_rejoin(ann.session, PATIENCE));
    EXPECT(SLIM_ERR_NOT_ALLOWED, slim_session_rejoin(ann.session, PATIENCE));
    for (int i = 0; i < 3; i++) {
        expect_event(others[i], SLIM_EVENT_PEER_ONLINE, &ann);
        CHECK(state_of(others[i], &ann) == 1);
    }
    tell(&moderator, "there you are");
    hear_after(ann.session, "where is Ann?", "there you are");
    hear(bob.session, "there you are");
    hear(carol.session, "there you are");
    tell(&ann, "here I am");
    for (int i = 0; i < 3; i++)
        hear(others[i]->session, "here I am");
}

/* Carol goes, comes again and only receives, goes, and comes again to publish only. */
static void removal_and_direction(void)
{
    slim_op *op = NULL;

    OK(slim_session_remove(moderator.session, "org/ns/carol", PATIENCE));
    expect_end(&carol, "removed by the moderator");
    expect_event(&ann, SLIM_EVENT_PEER_LEFT, &carol);
    expect_event(&bob, SLIM_EVENT_PEER_LEFT, &carol);
    CHECK(state_of(&moderator, &carol) == -1 && state_of(&ann, &carol) == -1);
    EXPECT(SLIM_ERR_NOT_FOUND, slim_session_remove(moderator.session, name(&carol), PATIENCE));

    OK(slim_app_set_direction(carol.app, 2));
    OK(slim_session_invite(moderator.session, "org/ns/carol", PATIENCE));
    enter(&carol);
    cannot_tell(&carol, "only receives");
    tell(&moderator, "listen");
    hear(ann.session, "listen");
    hear(bob.session, "listen");
    hear(carol.session, "listen");
    OK(slim_session_remove_start(moderator.session, name(&carol), &op));
    OK(slim_op_wait(op, PATIENCE));
    slim_op_free(op);
    expect_end(&carol, "removed by the moderator");
    expect_event(&ann, SLIM_EVENT_PEER_LEFT, &carol);
    expect_event(&bob, SLIM_EVENT_PEER_LEFT, &carol);

    OK(slim_app_set_direction(carol.app, 1));
    OK(slim_session_invite(moderator.session, "org/ns/carol", PATIENCE));
    enter(&carol);
    tell(&carol, "news");
    hear(moderator.session, "news");
    hear(ann.session, "news");
    hear(bob.session, "news");
    tell(&moderator, "nice");
    hear(ann.session, "nice");
    hear(bob.session, "nice");
    hears_nothing(&carol);
}

static void the_end(void)
{
    /* A member leaves. */
    OK(slim_session_close(ann.session, PATIENCE));
    expect_end(&ann, "closed by this side");
    expect_event(&moderator, SLIM_EVENT_PEER_LEFT, &ann);
    expect_event(&bob, SLIM_EVENT_PEER_LEFT, &ann);
    expect_event(&carol, SLIM_EVENT_PEER_LEFT, &ann);
    CHECK(state_of(&moderator, &ann) == -1);
    /* With the moderator the group ends. */
    say(moderator.session, "good night");
    OK(slim_session_close(moderator.session, PATIENCE));
    hear(bob.session, "good night");
    expect_end(&bob, "closed by the moderator");
    expect_end(&carol, "closed by the moderator");
    expect_end(&moderator, "closed by this side");
    EXPECT(SLIM_ERR_CLOSED, slim_session_close(moderator.session, PATIENCE));
    EXPECT(SLIM_ERR_CLOSED, slim_session_invite(moderator.session, "org/ns/ann", PATIENCE));
    slim_session_free(moderator.session);
    moderator.session = NULL;
}

/* A member dies without a word. */
static void a_death(void)
{
    int ready[2];
    char letter;
    slim_op *op = NULL;
    slim_message *message = NULL;
    slim_message_fields fields = SLIM_MESSAGE_FIELDS_INIT;
    pid_t child;

    CHECK(pipe(ready) == 0);
    child = fork_child();
    if (child == 0) {
        slim_node *node = NULL;
        peer("org/ns/mortal", endpoint, &node);
        CHECK(write(ready[1], "r", 1) == 1);
        for (;;)
            pause();
    }
    CHECK(read(ready[0], &letter, 1) == 1);
    /* Long enough to be answered, short enough to be waited for several times. */
    open_group(slowness() > 10 ? 2000 : 150 * (uint32_t)slowness());
    OK(slim_session_invite(moderator.session, "org/ns/ann", PATIENCE));
    enter(&ann);
    OK(slim_session_invite(moderator.session, "org/ns/mortal", PATIENCE));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    OK(slim_session_publish_start(moderator.session, NULL, "to both", 7, NULL, &op));
    EXPECT(SLIM_ERR_UNDELIVERED, slim_op_wait(op, PATIENCE));
    SAYS("org/ns/mortal/");
    slim_op_free(op);
    hear(ann.session, "to both");
    CHECK(gets_readable(slim_session_fd(moderator.session)));
    OK(slim_session_receive(moderator.session, 0, &message));
    OK(slim_message_view(message, &fields));
    CHECK(fields.kind == SLIM_EVENT_PEER_OFFLINE);
    CHECK(strncmp(fields.source, "org/ns/mortal/", 14) == 0);
    slim_message_free(message);
    /* It is not waited for any more, and it can be removed. */
    tell(&moderator, "to Ann");
    hear(ann.session, "to Ann");
    EXPECT(SLIM_ERR_UNDELIVERED,
           slim_session_remove(moderator.session, "org/ns/mortal", PATIENCE));
    SAYS("did not confirm it");
    CHECK(count(&moderator) == 2);
    OK(slim_session_close(moderator.session, PATIENCE));
    close(ready[0]);
    close(ready[1]);
}

int main(void)
{
    struct member *all[] = {&moderator, &ann, &bob, &carol};

    hub = server(endpoint);
    begin(&moderator, "org/ns/mod");
    begin(&ann, "org/ns/ann");
    begin(&bob, "org/ns/bob");
    begin(&carol, "org/ns/carol");
    open_group(0);
    invitations();
    messages();
    absence();
    removal_and_direction();
    the_end();
    a_death();
    for (int i = 0; i < 4; i++)
        end(all[i]);
    slim_node_free(hub);
    return 0;
}
