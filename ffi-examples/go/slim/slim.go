// Package slim is messaging over SLIM: named apps that talk in sessions, through a node.
//
// Node, App and Session hold handles of libslim. Close frees them; so does the collector, in any
// order. All methods may be called from several goroutines at once. A context's end ends a wait
// in Receive and Accept at once; other calls take its deadline. What the library itself has to
// log goes to standard error where the environment variable SLIM_LOG names a level.
package slim

/*
#cgo pkg-config: slim
#include <stdlib.h>
#include <slim.h>
#if SLIM_VERSION_NUMBER < SLIM_VERSION_BITS(0, 1, 0)
#error "this package needs libslim 0.1.0"
#endif
*/
import "C"

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"
	"unsafe"
)

func init() {
	// Major and minor: before 1.0 a minor release may change the interface.
	if uint32(C.slim_version_number())>>8 != C.SLIM_VERSION_NUMBER>>8 {
		panic(fmt.Sprintf("libslim %s is loaded, this program was built for %s",
			C.GoString(C.slim_version()), C.SLIM_VERSION))
	}
}

// text copies a string for C; "" becomes NULL.
func text(s string) *C.char {
	if s == "" {
		return nil
	}
	return C.CString(s)
}

func free(strings ...*C.char) {
	for _, s := range strings {
		C.free(unsafe.Pointer(s))
	}
}

// A Node is a SLIM data plane in this process: it connects to other nodes, listens, or both.
type Node struct {
	handle
	c *C.slim_node
}

// NewNode makes a node. The configuration is JSON ("Node" in slim-config.md), or "".
func NewNode(config string) (*Node, error) {
	c := text(config)
	defer free(c)
	n := &Node{}
	if err := call("slim_node_new", func() C.slim_status { return C.slim_node_new(c, &n.c) }); err != nil {
		return nil, err
	}
	pointer := n.c
	n.free = func() { C.slim_node_free(pointer) }
	// Saying goodbye takes its time, and there is one goroutine for all finalizers.
	runtime.SetFinalizer(n, func(n *Node) { go n.Close() })
	return n, nil
}

// Listen listens at an address, or as a server object in JSON says; it gives the port.
func (n *Node) Listen(server string) (int, error) {
	c := C.CString(server)
	defer free(c)
	var port C.uint16_t
	err := n.use("slim_node_listen", func() error {
		return call("slim_node_listen", func() C.slim_status { return C.slim_node_listen(n.c, c, &port) })
	})
	return int(port), err
}

// Stop asks the node to stop and returns at once.
func (n *Node) Stop() {
	n.use("slim_node_stop", func() error { C.slim_node_stop(n.c); return nil })
}

// Wait waits until the node has stopped.
func (n *Node) Wait(ctx context.Context) error {
	return n.use("slim_node_wait", func() error {
		return call("slim_node_wait", func() C.slim_status { return C.slim_node_wait(n.c, timeoutOf(ctx)) })
	})
}

// Close stops the node, waits until its peers know (two seconds at most), and frees it. What waits on
// its apps and sessions ends with ErrClosed.
func (n *Node) Close() {
	runtime.SetFinalizer(n, nil)
	n.Stop()
	// Another goroutine may be the last to use it, and the program end before that frees it.
	_ = n.Wait(context.Background())
	n.release()
}

// An App is a named participant on a node.
type App struct {
	handle
	c     *C.slim_app
	node  *Node
	name  string
	ready *poller
}

// NewApp makes an app called "organization/namespace/service" whose identity is a secret.
func (n *Node) NewApp(name, secret string) (*App, error) {
	cName, cSecret := C.CString(name), C.CString(secret)
	defer free(cName, cSecret)
	a := &App{node: n}
	err := n.use("slim_app_new_with_secret", func() error {
		return call("slim_app_new_with_secret", func() C.slim_status {
			return C.slim_app_new_with_secret(n.c, cName, cSecret, &a.c)
		})
	})
	if err != nil {
		return nil, err
	}
	a.name = C.GoString(C.slim_app_name(a.c))
	if a.ready, err = newPoller(C.slim_app_fd(a.c)); err != nil {
		C.slim_app_free(a.c)
		return nil, err
	}
	pointer := a.c
	a.free = func() { C.slim_app_free(pointer) }
	runtime.SetFinalizer(a, (*App).Close)
	return a, nil
}

// Name is the full name, "organization/namespace/service/ID".
func (a *App) Name() string { return a.name }

// ID is the last part of the name.
func (a *App) ID() string { return a.name[strings.LastIndexByte(a.name, '/')+1:] }

// Connect connects the node and subscribes to the app's name; it gives the connection's number.
// The client is an endpoint or a client object in JSON.
func (a *App) Connect(ctx context.Context, client string) (uint64, error) {
	c := C.CString(client)
	defer free(c)
	var connection C.uint64_t
	err := a.use("slim_app_connect", func() error {
		return call("slim_app_connect", func() C.slim_status {
			return C.slim_app_connect(a.c, c, timeoutOf(ctx), &connection)
		})
	})
	return uint64(connection), err
}

