/* server.c - a node.   server [-s|--slim ADDRESS|JSON] */
#define _GNU_SOURCE /* getopt_long */
#include "common.h"

#include <getopt.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    static const struct option known[] = {
        {"slim", required_argument, NULL, 's'},
        {"enable-opentelemetry", no_argument, NULL, 't'},
        {NULL, 0, NULL, 0},
    };
    const char *server = from_environment("SLIM_SLIM");
    slim_node *node = NULL;
    slim_status st;
    uint16_t port = 0;
    int which;

    while ((which = getopt_long(argc, argv, "s:t", known, NULL)) != -1) {
        if (which == 's')
            server = optarg;
        else if (which == 't')
            refuse("--enable-opentelemetry");
        else
            return 2;
    }
    if ((st = slim_node_new(NULL, &node)))
        return failed("slim_node_new", st);
    stop_on_signal(node);
    if ((st = slim_node_listen(node, server ? server : "127.0.0.1:46357", &port)))
        return failed(server ? server : "127.0.0.1:46357", st);
    fprintf(stderr, "listening on port %u\n", port);
    if ((st = slim_node_wait(node, SLIM_WAIT_FOREVER)))
        return failed("slim_node_wait", st);
    puts("\nShutting down...");
    stop_on_signal(NULL);
    slim_node_free(node);
    return 0;
}
