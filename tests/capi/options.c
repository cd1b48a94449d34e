/* options.c - sizes of structs, ranges of fields, metadata (spec 08 part 7, item 12; rule A8). */
#include "check.h"

/* A struct as a later release would have it: the same, and more behind it. */
struct later_session_options {
    slim_session_options known;
    uint64_t added;
};
struct later_publish_options {
    slim_publish_options known;
    uint64_t added;
};
struct later_message_fields {
    slim_message_fields known;
    uint64_t added;
};
struct later_session_fields {
    slim_session_fields known;
    uint64_t added;
};

#define SAYS_SIZE(of, number)                              \
    do {                                                   \
        char said_[64];                                    \
        snprintf(said_, sizeof said_, of " is %zu,", (size_t)(number)); \
        SAYS(said_);                                       \
    } while (0)

static slim_status open_with(struct talk *talk, const slim_session_options *options)
{
    slim_session *session = POISON, *theirs = NULL;
    slim_status st =
        slim_session_open(talk->alice, options, slim_app_name(talk->bob), PATIENCE, &session);
    if (st != SLIM_OK) {
        slim_op *op = POISON;
        CHECK(session == POISON);
        EXPECT(st, slim_session_open_start(talk->alice, options, slim_app_name(talk->bob),
                                           &session, &op));
        CHECK(session == POISON && op == POISON);
        return st;
    }
    /* With anycast the first message looks for somebody. */
    say(session, "hello");
    OK(slim_app_accept(talk->bob, PATIENCE, &theirs));
    hear(theirs, "hello");
    slim_session_free(session);
    slim_session_free(theirs);
    return st;
}

static slim_status publish_with(struct talk *talk, const slim_publish_options *options)
{
    slim_op *op = POISON;
    slim_status st = slim_session_publish(talk->ours, "x", 1, options, PATIENCE);
    EXPECT(st, slim_session_publish_start(talk->ours, NULL, "x", 1, options, &op));
    if (st != SLIM_OK) {
        CHECK(op == POISON);
        return st;
    }
    OK(slim_op_wait(op, PATIENCE));
    slim_op_free(op);
    hear(talk->theirs, "x");
    hear(talk->theirs, "x");
    return st;
}

/* Item 12: in. */
static void sizes_of_options(struct talk *talk)
{
    struct later_session_options session = {SLIM_SESSION_OPTIONS_INIT, 0};
    struct later_publish_options publish = {SLIM_PUBLISH_OPTIONS_INIT, 0};

    OK(open_with(talk, NULL));
    OK(open_with(talk, &session.known));
    session.known.size = sizeof session;
    OK(open_with(talk, &session.known));
    session.added = (uint64_t)1 << 63;
    EXPECT(SLIM_ERR_UNSUPPORTED, open_with(talk, &session.known));
    SAYS("options");
    session.known.size = sizeof session.known;
    OK(open_with(talk, &session.known));
    session.known.size = sizeof session.known - 1;
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, open_with(talk, &session.known));
    SAYS_SIZE("options.size", sizeof session.known - 1);
    session.known.size = 0;
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, open_with(talk, &session.known));
    SAYS("options.size is 0");

    OK(publish_with(talk, NULL));
    OK(publish_with(talk, &publish.known));
    publish.known.size = sizeof publish;
    OK(publish_with(talk, &publish.known));
    publish.added = 1;
    EXPECT(SLIM_ERR_UNSUPPORTED, publish_with(talk, &publish.known));
    SAYS("options");
    publish.known.size = sizeof publish.known - 1;
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, publish_with(talk, &publish.known));
    SAYS_SIZE("options.size", sizeof publish.known - 1);
    publish.known.size = 0;
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, publish_with(talk, &publish.known));
    SAYS("options.size is 0");
}

