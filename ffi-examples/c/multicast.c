/* multicast.c - a member of a group: its moderator, or somebody who was invited.
 *
 *   multicast --local org/ns/client-1 --shared-secret S                       waits to be invited
 *   multicast --local org/ns/moderator --remote org/ns/chat \
 *             --invites org/ns/client-1 --invites org/ns/client-2 --shared-secret S
 *
 * What is typed is published to the group, but for a few words: "invite NAME" and "remove NAME", for
 * the moderator, and "exit" or "quit", which leave the group (the moderator's ends it).
 *
 * One thread, one poll(): on what is typed, on the session for what the others say, on the app for
 * what was started and has ended.
 */
#define _POSIX_C_SOURCE 200809L
#include "common.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* Five more tries, every five seconds. Leaving may take as long as all tries. */
#define RETRIES 5
#define RETRY_MS 5000
#define CLOSE_MS ((RETRIES + 1) * RETRY_MS)

/* Something that was started. */
struct started {
    struct started *next;
    slim_op *op;
    const char *failure; /* what to say if it fails, before the reason */
    const char *success; /* what to say behind the name otherwise; NULL: nothing */
    char name[];
};

static const char *local;
static slim_app *app;
static slim_session *session;
static uint32_t number; /* of the session */
static struct started *all_started = NULL;
static int prompting = 0; /* somebody sits at a terminal */

static void prompt(void)
{
    if (prompting) {
        fputs("\x1b[1mmessage>\x1b[0m ", stdout);
        fflush(stdout);
    }
}

/* Prints, over the prompt. */
#define TELL(...) (prompting ? (void)putchar('\r') : (void)0, say(local, __VA_ARGS__))

/* Remembers what was started, or says why it could not be. */
static int begin(slim_status st, slim_op *op, const char *name, const char *failure,
                 const char *success)
{
    struct started *started;

    if (st) {
        TELL("%s%s: %s", failure, name, slim_last_error());
        return 0;
    }
    if (!(started = malloc(sizeof *started + strlen(name) + 1)))
        abort();
    started->op = op;
    started->failure = failure;
    started->success = success;
    strcpy(started->name, name);
    started->next = all_started;
    all_started = started;
    if ((st = slim_op_notify(op, (uint64_t)(uintptr_t)started)))
        failed("notify", st);
    return 1;
}

static void forget(struct started *started)
{
    struct started **at = &all_started;
    while (*at != started)
        at = &(*at)->next;
    *at = started->next;
    slim_op_free(started->op);
    free(started);
}

/* Says how what was started has ended. */
static void take_ended(void)
{
    uint64_t tag;
    while (slim_app_next_done(app, &tag) == SLIM_OK) {
        struct started *started = (struct started *)(uintptr_t)tag;
        if (slim_op_wait(started->op, 0))
            TELL("%s%s: %s", started->failure, started->name, slim_last_error());
        else if (started->success)
            TELL("-> %s %s", started->name, started->success);
        forget(started);
    }
}

static int invite(const char *name)
{
    slim_op *op = NULL;
    slim_status st = slim_session_invite_start(session, name, &op);
    return begin(st, op, name, "-> Error inviting ", "has joined");
}

static void expel(const char *name)
{
    slim_op *op = NULL;
    slim_status st = slim_session_remove_start(session, name, &op);
    begin(st, op, name, "-> Error removing ", "was removed");
}

static void publish(const char *text)
{
    slim_op *op = NULL;
    slim_status st = slim_session_publish_start(session, NULL, text, strlen(text), NULL, &op);
    begin(st, op, "", "-> Error sending message", NULL);
}

/* What was typed. Gives 0 when that is all. */
static int obey(const char *line)
{
    char word[8] = "", name[4096] = "", more[2];
    int words = sscanf(line, "%7s %4095s %1s", word, name, more);

    if (words == 1 && (strcasecmp(word, "exit") == 0 || strcasecmp(word, "quit") == 0))
        return 0;
    if (words == 2 && strcmp(word, "invite") == 0)
        invite(name);
    else if (words == 2 && strcmp(word, "remove") == 0)
        expel(name);
    else if (words > 0)
        publish(line);
    return 1;
}

