/* lifetimes.c - frees in every order, waits that end, and times (spec 08 part 7, items 8 to 10).
 * Sessions, apps and nodes that come and go, with SLIM_SOAK 10,000 of each: no growth. */
#include "check.h"

/* Item 8. */
enum { NODE, APP, SESSION, MESSAGE, OP, PARTICIPANTS, KINDS };

struct handles {
    slim_node *node;
    slim_app *app;
    slim_session *session;
    slim_message *message;
    slim_op *op;
    slim_participants *participants;
    slim_app *other;
    slim_session *theirs;
};

static void make(struct handles *h)
{
    memset(h, 0, sizeof *h);
    OK(slim_node_new(NULL, &h->node));
    OK(slim_app_new_with_secret(h->node, "org/ns/alice", SECRET, &h->app));
    OK(slim_app_new_with_secret(h->node, "org/ns/bob", SECRET, &h->other));
    open_between(h->app, h->other, NULL, &h->session, &h->theirs);
    say(h->theirs, "kept");
    OK(slim_session_receive(h->session, PATIENCE, &h->message));
    OK(slim_session_publish_start(h->session, NULL, "x", 1, NULL, &h->op));
    OK(slim_op_wait(h->op, PATIENCE));
    OK(slim_session_participants(h->session, PATIENCE, &h->participants));
}

/* Closed, if a parent has gone. Nobody waits for the loop: an app that goes takes a moment to
 * take its sessions along, so calls that do not ask the loop are made after one that does. */
static void look(const struct handles *h, unsigned gone)
{
    int parents = (gone >> NODE | gone >> APP) & 1;
    slim_session *session = POISON;
    slim_message *message = POISON;
    slim_participants *list = POISON;
    size_t len = 0;

    if (!(gone >> APP & 1) && gone >> NODE & 1) {
        EXPECT(SLIM_ERR_CLOSED, slim_app_accept(h->app, SLIM_WAIT_FOREVER, &session));
        EXPECT(SLIM_ERR_CLOSED, slim_app_subscribe(h->app, "org/ns/x", 1, PATIENCE));
        EXPECT(SLIM_ERR_CLOSED, slim_session_open(h->app, NULL, "org/ns/bob", PATIENCE, &session));
        CHECK(strncmp(slim_app_name(h->app), "org/ns/alice/", 13) == 0);
    }
    if (!(gone >> SESSION & 1)) {
        slim_session_fields fields = SLIM_SESSION_FIELDS_INIT;
        OK(slim_session_view(h->session, &fields));
        CHECK(strncmp(fields.source, "org/ns/alice/", 13) == 0);
        if (parents) {
            EXPECT(SLIM_ERR_CLOSED,
                   slim_session_receive(h->session, SLIM_WAIT_FOREVER, &message));
            EXPECT(SLIM_ERR_CLOSED, slim_session_participants(h->session, PATIENCE, &list));
            EXPECT(SLIM_ERR_CLOSED, slim_session_publish(h->session, "x", 1, NULL, PATIENCE));
            EXPECT(SLIM_ERR_CLOSED, slim_session_close(h->session, PATIENCE));
        } else {
            EXPECT(SLIM_ERR_TIMEOUT, slim_session_receive(h->session, 0, &message));
        }
    }
    if (!(gone >> MESSAGE & 1)) {
        const char *data = slim_message_data(h->message, &len);
        CHECK(len == 4 && memcmp(data, "kept", 4) == 0);
    }
    if (!(gone >> OP & 1))
        OK(slim_op_wait(h->op, SLIM_WAIT_FOREVER));
    if (!(gone >> PARTICIPANTS & 1)) {
        int32_t online = 0;
        CHECK(slim_participants_count(h->participants) == 2);
        CHECK(strncmp(slim_participants_at(h->participants, 1, &online), "org/ns/bob/", 11) == 0);
        CHECK(online == 1 && slim_participants_at(h->participants, 2, &online) == NULL);
    }
    CHECK(session == POISON && message == POISON && list == POISON);
}

