/* layout.c - prints where the fields of the public structs are, and the numbers of the enums: what
 * compiled programs rely on. */
#include "check.h"

#define STRUCT(type) printf(#type " %zu\n", sizeof(type))
#define FIELD(type, field) \
    printf("    " #field " %zu %zu\n", offsetof(type, field), sizeof(((type *)0)->field))
#define NUMBER(constant) printf(#constant " %d\n", (int)(constant))

int main(void)
{
    STRUCT(slim_pair);
    FIELD(slim_pair, key);
    FIELD(slim_pair, value);
    STRUCT(slim_session_options);
    FIELD(slim_session_options, size);
    FIELD(slim_session_options, kind);
    FIELD(slim_session_options, delivery);
    FIELD(slim_session_options, addressing);
    FIELD(slim_session_options, direction);
    FIELD(slim_session_options, events);
    FIELD(slim_session_options, mls);
    FIELD(slim_session_options, max_retries);
    FIELD(slim_session_options, retry_interval_ms);
    FIELD(slim_session_options, mls_header_check);
    FIELD(slim_session_options, metadata);
    FIELD(slim_session_options, metadata_len);
    STRUCT(slim_session_fields);
    FIELD(slim_session_fields, size);
    FIELD(slim_session_fields, id);
    FIELD(slim_session_fields, kind);
    FIELD(slim_session_fields, initiator);
    FIELD(slim_session_fields, source);
    FIELD(slim_session_fields, destination);
    FIELD(slim_session_fields, metadata);
    FIELD(slim_session_fields, metadata_len);
    FIELD(slim_session_fields, mls);
    FIELD(slim_session_fields, mls_header_check);
    FIELD(slim_session_fields, epoch);
    STRUCT(slim_publish_options);
    FIELD(slim_publish_options, size);
    FIELD(slim_publish_options, payload_type);
    FIELD(slim_publish_options, metadata);
    FIELD(slim_publish_options, metadata_len);
    STRUCT(slim_message_fields);
    FIELD(slim_message_fields, size);
    FIELD(slim_message_fields, kind);
    FIELD(slim_message_fields, is_reply);
    FIELD(slim_message_fields, data);
    FIELD(slim_message_fields, data_len);
    FIELD(slim_message_fields, source);
    FIELD(slim_message_fields, destination);
    FIELD(slim_message_fields, payload_type);
    FIELD(slim_message_fields, identity);
    FIELD(slim_message_fields, connection);
    FIELD(slim_message_fields, metadata);
    FIELD(slim_message_fields, metadata_len);
    STRUCT(slim_status);
    NUMBER(SLIM_OK);
    NUMBER(SLIM_ERR_INVALID_ARGUMENT);
    NUMBER(SLIM_ERR_INVALID_NAME);
    NUMBER(SLIM_ERR_INVALID_CONFIG);
    NUMBER(SLIM_ERR_TIMEOUT);
    NUMBER(SLIM_ERR_CLOSED);
    NUMBER(SLIM_ERR_NOT_FOUND);
    NUMBER(SLIM_ERR_EXISTS);
    NUMBER(SLIM_ERR_NOT_ALLOWED);
    NUMBER(SLIM_ERR_TOO_LARGE);
    NUMBER(SLIM_ERR_LIMIT);
    NUMBER(SLIM_ERR_CONNECT);
    NUMBER(SLIM_ERR_TLS);
    NUMBER(SLIM_ERR_AUTH);
    NUMBER(SLIM_ERR_PROTOCOL);
    NUMBER(SLIM_ERR_MLS);
    NUMBER(SLIM_ERR_NO_ROUTE);
    NUMBER(SLIM_ERR_UNDELIVERED);
    NUMBER(SLIM_ERR_IO);
    NUMBER(SLIM_ERR_UNSUPPORTED);
    NUMBER(SLIM_ERR_FORKED);
    NUMBER(SLIM_ERR_INTERNAL);
    NUMBER(SLIM_LOG_OFF);
    NUMBER(SLIM_LOG_ERROR);
    NUMBER(SLIM_LOG_WARN);
    NUMBER(SLIM_LOG_INFO);
    NUMBER(SLIM_LOG_DEBUG);
    NUMBER(SLIM_LOG_TRACE);
    NUMBER(SLIM_SESSION_POINT_TO_POINT);
    NUMBER(SLIM_SESSION_GROUP);
    NUMBER(SLIM_MESSAGE);
    NUMBER(SLIM_EVENT_PEER_OFFLINE);
    NUMBER(SLIM_EVENT_PEER_ONLINE);
    NUMBER(SLIM_EVENT_PEER_LEFT);
    NUMBER(SLIM_EVENT_CONNECTION_LOST);
    NUMBER(SLIM_EVENT_CONNECTION_BACK);
    NUMBER(SLIM_EVENT_MESSAGE_LOST);
    NUMBER(SLIM_EVENT_SESSION_CLOSED);
    NUMBER(SLIM_EVENT_ENCRYPTION_LOST);
    return 0;
}