// Subscribe asks for messages to a name over a connection.
func (a *App) Subscribe(ctx context.Context, name string, connection uint64) error {
	c := C.CString(name)
	defer free(c)
	return a.use("slim_app_subscribe", func() error {
		return call("slim_app_subscribe", func() C.slim_status {
			return C.slim_app_subscribe(a.c, c, C.uint64_t(connection), timeoutOf(ctx))
		})
	})
}

// SetRoute sends what is meant for a name over a connection; needed with several, and where there
// is no default gateway.
func (a *App) SetRoute(name string, connection uint64) error {
	c := C.CString(name)
	defer free(c)
	return a.use("slim_app_set_route", func() error {
		return call("slim_app_set_route", func() C.slim_status {
			return C.slim_app_set_route(a.c, c, C.uint64_t(connection))
		})
	})
}

// Accept waits for a session that somebody else opened.
func (a *App) Accept(ctx context.Context) (*Session, error) {
	s := &Session{app: a}
	err := a.use("slim_app_accept", func() error {
		return a.ready.wait(ctx, func() error {
			return call("slim_app_accept", func() C.slim_status { return C.slim_app_accept(a.c, 0, &s.c) })
		})
	})
	if err != nil {
		return nil, err
	}
	return s.begin()
}

// A Direction says which way data goes at one side of a session.
type Direction int32

// Both ways; or this side only publishes, only receives, or only takes part.
const (
	Both Direction = iota
	SendOnly
	ReceiveOnly
	Neither
)

// SetDirection says which way data goes in sessions that others open from now on.
func (a *App) SetDirection(direction Direction) error {
	return a.use("slim_app_set_direction", func() error {
		return call("slim_app_set_direction", func() C.slim_status {
			return C.slim_app_set_direction(a.c, C.int32_t(direction))
		})
	})
}

// SessionOptions say how to open a session; the zero value is a reliable one with one app.
type SessionOptions struct {
	Group         bool              // with everybody who is invited; the destination is its name
	Anycast       bool              // each message to any instance of the app, found anew
	BestEffort    bool              // no acknowledgements, nothing sent again
	Direction     Direction         // which way data goes at this side
	Events        bool              // Receive gives events, too
	MLS           bool              // encrypted end to end
	HeaderCheck   int               // with MLS, percent of headers checked; 0: all, negative: none
	MaxRetries    int               // 0: the default of 10; negative: never
	RetryInterval time.Duration     // 0: the default of 1 s
	Metadata      map[string]string // what the peer sees with the session
}

// Open opens a session to an app and waits until it has joined. A group is there at once, with
// nobody else in it.
func (a *App) Open(ctx context.Context, destination string, options SessionOptions) (*Session, error) {
	c := C.CString(destination)
	defer free(c)
	o := (*C.slim_session_options)(C.calloc(1, C.sizeof_slim_session_options))
	defer C.free(unsafe.Pointer(o))
	o.size = C.sizeof_slim_session_options
	o.kind = C.SLIM_SESSION_POINT_TO_POINT
	if options.Group {
		o.kind = C.SLIM_SESSION_GROUP
	}
	if options.BestEffort {
		o.delivery = 1
	}
	if options.Anycast {
		o.addressing = 1
	}
	o.direction = C.int32_t(options.Direction)
	if options.Events {
		o.events = 1
	}
	if options.MLS {
		o.mls = 1
	}
	o.mls_header_check = C.int32_t(options.HeaderCheck)
	if options.HeaderCheck < 0 {
		o.mls_header_check = -1
	}
	o.max_retries = C.int32_t(options.MaxRetries)
	if options.MaxRetries < 0 {
		o.max_retries = -1
	}
	o.retry_interval_ms = C.uint32_t(options.RetryInterval / time.Millisecond)
	metadata := newPairs(options.Metadata)
	defer metadata.free()
	o.metadata, o.metadata_len = metadata.first, metadata.count
	s := &Session{app: a}
	err := a.use("slim_session_open", func() error {
		return call("slim_session_open", func() C.slim_status {
			return C.slim_session_open(a.c, o, c, timeoutOf(ctx), &s.c)
		})
	})
	if err != nil {
		return nil, err
	}
	return s.begin()
}

// Close closes the app's sessions without waiting for their peers, and frees it.
func (a *App) Close() {
	runtime.SetFinalizer(a, nil)
	a.ready.file.Close()
	a.release()
}

// pairs is metadata in C's memory.
type pairs struct {
	first *C.slim_pair
	count C.size_t
}

func newPairs(metadata map[string]string) pairs {
	if len(metadata) == 0 {
		return pairs{}
	}
	p := pairs{(*C.slim_pair)(C.calloc(C.size_t(len(metadata)), C.sizeof_slim_pair)), 0}
	all := unsafe.Slice(p.first, len(metadata))
	for key, value := range metadata {
		all[p.count] = C.slim_pair{C.CString(key), C.CString(value)}
		p.count++
	}
	return p
}

func (p pairs) free() {
	for _, pair := range unsafe.Slice(p.first, p.count) {
		free(pair.key, pair.value)
	}
	C.free(unsafe.Pointer(p.first))
}

// copied gives pairs that belong to the library as a map.
func copied(first *C.slim_pair, count C.size_t) map[string]string {
	metadata := make(map[string]string, count)
	for _, pair := range unsafe.Slice(first, count) {
		metadata[C.GoString(pair.key)] = C.GoString(pair.value)
	}
	return metadata
}