static void free_one(struct handles *h, int kind)
{
    switch (kind) {
    case NODE: slim_node_free(h->node); break;
    case APP: slim_app_free(h->app); break;
    case SESSION: slim_session_free(h->session); break;
    case MESSAGE: slim_message_free(h->message); break;
    case OP: slim_op_free(h->op); break;
    default: slim_participants_free(h->participants);
    }
}

/* All orders that begin with the first `done` of `order`. Valgrind takes its time: every 23rd, so
 * that each of the six is the last one now and then. */
static int permute(int order[KINDS], int done)
{
    static int orders, step;
    int count = 0;
    if (done == KINDS) {
        struct handles h;
        unsigned gone = 0;
        if (!step)
            step = on_valgrind() ? 23 : 1;
        if (orders++ % step)
            return 1;
        make(&h);
        for (int i = 0; i < KINDS; i++) {
            free_one(&h, order[i]);
            gone |= 1U << order[i];
            look(&h, gone);
        }
        slim_session_free(h.theirs);
        slim_app_free(h.other);
        return 1;
    }
    for (int i = done; i < KINDS; i++) {
        int other = order[i];
        order[i] = order[done];
        order[done] = other;
        count += permute(order, done + 1);
        order[done] = order[i];
        order[i] = other;
    }
    return count;
}

/* Item 9. */
enum { WAITERS = 8 };

static struct {
    pthread_barrier_t ready;
    slim_session *session;
    slim_app *app;
    int64_t woken[WAITERS];
} waiting;

static void *wait_for_a_message(void *argument)
{
    slim_message *message = POISON;
    slim_session *session = POISON;
    int64_t *woken = argument;
    pthread_barrier_wait(&waiting.ready);
    EXPECT(SLIM_ERR_CLOSED, slim_session_receive(waiting.session, SLIM_WAIT_FOREVER, &message));
    *woken = now_ms();
    SAYS("closed");
    CHECK(message == POISON && session == POISON);
    return NULL;
}

static char state_of(int task)
{
    char path[64], line[256];
    ssize_t len;
    int fd;
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", task);
    fd = open(path, O_RDONLY);
    if (fd < 0)
        return 0;
    len = read(fd, line, sizeof line - 1);
    close(fd);
    if (len <= 0)
        return 0;
    line[len] = 0;
    return strrchr(line, ')')[2];
}

/* Until all other threads sleep. */
static void until_all_wait(void)
{
    for (;;) {
        DIR *dir = opendir("/proc/self/task");
        struct dirent *entry;
        int busy = 0;
        while ((entry = readdir(dir)) != NULL) {
            int task = atoi(entry->d_name);
            busy |= task && task != getpid() && state_of(task) != 'S';
        }
        closedir(dir);
        if (!busy)
            return;
        sched_yield();
    }
}

static void wake(const char *how)
{
    struct talk talk;
    pthread_t thread[WAITERS];
    int64_t begin;

    talk_begin(&talk, NULL);
    waiting.session = talk.theirs;
    CHECK(pthread_barrier_init(&waiting.ready, NULL, WAITERS + 1) == 0);
    for (int i = 0; i < WAITERS; i++)
        CHECK(pthread_create(&thread[i], NULL, wait_for_a_message, &waiting.woken[i]) == 0);
    pthread_barrier_wait(&waiting.ready);
    until_all_wait();
    begin = now_ms();
    if (strcmp(how, "close") == 0) {
        OK(slim_session_close(talk.theirs, PATIENCE));
    } else if (strcmp(how, "peer") == 0) {
        OK(slim_session_close(talk.ours, PATIENCE));
    } else if (strcmp(how, "stop") == 0) {
        slim_node_stop(talk.node);
    } else {
        slim_node_free(talk.node);
        talk.node = NULL;
    }
    for (int i = 0; i < WAITERS; i++) {
        CHECK(pthread_join(thread[i], NULL) == 0);
        if (waiting.woken[i] - begin > 100 * slowness()) {
            fprintf(stderr, "%s: woken after %d ms\n", how, (int)(waiting.woken[i] - begin));
            _exit(1);
        }
    }
    pthread_barrier_destroy(&waiting.ready);
    talk_end(&talk);
}

