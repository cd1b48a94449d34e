/* hello.c - the smallest conversation: one program waits, the other says hello.
 *
 *   hello receive ENDPOINT LOCAL           prints the message that it gets, and answers
 *   hello send    ENDPOINT LOCAL REMOTE    sends "hello", prints the answer
 *
 * ENDPOINT is a node, like http://127.0.0.1:46357; LOCAL and REMOTE are names of apps, like
 * org/demo/alice. Both sides need the same secret: SLIM_SHARED_SECRET, or the one below.
 */
#include <slim.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_MS 30000

static int failed(const char *what, slim_status status)
{
    fprintf(stderr, "hello: %s: %s (%s)\n", what, slim_last_error(), slim_status_name(status));
    return 1;
}

static int print(const slim_message *message)
{
    size_t len = 0;
    const void *data = slim_message_data(message, &len);
    if (len > 0)
        fwrite(data, 1, len, stdout);
    putchar('\n');
    return fflush(stdout);
}

static int receive(slim_app *app)
{
    static const char answer[] = "hello yourself";
    slim_session *session = NULL;
    slim_message *message = NULL;
    slim_status st;

    fprintf(stderr, "waiting as %s\n", slim_app_name(app));
    if ((st = slim_app_accept(app, SLIM_WAIT_FOREVER, &session)))
        return failed("accept", st);
    if ((st = slim_session_receive(session, WAIT_MS, &message)) == SLIM_OK) {
        print(message);
        st = slim_session_publish_to(session, message, answer, strlen(answer), NULL, WAIT_MS);
        slim_message_free(message);
    }
    /* The sender closes the session when it has the answer. */
    while (st == SLIM_OK && (st = slim_session_receive(session, WAIT_MS, &message)) == SLIM_OK)
        slim_message_free(message);
    slim_session_free(session);
    return st == SLIM_ERR_CLOSED ? 0 : failed("receive", st);
}

static int send_hello(slim_app *app, const char *remote)
{
    slim_session *session = NULL;
    slim_message *message = NULL;
    slim_status st;

    if ((st = slim_session_open(app, NULL, remote, WAIT_MS, &session)))
        return failed("open", st);
    if ((st = slim_session_publish(session, "hello", strlen("hello"), NULL, WAIT_MS)) ||
        (st = slim_session_receive(session, WAIT_MS, &message))) {
        slim_session_free(session);
        return failed("talk", st);
    }
    print(message);
    slim_message_free(message);
    st = slim_session_close(session, WAIT_MS);
    slim_session_free(session);
    return st ? failed("close", st) : 0;
}

int main(int argc, char **argv)
{
    const char *secret = getenv("SLIM_SHARED_SECRET");
    slim_node *node = NULL;
    slim_app *app = NULL;
    slim_status st;
    int sends = argc == 5 && strcmp(argv[1], "send") == 0;
    int result;

    if (!sends && !(argc == 4 && strcmp(argv[1], "receive") == 0)) {
        fprintf(stderr, "usage: hello receive ENDPOINT LOCAL | hello send ENDPOINT LOCAL REMOTE\n");
        return 2;
    }
    if (!secret)
        secret = "a secret for demos, never for real use";
    if ((st = slim_node_new(NULL, &node)) ||
        (st = slim_app_new_with_secret(node, argv[3], secret, &app)) ||
        (st = slim_app_connect(app, argv[2], WAIT_MS, NULL)))
        result = failed("start", st);
    else
        result = sends ? send_hello(app, argv[4]) : receive(app);
    slim_app_free(app);
    slim_node_free(node);
    return result;
}
