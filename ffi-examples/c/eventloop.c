/* eventloop.c - one thread, one poll(): takes sessions and answers whatever comes in them.
 *
 *   eventloop --local org/ns/alice --shared-secret S [--slim URL|JSON]
 *
 * Every descriptor of the library is readable while there is something to take, so after poll()
 * one calls with a time of 0 until SLIM_ERR_TIMEOUT says that nothing is left. The same pattern
 * fits epoll, kqueue, libuv, glib.
 */
#include "common.h"

#include <poll.h>
#include <stdio.h>

#define MAX_SESSIONS 64

static slim_session *sessions[MAX_SESSIONS];
static struct pollfd watched[1 + MAX_SESSIONS]; /* the app's, then one for each session */
static nfds_t count = 1;

/* Gives 0 when the app is closed: nobody will come any more. */
static int take_sessions(slim_app *app)
{
    slim_session *session;
    slim_status st = SLIM_ERR_TIMEOUT;
    while (count <= MAX_SESSIONS && (st = slim_app_accept(app, 0, &session)) == SLIM_OK) {
        sessions[count - 1] = session;
        watched[count].fd = slim_session_fd(session);
        watched[count].events = POLLIN;
        watched[count++].revents = 0;
        printf("session %u of %u\n", (unsigned)count - 1, MAX_SESSIONS);
        fflush(stdout);
    }
    return st == SLIM_OK || st == SLIM_ERR_TIMEOUT;
}

/* Answers what has come. Gives 0 when the session is over. */
static int serve(slim_session *session)
{
    slim_message *message = NULL;
    slim_status st;
    while ((st = slim_session_receive(session, 0, &message)) == SLIM_OK) {
        size_t len;
        const void *data = slim_message_data(message, &len);
        /* 0: a loop does not wait, not even for a peer that reads slowly. */
        if ((st = slim_session_publish_to(session, message, data, len, NULL, 0)))
            failed("reply", st);
        slim_message_free(message);
    }
    return st == SLIM_ERR_TIMEOUT;
}

int main(int argc, char **argv)
{
    options o = read_options(argc, argv);
    slim_node *node = NULL;
    uint64_t connection;
    slim_app *app = create_local_app(&o, &node, &connection);

    watched[0].fd = slim_app_fd(app);
    while (!interrupted) {
        /* With all places taken the app waits: its descriptor would only keep poll() awake. */
        watched[0].events = count <= MAX_SESSIONS ? POLLIN : 0;
        if (poll(watched, count, -1) < 0)
            continue;
        for (nfds_t at = count - 1; at > 0; at--) {
            if (watched[at].revents && !serve(sessions[at - 1])) {
                slim_session_free(sessions[at - 1]);
                sessions[at - 1] = sessions[--count - 1];
                watched[at] = watched[count];
            }
        }
        if (watched[0].revents && !take_sessions(app))
            break;
    }
    puts(interrupted ? "Client interrupted by user." : slim_last_error());
    while (count > 1)
        slim_session_free(sessions[--count - 1]);
    slim_app_free(app);
    stop_on_signal(NULL);
    slim_node_free(node);
    return 0;
}