/* Item 12: out. What a later release added is left alone. */
static void sizes_of_fields(struct talk *talk)
{
    struct later_session_fields session = {SLIM_SESSION_FIELDS_INIT, 42};
    struct later_message_fields fields = {SLIM_MESSAGE_FIELDS_INIT, 42};
    slim_session_fields small = SLIM_SESSION_FIELDS_INIT;
    slim_message_fields small_message = SLIM_MESSAGE_FIELDS_INIT;
    slim_message *message = NULL;

    OK(slim_session_view(talk->ours, &session.known));
    CHECK(session.known.kind == SLIM_SESSION_POINT_TO_POINT && session.known.initiator == 1);
    CHECK(strcmp(session.known.source, slim_app_name(talk->alice)) == 0);
    CHECK(strcmp(session.known.destination, slim_app_name(talk->bob)) == 0);
    session.known.size = sizeof session;
    OK(slim_session_view(talk->theirs, &session.known));
    CHECK(session.known.initiator == 0 && session.known.size == sizeof session);
    CHECK(session.added == 42);
    small.size = sizeof small - 1;
    small.source = POISON;
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, slim_session_view(talk->ours, &small));
    SAYS_SIZE("fields->size", sizeof small - 1);
    CHECK(small.source == POISON && small.size == sizeof small - 1);

    say(talk->ours, "look");
    OK(slim_session_receive(talk->theirs, PATIENCE, &message));
    fields.known.size = sizeof fields;
    OK(slim_message_view(message, &fields.known));
    CHECK(fields.known.size == sizeof fields && fields.added == 42);
    CHECK(fields.known.kind == SLIM_MESSAGE && fields.known.data_len == 4);
    CHECK(memcmp(fields.known.data, "look", 4) == 0);
    CHECK(strcmp(fields.known.source, slim_app_name(talk->alice)) == 0);
    CHECK(strcmp(fields.known.payload_type, "msg") == 0 && fields.known.metadata_len == 0);
    small_message.size = sizeof small_message - 1;
    small_message.data = POISON;
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, slim_message_view(message, &small_message));
    SAYS_SIZE("fields->size", sizeof small_message - 1);
    small_message.size = 0;
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, slim_message_view(message, &small_message));
    SAYS("fields->size is 0");
    CHECK(small_message.data == POISON);
    slim_message_free(message);
}

/* Each field at its limits and one past them. */
static void ranges(struct talk *talk)
{
    static const slim_session_options init = SLIM_SESSION_OPTIONS_INIT;
    slim_session_options options;

#define FIELD(field, value, status, text)          \
    do {                                           \
        options = init;                            \
        options.field = (value);                   \
        EXPECT(status, open_with(talk, &options)); \
        if ((status) != SLIM_OK)                   \
            SAYS(text);                            \
    } while (0)

    FIELD(kind, -1, SLIM_ERR_INVALID_ARGUMENT, "options.kind is -1");
    FIELD(kind, 1, SLIM_OK, "");
    FIELD(kind, 3, SLIM_ERR_INVALID_ARGUMENT, "options.kind is 3");
    FIELD(kind, INT32_MAX, SLIM_ERR_INVALID_ARGUMENT, "options.kind is 2147483647");
    FIELD(delivery, -1, SLIM_ERR_INVALID_ARGUMENT, "options.delivery is -1");
    FIELD(delivery, 1, SLIM_OK, "");
    FIELD(delivery, 2, SLIM_ERR_INVALID_ARGUMENT, "options.delivery is 2");
    FIELD(addressing, -1, SLIM_ERR_INVALID_ARGUMENT, "options.addressing is -1");
    FIELD(addressing, 1, SLIM_OK, "");
    FIELD(addressing, 2, SLIM_ERR_INVALID_ARGUMENT, "options.addressing is 2");
    FIELD(direction, -1, SLIM_ERR_INVALID_ARGUMENT, "options.direction is -1");
    FIELD(direction, 1, SLIM_OK, "");
    FIELD(direction, 4, SLIM_ERR_INVALID_ARGUMENT, "options.direction is 4");
    FIELD(events, -1, SLIM_ERR_INVALID_ARGUMENT, "options.events is -1");
    FIELD(events, 1, SLIM_OK, "");
    FIELD(events, 2, SLIM_ERR_INVALID_ARGUMENT, "options.events is 2");
    FIELD(mls, -1, SLIM_ERR_INVALID_ARGUMENT, "options.mls is -1");
    FIELD(mls, 1, SLIM_OK, "");
    FIELD(mls, 2, SLIM_ERR_INVALID_ARGUMENT, "options.mls is 2");
    FIELD(max_retries, -2, SLIM_ERR_INVALID_ARGUMENT, "options.max_retries is -2");
    FIELD(max_retries, -1, SLIM_OK, "");
    FIELD(max_retries, INT32_MAX, SLIM_OK, "");
    FIELD(retry_interval_ms, 3600000, SLIM_OK, "");
    FIELD(retry_interval_ms, 3600001, SLIM_ERR_INVALID_ARGUMENT, "retry interval of 3600.001s");
    FIELD(mls_header_check, -2, SLIM_ERR_INVALID_ARGUMENT, "options.mls_header_check is -2");
    FIELD(mls_header_check, -1, SLIM_OK, "");
    FIELD(mls_header_check, 100, SLIM_OK, "");
    FIELD(mls_header_check, 101, SLIM_ERR_INVALID_ARGUMENT, "options.mls_header_check is 101");
    FIELD(metadata_len, 1, SLIM_ERR_INVALID_ARGUMENT, "metadata_len is 1");
}

