/* common.h - what the example programs share: options, the printed lines, Ctrl-C, the app. */
#ifndef COMMON_H
#define COMMON_H

#include <signal.h>
#include <slim.h>

#define MAX_INVITES 256

/* What the command line and the environment (SLIM_LOCAL, SLIM_REMOTE, ...) say. */
typedef struct {
    const char *local;         /* organization/namespace/service of this program */
    const char *remote;        /* of the other one, or the group; NULL if not given */
    const char *slim;          /* the node: a URL, or a client object in JSON */
    const char *message;       /* NULL: receive */
    const char *shared_secret; /* at least 32 bytes */
    long iterations;
    int sticky;
    int enable_mls;
    const char *invites[MAX_INVITES];
    int invites_len;
} options;

/* Reads them. Ends the program with status 2 where they are wrong. */
options read_options(int argc, char **argv);

/* What an environment variable holds; NULL if it is not set or empty. */
const char *from_environment(const char *name);

/* Ends the program with status 2 if an option is given whose feature is not there yet. */
void refuse(const char *option);

/* Prints `label` in bold cyan, 45 columns wide, and the text behind it: one whole line. */
void say(const char *label, const char *format, ...);

/* Makes the node and the app, and connects: prints "Created app" and "Connected to ...". Stores
 * the connection's number. Ends the program where that fails. */
slim_app *create_local_app(const options *o, slim_node **node, uint64_t *connection);

/* The ID of an app, which is the last part of its name. */
const char *app_id(const slim_app *app);

/* 1 if `name` is `local`, whatever ID it has. */
int same_without_id(const char *name, const char *local);

/* Prints what failed and the library's words to standard error; gives 1, an exit status. */
int failed(const char *what, slim_status status);

/* From now on Ctrl-C (and SIGTERM) sets `interrupted` and stops the node: waits end. */
void stop_on_signal(slim_node *node);
extern volatile sig_atomic_t interrupted;

#endif