/* Reads what there is; a line may come in pieces. Gives 0 when that is all. */
static int read_input(struct pollfd *input)
{
    static char text[64 * 1024];
    static size_t len = 0;
    ssize_t more = read(input->fd, text + len, sizeof text - 1 - len);
    char *end;

    if (more <= 0) {
        input->fd = -1; /* no more input, but the others may have something to say */
        return 1;
    }
    len += (size_t)more;
    while ((end = memchr(text, '\n', len)) || len == sizeof text - 1) {
        size_t used = end ? (size_t)(end - text) + 1 : len;
        text[end ? used - 1 : used] = '\0';
        if (!obey(text))
            return 0;
        len -= used;
        memmove(text, text + used, len);
    }
    return 1;
}

/* Prints what the others say, and what happens to them. Gives 0 when the session is over. */
static int hear(void)
{
    slim_message *message = NULL;
    slim_status st;

    while ((st = slim_session_receive(session, 0, &message)) == SLIM_OK) {
        slim_message_fields got = SLIM_MESSAGE_FIELDS_INIT;
        slim_message_view(message, &got);
        if (got.kind == SLIM_MESSAGE)
            TELL("-> Received message from %u: %.*s", (unsigned)number, (int)got.data_len,
                 got.data ? (const char *)got.data : "");
        else if (got.kind == SLIM_EVENT_PEER_LEFT)
            TELL("-> %s has left", got.source);
        else if (got.kind == SLIM_EVENT_PEER_OFFLINE)
            TELL("-> %s does not answer", got.source);
        else if (got.kind == SLIM_EVENT_PEER_ONLINE)
            TELL("-> %s is back", got.source);
        else if (got.kind == SLIM_EVENT_ENCRYPTION_LOST)
            TELL("-> %.*s", (int)got.data_len, (const char *)got.data);
        slim_message_free(message);
    }
    if (st == SLIM_ERR_TIMEOUT)
        return 1;
    if (!interrupted)
        TELL("-> Error receiving message: %s", slim_last_error());
    return 0;
}

/* The moderator's beginning. */
static slim_status create(const options *o, uint64_t connection)
{
    slim_session_options how = SLIM_SESSION_OPTIONS_INIT;
    slim_status st;

    say(local, "Creating new multicast sessions...");
    how.kind = SLIM_SESSION_GROUP;
    how.events = 1;
    how.mls = o->enable_mls;
    how.max_retries = RETRIES;
    how.retry_interval_ms = RETRY_MS;
    if ((st = slim_session_open(app, &how, o->remote, CLOSE_MS, &session)))
        return st;
    for (int i = 0; i < o->invites_len; i++) {
        if ((st = slim_app_set_route(app, o->invites[i], connection)))
            return st;
        if (invite(o->invites[i]))
            printf("%s -> add %s to the group\n", local, o->invites[i]);
        fflush(stdout);
    }
    return SLIM_OK;
}

/* Everybody else's. */
static slim_status wait_to_be_invited(void)
{
    slim_status st;
    say(local, "-> Waiting for session...");
    st = slim_app_accept(app, SLIM_WAIT_FOREVER, &session);
    return st ? st : slim_session_set_events(session, 1);
}

static int take_part(const options *o, uint64_t connection)
{
    slim_session_fields known = SLIM_SESSION_FIELDS_INIT;
    struct pollfd watched[3];
    slim_status st = o->remote && o->invites_len ? create(o, connection) : wait_to_be_invited();
    int more = 1;

    if (st)
        return interrupted ? 0 : failed(o->remote ? o->remote : local, st);
    slim_session_view(session, &known);
    number = known.id;
    prompting = isatty(STDIN_FILENO);
    watched[0].fd = STDIN_FILENO;
    watched[1].fd = slim_session_fd(session);
    watched[2].fd = slim_app_fd(app);
    for (int i = 0; i < 3; i++)
        watched[i].events = POLLIN;
    while (more && !interrupted) {
        prompt();
        if (poll(watched, 3, -1) < 0)
            continue;
        if (watched[2].revents)
            take_ended();
        if (watched[1].revents)
            more = hear();
        if (more && watched[0].revents)
            more = read_input(&watched[0]);
    }
    st = slim_session_close(session, CLOSE_MS);
    return st && st != SLIM_ERR_CLOSED && !interrupted ? failed("close", st) : 0;
}

int main(int argc, char **argv)
{
    options o = read_options(argc, argv);
    slim_node *node = NULL;
    uint64_t connection = 0;
    int status = 0;

    app = create_local_app(&o, &node, &connection);
    local = o.local;
    if (!interrupted)
        status = take_part(&o, connection);
    if (interrupted)
        puts("Client interrupted by user.");
    while (all_started)
        forget(all_started);
    slim_session_free(session);
    slim_app_free(app);
    stop_on_signal(NULL);
    slim_node_free(node);
    return status;
}