/* What a session is for, and which way data goes in it. */
static void kinds(struct talk *talk)
{
    slim_session_options options = SLIM_SESSION_OPTIONS_INIT;
    slim_session_fields known = SLIM_SESSION_FIELDS_INIT;
    slim_session *session = NULL, *theirs = NULL;
    slim_op *op = NULL;

    options.kind = SLIM_SESSION_GROUP;
    OK(slim_session_open(talk->alice, &options, "org/ns/chat", PATIENCE, &session));
    OK(slim_session_view(session, &known));
    CHECK(known.kind == SLIM_SESSION_GROUP && known.initiator == 1);
    CHECK(strcmp(known.destination, "org/ns/chat") == 0);
    slim_session_free(session);
    session = POISON;
    options.addressing = 1;
    EXPECT(SLIM_ERR_INVALID_ARGUMENT,
           slim_session_open(talk->alice, &options, "org/ns/chat", PATIENCE, &session));
    SAYS("org/ns/chat is a group");
    CHECK(session == POISON);

    options.kind = SLIM_SESSION_POINT_TO_POINT;
    options.addressing = 0;
    for (options.direction = 2; options.direction <= 3; options.direction++) {
        session = theirs = NULL;
        open_between(talk->alice, talk->bob, &options, &session, &theirs);
        OK(slim_session_publish_start(session, NULL, "x", 1, NULL, &op));
        EXPECT(SLIM_ERR_NOT_ALLOWED, slim_op_wait(op, PATIENCE));
        SAYS("only receives");
        slim_op_free(op);
        say(session, "x");
        EXPECT(SLIM_ERR_NOT_ALLOWED, slim_session_flush(session, PATIENCE));
        say(theirs, "hello");
        if (options.direction == 2)
            hear(session, "hello");
        slim_session_free(session);
        slim_session_free(theirs);
    }
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, slim_app_set_direction(talk->bob, 4));
    SAYS("direction is 4");
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, slim_app_set_direction(talk->bob, -1));
}

