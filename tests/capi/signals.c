/* signals.c - the library and the program's signals (spec 08 part 7, items 15 to 17). */
#include "check.h"

/* Item 16: the thread of a node is called "slim-io" and blocks what can be blocked. */
static void mask_of_the_node(void)
{
    struct dirent *entry;
    int found = 0;
    DIR *dir = opendir("/proc/self/task");

    CHECK(dir);
    while ((entry = readdir(dir)) != NULL) {
        char path[300], line[128], name[32] = "";
        unsigned long long blocked = 0;
        FILE *file;
        if (atoi(entry->d_name) == getpid() || atoi(entry->d_name) == 0)
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
        file = fopen(path, "r");
        CHECK(file);
        while (fgets(line, sizeof line, file)) {
            sscanf(line, "Name: %31s", name);
            sscanf(line, "SigBlk: %llx", &blocked);
        }
        fclose(file);
        CHECK(strcmp(name, "slim-io") == 0);
        /* libc keeps 32 and 33 for itself. */
        for (int number = 1; number <= 64; number++)
            if (number != SIGKILL && number != SIGSTOP && number != 32 && number != 33)
                CHECK(blocked >> (number - 1) & 1);
        found++;
    }
    closedir(dir);
    CHECK(found == 1);
}

/* Item 16. */
static void masks(void)
{
    sigset_t before, after;
    struct talk talk;

    CHECK(sigemptyset(&before) == 0 && sigaddset(&before, SIGUSR2) == 0);
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    talk_begin(&talk, NULL);
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &after) == 0);
    for (int number = 1; number < 32; number++)
        CHECK(sigismember(&after, number) == (number == SIGUSR2));
    /* Valgrind does not tell the kernel of the masks. */
    if (!on_valgrind())
        mask_of_the_node();
    talk_end(&talk);
    sigemptyset(&before);
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
}

/* Item 15: a peer that vanishes while much is being written to it. Without TLS so far. */
static void vanishing_peer(void)
{
    static char big[1024 * 1024];
    slim_session_options options = SLIM_SESSION_OPTIONS_INIT;
    struct sigaction action;
    slim_session *session = NULL;
    slim_node *node = NULL, *hub = NULL;
    slim_app *app;
    slim_status st = SLIM_OK;
    char endpoint[64];
    int port[2];
    pid_t child;

    CHECK(sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
    CHECK(pipe(port) == 0);
    child = fork_child();
    if (child == 0) {
        /* The node that the parent talks to, and somebody to talk to on it. */
        slim_app *bob = NULL;
        slim_session *theirs = NULL;
        hub = server(endpoint);
        OK(slim_app_new_with_secret(hub, "org/ns/bob", SECRET, &bob));
        CHECK(write(port[1], endpoint, sizeof endpoint) == sizeof endpoint);
        OK(slim_app_accept(bob, PATIENCE, &theirs));
        hear(theirs, "hello");
        for (;;)
            pause();
    }
    CHECK(read(port[0], endpoint, sizeof endpoint) == sizeof endpoint);
    app = peer("org/ns/alice", endpoint, &node);
    options.delivery = 1;
    OK(slim_session_open(app, &options, "org/ns/bob", PATIENCE, &session));
    say(session, "hello");
    /* It does not read any more: what is written stays, and then it is killed. */
    CHECK(kill(child, SIGSTOP) == 0);
    for (int i = 0; i < 64 && st == SLIM_OK; i++)
        st = slim_session_publish(session, big, sizeof big, NULL, 0);
    EXPECT(SLIM_ERR_TIMEOUT, st);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    /* The node sees it, and goes on. */
    for (int i = 0; i < 10; i++) {
        st = slim_session_publish(session, big, sizeof big, NULL, 20);
        CHECK(st == SLIM_OK || st == SLIM_ERR_TIMEOUT || st == SLIM_ERR_CLOSED);
    }
    OK(slim_node_stats(node, NULL, 0, NULL));
    slim_session_free(session);
    slim_app_free(app);
    slim_node_free(node);
    close(port[0]);
    close(port[1]);
}

/* Item 17. */
static slim_node *stopped;
static volatile sig_atomic_t handled;

static void stop(int number)
{
    (void)number;
    errno = EXDEV;
    slim_node_stop(stopped);
    slim_node_stop(stopped);
    handled = errno == EXDEV;
}

static void *send_term(void *argument)
{
    /* The main thread waits, or is about to: both must do. */
    CHECK(kill(getpid(), SIGTERM) == 0);
    return argument;
}

static void stop_in_a_handler(void)
{
    struct sigaction action = {.sa_handler = stop};
    char endpoint[64];

    CHECK(sigaction(SIGTERM, &action, NULL) == 0);
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        handled = 0;
        stopped = server(endpoint);
        EXPECT(SLIM_ERR_TIMEOUT, slim_node_wait(stopped, 0));
        CHECK(pthread_create(&thread, NULL, send_term, NULL) == 0);
        OK(slim_node_wait(stopped, SLIM_WAIT_FOREVER));
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(handled);
        OK(slim_node_wait(stopped, 0));
        slim_node_free(stopped);
    }
}

int main(void)
{
    /* cargo's test programs, and others, ignore it. */
    signal(SIGPIPE, SIG_DFL);
    masks();
    /* Without the mask, and MSG_NOSIGNAL, a signal comes in one of three. */
    for (int i = 0; i < (on_valgrind() ? 2 : 20); i++)
        vanishing_peer();
    stop_in_a_handler();
    return 0;
}