/* Item 9, whatever is waited for: who frees a parent wakes all. */
static struct {
    pthread_barrier_t ready;
    slim_app *app;
    slim_session *theirs, *full;
    slim_op *op;
} waited;

static slim_status accepts(void)
{
    slim_session *none = POISON;
    slim_status st = slim_app_accept(waited.app, SLIM_WAIT_FOREVER, &none);
    CHECK(none == POISON);
    return st;
}

static slim_status receives(void)
{
    slim_message *none = POISON;
    slim_status st = slim_session_receive(waited.theirs, SLIM_WAIT_FOREVER, &none);
    CHECK(none == POISON);
    return st;
}

static slim_status publishes(void)
{
    return slim_session_publish(waited.full, "x", 1, NULL, SLIM_WAIT_FOREVER);
}

static slim_status flushes(void)
{
    return slim_session_flush(waited.full, SLIM_WAIT_FOREVER);
}

static slim_status waits(void)
{
    return slim_op_wait(waited.op, SLIM_WAIT_FOREVER);
}

static slim_status (*const all_waits[])(void) = {receives, publishes, flushes, waits, accepts};
enum { ALL_WAITS = sizeof all_waits / sizeof *all_waits };

static void *wait_in(void *argument)
{
    int64_t *woken = malloc(sizeof *woken);
    slim_status (*wait)(void) = *(slim_status (*const *)(void))argument;
    pthread_barrier_wait(&waited.ready);
    EXPECT(SLIM_ERR_CLOSED, wait());
    *woken = now_ms();
    SAYS("closed");
    return woken;
}

static void wake_all(const char *how)
{
    static char big[64 * 1024];
    slim_session_options options = SLIM_SESSION_OPTIONS_INIT;
    struct talk talk;
    slim_session *unread = NULL;
    pthread_t thread[ALL_WAITS];
    /* A handle in use may not be freed: nobody waits on an app that is. */
    int count = strcmp(how, "apps") == 0 ? ALL_WAITS - 1 : ALL_WAITS;
    int64_t begin;

    talk_begin(&talk, NULL);
    options.max_retries = 1000;
    waited.full = NULL;
    waited.op = NULL;
    open_between(talk.alice, talk.bob, &options, &waited.full, &unread);
    waited.app = talk.bob;
    waited.theirs = talk.theirs;
    /* Nobody receives: in the end, what there is room for stays unacknowledged. */
    for (int refused = 0; refused < 20;) {
        const struct timespec moment = {0, 10 * 1000 * 1000};
        slim_op *next = NULL;
        slim_status st =
            slim_session_publish_start(waited.full, NULL, big, sizeof big, NULL, &next);
        if (st == SLIM_OK) {
            slim_op_free(waited.op);
            waited.op = next;
            refused = 0;
        } else {
            EXPECT(SLIM_ERR_LIMIT, st);
            refused++;
            nanosleep(&moment, NULL);
        }
    }
    EXPECT(SLIM_ERR_TIMEOUT, slim_op_wait(waited.op, 0));
    CHECK(pthread_barrier_init(&waited.ready, NULL, (unsigned)count + 1) == 0);
    for (int i = 0; i < count; i++)
        CHECK(pthread_create(&thread[i], NULL, wait_in, (void *)(uintptr_t)&all_waits[i]) == 0);
    pthread_barrier_wait(&waited.ready);
    until_all_wait();
    begin = now_ms();
    if (strcmp(how, "apps") == 0) {
        slim_app_free(talk.alice);
        slim_app_free(talk.bob);
        talk.alice = talk.bob = NULL;
    } else if (strcmp(how, "stop") == 0) {
        slim_node_stop(talk.node);
    } else {
        slim_node_free(talk.node);
        talk.node = NULL;
    }
    for (int i = 0; i < count; i++) {
        void *woken = NULL;
        CHECK(pthread_join(thread[i], &woken) == 0);
        if (*(int64_t *)woken - begin > 100 * slowness()) {
            fprintf(stderr, "%s: wait %d woken after %d ms\n", how, i,
                    (int)(*(int64_t *)woken - begin));
            _exit(1);
        }
        free(woken);
    }
    pthread_barrier_destroy(&waited.ready);
    slim_op_free(waited.op);
    slim_session_free(waited.full);
    slim_session_free(unread);
    talk_end(&talk);
}