static void metadata(struct talk *talk)
{
    slim_pair pairs[2] = {{"topic", "weather"}, {"a", ""}};
    slim_session_options options = SLIM_SESSION_OPTIONS_INIT;
    slim_publish_options publish = SLIM_PUBLISH_OPTIONS_INIT;
    slim_session_fields known = SLIM_SESSION_FIELDS_INIT;
    slim_message_fields fields = SLIM_MESSAGE_FIELDS_INIT;
    slim_session *ours = NULL, *theirs = NULL;
    slim_message *message = NULL;
    static char big[64 * 1024 + 2];

    options.metadata = publish.metadata = pairs;
    options.metadata_len = publish.metadata_len = 2;
    publish.payload_type = "text/plain";
    open_between(talk->alice, talk->bob, &options, &ours, &theirs);
    OK(slim_session_publish(ours, NULL, 0, &publish, PATIENCE));
    /* Rule A4: all is copied. */
    pairs[0].value = "changed";
    OK(slim_session_view(theirs, &known));
    CHECK(known.metadata_len == 2);
    CHECK(strcmp(known.metadata[0].key, "a") == 0 && strcmp(known.metadata[0].value, "") == 0);
    CHECK(strcmp(known.metadata[1].value, "weather") == 0);
    OK(slim_session_receive(theirs, PATIENCE, &message));
    OK(slim_message_view(message, &fields));
    CHECK(fields.data == NULL && fields.data_len == 0);
    CHECK(strcmp(fields.payload_type, "text/plain") == 0 && fields.metadata_len == 2);
    CHECK(strcmp(fields.metadata[1].key, "topic") == 0);
    CHECK(strcmp(fields.metadata[1].value, "weather") == 0);
    slim_message_free(message);
    slim_session_free(ours);
    slim_session_free(theirs);

    pairs[1].key = "topic";
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, publish_with(talk, &publish));
    SAYS("\"topic\" is there twice");
    pairs[1].key = NULL;
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, publish_with(talk, &publish));
    SAYS("a metadata key is NULL");
    pairs[1] = (slim_pair){"k", NULL};
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, publish_with(talk, &publish));
    SAYS("a metadata value is NULL");
    pairs[1] = (slim_pair){"k", "\xc3("};
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, publish_with(talk, &publish));
    SAYS("not UTF-8");
    pairs[1] = (slim_pair){"PUBLISH_TO", "x"};
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, publish_with(talk, &publish));
    SAYS("\"PUBLISH_TO\" is reserved");
    memset(big, 'x', 64 * 1024);
    pairs[1] = (slim_pair){"k", big};
    OK(publish_with(talk, &publish));
    big[64 * 1024] = 'x';
    EXPECT(SLIM_ERR_TOO_LARGE, publish_with(talk, &publish));
    SAYS("65537 bytes");
    publish.metadata_len = 0;
    publish.payload_type = big;
    EXPECT(SLIM_ERR_TOO_LARGE, publish_with(talk, &publish));
    SAYS("65537 bytes");
    publish.payload_type = "\xff";
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, publish_with(talk, &publish));
    SAYS("options.payload_type");
}

/* Encrypted sessions: who takes part knows it, and who the sender is. */
static void mls(struct talk *talk)
{
    static const struct {
        int32_t given, known;
    } percents[] = {{0, 100}, {-1, -1}, {40, 40}};
    slim_session_options options = SLIM_SESSION_OPTIONS_INIT;
    slim_session *ours = NULL, *theirs = NULL;
    slim_message *message = NULL;

    for (size_t i = 0; i < sizeof percents / sizeof *percents; i++) {
        slim_session_fields known = SLIM_SESSION_FIELDS_INIT;
        slim_message_fields fields = SLIM_MESSAGE_FIELDS_INIT;
        options.mls = 1;
        options.mls_header_check = percents[i].given;
        open_between(talk->alice, talk->bob, &options, &ours, &theirs);
        OK(slim_session_view(ours, &known));
        CHECK(known.mls == 1 && known.mls_header_check == percents[i].known);
        OK(slim_session_view(theirs, &known));
        CHECK(known.mls == 1 && known.mls_header_check == percents[i].known);
        say(ours, "secret");
        OK(slim_session_receive(theirs, PATIENCE, &message));
        OK(slim_message_view(message, &fields));
        CHECK(fields.data_len == 6 && memcmp(fields.data, "secret", 6) == 0);
        CHECK(strncmp(fields.identity, "org/ns/alice_", 13) == 0);
        slim_message_free(message);
        say(theirs, "answer");
        hear(ours, "answer");
        slim_session_free(ours);
        slim_session_free(theirs);
        message = NULL;
        ours = theirs = NULL;
    }
    open_between(talk->alice, talk->bob, NULL, &ours, &theirs);
    {
        slim_session_fields known = SLIM_SESSION_FIELDS_INIT;
        slim_message_fields fields = SLIM_MESSAGE_FIELDS_INIT;
        OK(slim_session_view(theirs, &known));
        CHECK(known.mls == 0 && known.mls_header_check == 0);
        say(ours, "open");
        OK(slim_session_receive(theirs, PATIENCE, &message));
        OK(slim_message_view(message, &fields));
        CHECK(strcmp(fields.identity, "") == 0);
    }
    slim_message_free(message);
    slim_session_free(ours);
    slim_session_free(theirs);
}

int main(void)
{
    struct talk talk;
    talk_begin(&talk, NULL);
    sizes_of_options(&talk);
    sizes_of_fields(&talk);
    ranges(&talk);
    kinds(&talk);
    metadata(&talk);
    mls(&talk);
    talk_end(&talk);
    return 0;
}
