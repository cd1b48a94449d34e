#define _GNU_SOURCE /* getopt_long */
#include "common.h"

#include <ctype.h>
#include <getopt.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_MS 30000

volatile sig_atomic_t interrupted = 0;
static slim_node *stopped_by_signal = NULL;

const char *from_environment(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* A wrong use of the program. */
static void wrong(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("Error: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(2);
}

void refuse(const char *option)
{
    wrong("%s is not in this version of libslim.", option);
}

static int is_true(const char *option, const char *text)
{
    static const char *const words[] = {"0", "false", "f", "no", "n", "off",
                                        "1", "true",  "t", "yes", "y", "on"};
    size_t at;
    for (at = 0; at < sizeof words / sizeof *words; at++)
        if (strcmp(text, words[at]) == 0)
            return at >= 6;
    wrong("Invalid value for '%s': '%s' is not a valid boolean.", option, text);
    return 0;
}

static long number(const char *option, const char *text)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (!*text || *end)
        wrong("Invalid value for '%s': '%s' is not a valid integer.", option, text);
    return value;
}

enum { LOCAL, REMOTE, SLIM, MESSAGE, ITERATIONS, SHARED_SECRET, STICKY, INVITES, MLS, OTEL, JWT,
       BUNDLE, AUDIENCE, HELP, COUNT };

static const struct option known[] = {
    {"local", required_argument, NULL, LOCAL},
    {"remote", required_argument, NULL, REMOTE},
    {"slim", required_argument, NULL, SLIM},
    {"message", required_argument, NULL, MESSAGE},
    {"iterations", required_argument, NULL, ITERATIONS},
    {"shared-secret", required_argument, NULL, SHARED_SECRET},
    {"sticky", no_argument, NULL, STICKY},
    {"invites", required_argument, NULL, INVITES},
    {"enable-mls", no_argument, NULL, MLS},
    {"enable-opentelemetry", no_argument, NULL, OTEL},
    {"jwt", required_argument, NULL, JWT},
    {"bundle", required_argument, NULL, BUNDLE},
    {"audience", required_argument, NULL, AUDIENCE},
    {"help", no_argument, NULL, HELP},
    {NULL, 0, NULL, 0},
};

static const char *const variables[] = {
    "SLIM_LOCAL", "SLIM_REMOTE", "SLIM_SLIM", "SLIM_MESSAGE", "SLIM_ITERATIONS",
    "SLIM_SHARED_SECRET", "SLIM_STICKY", "SLIM_INVITES", "SLIM_ENABLE_MLS",
    "SLIM_ENABLE_OPENTELEMETRY", "SLIM_JWT", "SLIM_BUNDLE", "SLIM_AUDIENCE",
};

static void usage(const char *program)
{
    printf("Usage: %s --local NAME [--remote NAME] [--slim URL|JSON] --shared-secret SECRET\n"
           "  point_to_point: [--message TEXT] [--iterations N] [--sticky]\n"
           "    Without --message it receives and replies.\n"
           "  multicast: [--invites NAME]...\n"
           "    With --remote and --invites it is the moderator of the group --remote.\n"
           "With --enable-mls whoever opens the session encrypts it end to end.\n"
           "Names are organization/namespace/service.\n"
           "Each option can also be given as SLIM_LOCAL, SLIM_SHARED_SECRET and so on.\n",
           program);
    exit(0);
}

static void add_invite(options *o, const char *name)
{
    if (o->invites_len == MAX_INVITES)
        wrong("more than %d --invites", MAX_INVITES);
    o->invites[o->invites_len++] = name;
}

options read_options(int argc, char **argv)
{
    const char *given[COUNT] = {NULL};
    static char several[4096];
    options o = {0};
    int which, at;

    for (at = 0; at < HELP; at++)
        given[at] = from_environment(variables[at]);
    opterr = 0;
    while ((which = getopt_long(argc, argv, ":", known, NULL)) != -1) {
        if (which == ':')
            wrong("Option '%s' requires an argument.", argv[optind - 1]);
        if (which == '?')
            wrong("No such option: %s", argv[optind - 1]);
        if (which == HELP)
            usage(argv[0]);
        if (which == INVITES)
            add_invite(&o, optarg);
        given[which] = optarg ? optarg : "1";
    }
    if (given[INVITES] && !o.invites_len) { /* the variable: separated by white space */
        char *name;
        if (strlen(given[INVITES]) >= sizeof several)
            wrong("SLIM_INVITES is too long.");
        strcpy(several, given[INVITES]);
        for (name = strtok(several, " \t\n"); name; name = strtok(NULL, " \t\n"))
            add_invite(&o, name);
    }
    if (optind < argc)
        wrong("Got unexpected extra argument (%s)", argv[optind]);
    if (!given[LOCAL])
        wrong("Missing option '--local'.");
    if (given[OTEL] && is_true("--enable-opentelemetry", given[OTEL]))
        refuse("--enable-opentelemetry");
    for (at = JWT; at <= AUDIENCE; at++)
        if (given[at]) {
            char option[16];
            snprintf(option, sizeof option, "--%s", known[at].name);
            refuse(option);
        }
    o.local = given[LOCAL];
    o.remote = given[REMOTE];
    o.slim = given[SLIM] ? given[SLIM] : "http://127.0.0.1:46357";
    o.message = given[MESSAGE];
    o.iterations = given[ITERATIONS] ? number("--iterations", given[ITERATIONS]) : 2;
    o.shared_secret = given[SHARED_SECRET];
    o.sticky = given[STICKY] && is_true("--sticky", given[STICKY]);
    o.enable_mls = given[MLS] && is_true("--enable-mls", given[MLS]);
    return o;
}

void say(const char *label, const char *format, ...)
{
    static pthread_mutex_t whole_lines = PTHREAD_MUTEX_INITIALIZER;
    va_list args;
    size_t at;

    pthread_mutex_lock(&whole_lines);
    fputs("\x1b[1m\x1b[96m", stdout);
    for (at = 0; label[at]; at++)
        putchar(at ? tolower((unsigned char)label[at]) : toupper((unsigned char)label[at]));
    for (; at < 45; at++)
        putchar(' ');
    fputs("\x1b[0m", stdout);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
    pthread_mutex_unlock(&whole_lines);
}

int failed(const char *what, slim_status status)
{
    fprintf(stderr, "Error: %s: %s (%s)\n", what, slim_last_error(), slim_status_name(status));
    return 1;
}

static void on_signal(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
    slim_node_stop(stopped_by_signal);
}

void stop_on_signal(slim_node *node)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    stopped_by_signal = node;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

const char *app_id(const slim_app *app)
{
    return strrchr(slim_app_name(app), '/') + 1;
}

int same_without_id(const char *name, const char *local)
{
    size_t len = strlen(local);
    return strncmp(name, local, len) == 0 && (name[len] == '/' || name[len] == '\0');
}

/* The node as it is printed: the URL, or what "endpoint" in the JSON text says. */
static void print_connected(const slim_app *app, const char *slim)
{
    const char *at = *slim == '{' ? strstr(slim, "\"endpoint\"") : NULL;
    const char *end = NULL;
    if (at && (at = strchr(at + strlen("\"endpoint\""), '"')) != NULL)
        end = strchr(++at, '"');
    if (end)
        say(app_id(app), "Connected to %.*s", (int)(end - at), at);
    else
        say(app_id(app), "Connected to %s", slim);
}

/* Three parts, none empty. */
static int is_name(const char *text)
{
    const char *slash = strchr(text, '/');
    const char *second = slash ? strchr(slash + 1, '/') : NULL;
    return second && slash != text && second != slash + 1 && second[1] && !strchr(second + 1, '/');
}

/* Ends the program if --slim is not what slim_app_connect() takes, before anything is done. A node
 * that has stopped looks at it and does no more. */
static void check_slim(const char *slim)
{
    slim_node *stopped = NULL;
    slim_status st = slim_node_new(NULL, &stopped);

    if (st)
        exit(failed("slim_node_new", st));
    slim_node_stop(stopped);
    if ((st = slim_node_wait(stopped, SLIM_WAIT_FOREVER)))
        exit(failed("slim_node_wait", st));
    st = slim_node_connect(stopped, slim, 0, NULL);
    if (st == SLIM_ERR_INVALID_CONFIG && strstr(slim_last_error(), "not a JSON"))
        wrong("Invalid value for '--slim': %s is not valid JSON", slim);
    if (st == SLIM_ERR_INVALID_CONFIG || st == SLIM_ERR_UNSUPPORTED)
        wrong("Invalid value for '--slim': %s", slim_last_error());
    slim_node_free(stopped);
}

slim_app *create_local_app(const options *o, slim_node **node, uint64_t *connection)
{
    slim_app *app = NULL;
    slim_status st;

    check_slim(o->slim);
    if (!o->shared_secret) {
        fputs("Error: Either JWT or bundle must be provided, or a shared secret.\n", stderr);
        exit(1);
    }
    if (!is_name(o->local)) {
        puts("Error: IDs must be in the format organization/namespace/app-or-stream.");
        exit(1);
    }
    if ((st = slim_node_new(NULL, node)))
        exit(failed("slim_node_new", st));
    stop_on_signal(*node);
    if ((st = slim_app_new_with_secret(*node, o->local, o->shared_secret, &app)))
        exit(failed(o->local, st));
    say(app_id(app), "Created app");
    st = slim_app_connect(app, o->slim, CONNECT_MS, connection);
    if (st && !interrupted)
        exit(failed(o->slim, st));
    if (st == SLIM_OK)
        print_connected(app, o->slim);
    return app;
}
