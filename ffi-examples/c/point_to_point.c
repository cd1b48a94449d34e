/* point_to_point.c - sends a message some times and prints the replies, or receives and replies.
 *
 *   point_to_point --local org/ns/alice --shared-secret S                        receives
 *   point_to_point --local org/ns/bob --remote org/ns/alice --message "hello" \
 *                  --iterations 3 --sticky --shared-secret S                     sends
 *
 * --slim names the node (a URL or JSON); every option can be an environment variable, too.
 */
#define _POSIX_C_SOURCE 200809L
#include "common.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* With --sticky, or encrypted, one instance gets every message, with five more tries, every five
 * seconds. Else each message goes to any instance, once. A reply may take as long as all tries. */
#define RETRIES 5
#define RETRY_MS 5000
#define REPLY_MS ((RETRIES + 1) * RETRY_MS)

static const char *local;
static const char *id;

/* Sessions that are being served, each by a thread. */
static int serving = 0;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void now_serving(int change)
{
    pthread_mutex_lock(&mutex);
    serving += change;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
}

/* What was received: the message's fields, or an end of the program if it was not for us. */
static slim_message_fields checked(const slim_message *message)
{
    slim_message_fields fields = SLIM_MESSAGE_FIELDS_INIT;
    if (slim_message_view(message, &fields) == SLIM_OK &&
        !same_without_id(fields.destination, local)) {
        printf("received message with wrong name, exit. local %s, dst %s\n", local,
               fields.destination);
        exit(1);
    }
    return fields;
}

static uint32_t session_id(const slim_session *session)
{
    slim_session_fields fields = SLIM_SESSION_FIELDS_INIT;
    slim_status st = slim_session_view(session, &fields);
    return st == SLIM_OK ? fields.id : 0;
}

/* Replies to everything that comes in one session. */
static void *serve(void *argument)
{
    slim_session *session = argument;
    slim_message *message = NULL;
    uint32_t number = session_id(session);

    while (slim_session_receive(session, SLIM_WAIT_FOREVER, &message) == SLIM_OK) {
        slim_message_fields got = checked(message);
        int len = (int)got.data_len;
        const char *text = len ? got.data : "";
        size_t size = got.data_len + strlen(" from ") + strlen(id) + 1;
        char *reply = malloc(size);

        if (!reply)
            abort();
        say(id, "received (from session %u): %.*s", number, len, text);
        snprintf(reply, size, "%.*s from %s", len, text, id);
        slim_status st =
            slim_session_publish_to(session, message, reply, strlen(reply), NULL, REPLY_MS);
        if (st == SLIM_OK)
            say(id, "replies: %s", reply);
        else
            failed("reply", st);
        free(reply);
        slim_message_free(message);
    }
    slim_session_free(session);
    now_serving(-1);
    return NULL;
}

static int receive(slim_app *app)
{
    for (;;) {
        slim_session *session = NULL;
        slim_status st;
        pthread_t thread;
        char label[128];

        say(id, "waiting for new session to be established");
        if ((st = slim_app_accept(app, SLIM_WAIT_FOREVER, &session)))
            return interrupted ? 0 : failed("accept", st);
        snprintf(label, sizeof label, "%s received a new session:", id);
        say(label, "%u", session_id(session));
        now_serving(1);
        if (pthread_create(&thread, NULL, serve, session) == 0) {
            pthread_detach(thread);
        } else {
            slim_session_free(session);
            now_serving(-1);
        }
    }
}

/* One message and its reply. */
static slim_status ask(slim_session *session, const options *o, long i)
{
    slim_message *message = NULL;
    slim_status st =
        slim_session_publish(session, o->message, strlen(o->message), NULL, REPLY_MS);
    if (st)
        return st;
    say(id, "Sent message %s - %ld/%ld:", o->message, i + 1, o->iterations);
    /* Whether it arrived, where one instance gets all; else whether it is on its way. */
    if ((st = slim_session_flush(session, REPLY_MS + RETRY_MS)) ||
        (st = slim_session_receive(session, REPLY_MS, &message)))
        return st;
    slim_message_fields got = checked(message);
    say(id, "received (from session %u): %.*s", session_id(session), (int)got.data_len,
        got.data ? (const char *)got.data : "");
    slim_message_free(message);
    return SLIM_OK;
}

static int send_messages(slim_app *app, const options *o, uint64_t connection)
{
    slim_session_options how = SLIM_SESSION_OPTIONS_INIT;
    slim_session *session = NULL;
    slim_status st;

    if (o->sticky || o->enable_mls) {
        how.mls = o->enable_mls;
        how.max_retries = RETRIES;
        how.retry_interval_ms = RETRY_MS;
    } else {
        how.delivery = 1;
        how.addressing = 1;
    }
    if ((st = slim_app_set_route(app, o->remote, connection)) ||
        (st = slim_session_open(app, &how, o->remote, REPLY_MS, &session)))
        return interrupted ? 0 : failed(o->remote, st);
    for (long i = 0; i < o->iterations && !interrupted; i++) {
        if ((st = ask(session, o, i)) && !interrupted)
            printf("received error:  %s\n", slim_last_error());
        fflush(stdout);
        sleep(1); /* a signal ends it */
    }
    if ((st = slim_session_close(session, REPLY_MS)) && !interrupted)
        failed("close", st);
    slim_session_free(session);
    return 0;
}

int main(int argc, char **argv)
{
    options o = read_options(argc, argv);
    slim_node *node = NULL;
    uint64_t connection = 0;
    slim_app *app = create_local_app(&o, &node, &connection);
    int status = 0;

    local = o.local;
    id = app_id(app);
    if (o.message && !o.remote && !interrupted) {
        fputs("Error: Remote ID must be provided when message is specified.\n", stderr);
        status = 1;
    } else if (!interrupted) {
        status = o.message ? send_messages(app, &o, connection) : receive(app);
    }
    if (interrupted)
        puts("Client interrupted by user.");
    /* What waits on a stopped node ends; freeing a handle must be the last call on it. */
    slim_node_stop(node);
    pthread_mutex_lock(&mutex);
    while (serving > 0)
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
    slim_app_free(app);
    stop_on_signal(NULL);
    slim_node_free(node);
    return status;
}
