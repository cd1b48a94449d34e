/* macros.c - every public macro evaluated (spec 08 part 7, item 4). Prints the version in all its
 * forms, for who compares it with the package's. */
#include "check.h"

/* A constant expression, also for the preprocessor. */
#if !SLIM_VERSION_AT_LEAST(SLIM_VERSION_MAJOR, SLIM_VERSION_MINOR, SLIM_VERSION_PATCH)
#error "the version is not at least itself"
#endif
#if SLIM_VERSION_AT_LEAST(SLIM_VERSION_MAJOR + 1, 0, 0) || \
    SLIM_VERSION_AT_LEAST(SLIM_VERSION_MAJOR, SLIM_VERSION_MINOR + 1, 0) || \
    SLIM_VERSION_AT_LEAST(SLIM_VERSION_MAJOR, SLIM_VERSION_MINOR, SLIM_VERSION_PATCH + 1)
#error "the version is at least a later one"
#endif
#if !SLIM_VERSION_AT_LEAST(0, 0, 0) || !SLIM_VERSION_AT_LEAST(0, 0, 255)
#error "the version is not at least an earlier one"
#endif

SLIM_API SLIM_CHECKED int exported(void);

int exported(void)
{
    return SLIM_VERSION_BITS(1 + 0, 2 | 0, 3 ^ 0);
}

int main(void)
{
    slim_session_options session_options = SLIM_SESSION_OPTIONS_INIT;
    slim_publish_options publish_options = SLIM_PUBLISH_OPTIONS_INIT;
    slim_session_fields session_fields = SLIM_SESSION_FIELDS_INIT;
    slim_message_fields message_fields = SLIM_MESSAGE_FIELDS_INIT;
    char text[32];

    CHECK(session_options.size == sizeof session_options && !session_options.kind);
    CHECK(session_options.mls_header_check == 0 && !session_options.metadata);
    CHECK(session_options.metadata_len == 0);
    CHECK(publish_options.size == sizeof publish_options && !publish_options.payload_type);
    CHECK(!publish_options.metadata && publish_options.metadata_len == 0);
    CHECK(session_fields.size == sizeof session_fields && session_fields.id == 0);
    CHECK(!session_fields.metadata && session_fields.metadata_len == 0);
    CHECK(message_fields.size == sizeof message_fields && !message_fields.data);
    CHECK(!message_fields.metadata && message_fields.metadata_len == 0);
    CHECK(SLIM_WAIT_FOREVER == -1);

    CHECK(exported() == 0x010203);
    CHECK(SLIM_VERSION_BITS(0, 0, 255) < SLIM_VERSION_BITS(0, 1, 0));
    CHECK(SLIM_VERSION_BITS(0, 255, 255) < SLIM_VERSION_BITS(1, 0, 0));
    snprintf(text, sizeof text, "%d.%d.%d", SLIM_VERSION_MAJOR, SLIM_VERSION_MINOR,
             SLIM_VERSION_PATCH);
    CHECK(strcmp(text, SLIM_VERSION) == 0);
    CHECK(strcmp(slim_version(), SLIM_VERSION) == 0);
    CHECK(slim_version_number() == SLIM_VERSION_NUMBER);
    snprintf(text, sizeof text, "libslim/%s ", SLIM_VERSION);
    CHECK(strncmp(slim_build_info(), text, strlen(text)) == 0);
    puts(SLIM_VERSION);
    return 0;
}
