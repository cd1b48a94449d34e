/* exits.c - ends with a live node, its thread busy, in the way that the argument names: "return",
 * "exit", "_exit" or "thread". The status is 7 (spec 08 part 7, item 20). What is called while the
 * process ends still answers, and fork() still works. */
#include "check.h"

#include <sys/wait.h>

/* Not local: they are not lost when the program ends. */
slim_session *ours, *theirs;
slim_node *hub, *node;
slim_app *alice, *bob;

static void late(void)
{
    pid_t child;
    CHECK(slim_node_wait(NULL, 0) == SLIM_ERR_INVALID_ARGUMENT);
    CHECK(slim_last_error() != NULL);
    child = fork();
    if (child == 0)
        execl("/bin/true", "true", (char *)NULL);
    CHECK(child > 0 && waitpid(child, NULL, 0) == child);
}

static void *end_the_process(void *argument)
{
    exit(*(int *)argument);
}

int main(int argc, char **argv)
{
    static int status = 7;
    pthread_t thread;
    char endpoint[64];

    CHECK(argc == 2);
    CHECK(atexit(late) == 0);
    /* What a thread knows of its last error is gone when the process ends. */
    CHECK(slim_node_wait(NULL, 0) == SLIM_ERR_INVALID_ARGUMENT);
    hub = server(endpoint);
    alice = peer("org/ns/alice", endpoint, &node);
    OK(slim_app_new_with_secret(hub, "org/ns/bob", SECRET, &bob));
    open_between(alice, bob, NULL, &ours, &theirs);
    CHECK(slim_session_fd(theirs) >= 0 && slim_app_fd(bob) >= 0);
    for (int i = 0; i < 200; i++)
        say(ours, "still on its way");
    if (strcmp(argv[1], "exit") == 0)
        exit(status);
    if (strcmp(argv[1], "_exit") == 0)
        _exit(status);
    if (strcmp(argv[1], "thread") == 0) {
        CHECK(pthread_create(&thread, NULL, end_the_process, &status) == 0);
        pthread_join(thread, NULL);
    }
    CHECK(strcmp(argv[1], "return") == 0);
    return status;
}