/* Item 10. */
static volatile sig_atomic_t signals;

static void count(int number)
{
    (void)number;
    signals++;
}

static void *send_signals(void *argument)
{
    pthread_t to = *(pthread_t *)argument;
    struct timespec pause = {0, 20 * 1000 * 1000};
    for (int i = 0; i < 5; i++) {
        nanosleep(&pause, NULL);
        CHECK(pthread_kill(to, SIGUSR1) == 0);
    }
    return NULL;
}

static void times(void)
{
    struct sigaction action = {.sa_handler = count};
    slim_message *message = POISON;
    struct talk talk;
    pthread_t self = pthread_self(), thread;
    int64_t begin, took;

    talk_begin(&talk, NULL);
    begin = now_ms();
    EXPECT(SLIM_ERR_TIMEOUT, slim_session_receive(talk.ours, 0, &message));
    CHECK(now_ms() - begin < 20 * slowness());
    begin = now_ms();
    EXPECT(SLIM_ERR_TIMEOUT, slim_session_receive(talk.ours, 50, &message));
    took = now_ms() - begin;
    CHECK(took >= 49 && took <= 150 * slowness());
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, slim_session_receive(talk.ours, -2, &message));
    SAYS("timeout_ms is -2");
    EXPECT(SLIM_ERR_INVALID_ARGUMENT, slim_session_receive(talk.ours, INT32_MIN, &message));

    /* Without SA_RESTART: only the library's own care keeps the wait going. */
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(pthread_create(&thread, NULL, send_signals, &self) == 0);
    begin = now_ms();
    EXPECT(SLIM_ERR_TIMEOUT, slim_session_receive(talk.ours, 1000, &message));
    took = now_ms() - begin;
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(signals > 0 && took >= 999 && took <= 1100 * slowness());
    CHECK(message == POISON);
    talk_end(&talk);
}

/* No growth. */
static long resident_kib(void)
{
    char line[128];
    long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "VmRSS: %ld", &kib) == 1)
            break;
    fclose(file);
    return kib;
}

/* What was allocated and not freed: a leak may fill room that others left, and RSS stays. */
static long allocated_kib(void)
{
    struct mallinfo2 heap = mallinfo2();
    return (long)((heap.uordblks + heap.hblkhd) / 1024);
}

static void cycle_session(struct talk *talk, int polite, int encrypted)
{
    slim_session_options options = SLIM_SESSION_OPTIONS_INIT;
    slim_session *ours = NULL, *theirs = NULL;
    slim_message *message = NULL;
    options.mls = encrypted;
    open_between(talk->alice, talk->bob, &options, &ours, &theirs);
    CHECK(slim_session_fd(theirs) >= 0);
    say(ours, "hello");
    hear(theirs, "hello");
    if (polite)
        OK(slim_session_close(ours, PATIENCE));
    slim_session_free(ours);
    EXPECT(SLIM_ERR_CLOSED, slim_session_receive(theirs, PATIENCE, &message));
    slim_session_free(theirs);
}

static void cycle_app(struct talk *talk)
{
    slim_session *session = NULL;
    slim_app *app = NULL;
    OK(slim_app_new_with_secret(talk->node, "org/ns/passing", SECRET, &app));
    CHECK(slim_app_fd(app) >= 0);
    EXPECT(SLIM_ERR_TIMEOUT, slim_app_accept(app, 0, &session));
    slim_app_free(app);
}

static void cycle_node(void)
{
    slim_node *hub, *node = NULL;
    char endpoint[64];
    hub = server(endpoint);
    slim_app_free(peer("org/ns/x", endpoint, &node));
    slim_node_free(node);
    slim_node_free(hub);
}

/* Encryption keeps something for each thread that does it: for as long as the thread is there. */
static void cycle_encryption(void)
{
    slim_session_options options = SLIM_SESSION_OPTIONS_INIT;
    struct talk talk;
    options.mls = 1;
    talk_begin(&talk, &options);
    talk_end(&talk);
}

/* The kernel forgets a thread a moment after it was joined. */
static int threads_become(int wanted)
{
    int64_t end = now_ms() + PATIENCE;
    while (threads() != wanted && now_ms() < end)
        sched_yield();
    return threads() == wanted;
}

/* Does one kind of cycle so often, after a quarter of it that may leave what is kept for later. */
static void no_growth(const char *what, int times, void (*cycle)(struct talk *, int),
                      struct talk *talk)
{
    long before, after, kept, keeps;
    int fds, tasks;

    for (int i = 0; i < times / 4; i++)
        cycle(talk, i);
    if (talk)
        OK(slim_node_stats(talk->node, NULL, 0, NULL));
    fds = descriptors();
    tasks = threads();
    before = resident_kib();
    kept = allocated_kib();
    for (int i = 0; i < times; i++)
        cycle(talk, i);
    /* The node's thread answers when it has forgotten the last one. */
    if (talk)
        OK(slim_node_stats(talk->node, NULL, 0, NULL));
    after = resident_kib();
    keeps = allocated_kib();
    if ((times >= 1000 && (after - before > 2048 || keeps - kept > 256)) ||
        descriptors() != fds || !threads_become(tasks)) {
        fprintf(stderr,
                "%d %s: %ld KiB became %ld, %ld allocated %ld, %d descriptors %d, %d threads %d\n",
                times, what, before, after, kept, keeps, fds, descriptors(), tasks, threads());
        _exit(1);
    }
}

static void a_session(struct talk *talk, int number)
{
    cycle_session(talk, number % 2, number % 4 < 2);
}

static void an_app(struct talk *talk, int number)
{
    (void)number;
    cycle_app(talk);
}

static void a_node(struct talk *talk, int number)
{
    (void)talk, (void)number;
    cycle_node();
}

static void an_encrypting_node(struct talk *talk, int number)
{
    (void)talk, (void)number;
    cycle_encryption();
}

static void growth(int sessions, int apps, int nodes)
{
    int fds = descriptors(), tasks = threads();
    struct talk talk;

    talk_begin(&talk, NULL);
    no_growth("sessions", sessions, a_session, &talk);
    no_growth("apps", apps, an_app, &talk);
    talk_end(&talk);
    CHECK(descriptors() == fds && threads_become(tasks));
    no_growth("nodes", nodes, a_node, NULL);
    no_growth("nodes that encrypt", nodes, an_encrypting_node, NULL);
    CHECK(descriptors() == fds && threads_become(tasks));
}

int main(void)
{
    int order[KINDS] = {NODE, APP, SESSION, MESSAGE, OP, PARTICIPANTS};
    int soak = getenv("SLIM_SOAK") != NULL;
    CHECK(permute(order, 0) == 720);
    wake("close");
    wake("peer");
    wake("stop");
    wake("free");
    wake_all("apps");
    wake_all("stop");
    wake_all("free");
    times();
    if (soak)
        growth(10000, 10000, 10000);
    else if (on_valgrind())
        growth(40, 40, 4);
    else
        growth(200, 1000, 40);
    return 0;
}
