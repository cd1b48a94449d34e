package slim

/*
#include <stdlib.h>
#include <slim.h>
*/
import "C"

import (
	"context"
	"runtime"
	"unsafe"
)

// A Session is a conversation, with one app or with the members of a group.
type Session struct {
	handle
	c           *C.slim_session
	app         *App
	ready       *poller
	id          uint32
	group       bool
	initiator   bool
	mls         bool
	destination string
	metadata    map[string]string
}

// begin completes a session that the library has just given.
func (s *Session) begin() (*Session, error) {
	fields := C.slim_session_fields{size: C.sizeof_slim_session_fields}
	err := call("slim_session_view", func() C.slim_status { return C.slim_session_view(s.c, &fields) })
	if err == nil {
		s.ready, err = newPoller(C.slim_session_fd(s.c))
	}
	if err != nil {
		C.slim_session_free(s.c)
		return nil, err
	}
	s.id, s.destination = uint32(fields.id), C.GoString(fields.destination)
	s.group, s.initiator = fields.kind == C.SLIM_SESSION_GROUP, fields.initiator == 1
	s.mls = fields.mls == 1
	s.metadata = copied(fields.metadata, fields.metadata_len)
	pointer := s.c
	s.free = func() { C.slim_session_free(pointer) }
	runtime.SetFinalizer(s, (*Session).abandon)
	return s, nil
}

// ID is the session's number.
func (s *Session) ID() uint32 { return s.id }

// Group says whether it is one.
func (s *Session) Group() bool { return s.group }

// Initiator says whether this side opened it; of a group it is the moderator then.
func (s *Session) Initiator() bool { return s.initiator }

// MLS says whether it is encrypted end to end.
func (s *Session) MLS() bool { return s.mls }

// Epoch is how often the keys of an encrypted session have changed, -1 if it has none, or is one with
// any instance of a name.
func (s *Session) Epoch() (int64, error) {
	fields := C.slim_session_fields{size: C.sizeof_slim_session_fields}
	err := s.use("slim_session_view", func() error {
		return call("slim_session_view", func() C.slim_status { return C.slim_session_view(s.c, &fields) })
	})
	return int64(fields.epoch), err
}

// Destination is the peer's or the group's name.
func (s *Session) Destination() string { return s.destination }

// Metadata is what the session was opened with.
func (s *Session) Metadata() map[string]string { return s.metadata }

// A Kind says what came in a session.
type Kind int32

// A message, or an event of a session that asked for them.
const (
	KindMessage        Kind = C.SLIM_MESSAGE
	KindPeerOffline    Kind = C.SLIM_EVENT_PEER_OFFLINE
	KindPeerOnline     Kind = C.SLIM_EVENT_PEER_ONLINE
	KindPeerLeft       Kind = C.SLIM_EVENT_PEER_LEFT
	KindConnectionLost Kind = C.SLIM_EVENT_CONNECTION_LOST
	KindConnectionBack Kind = C.SLIM_EVENT_CONNECTION_BACK
	KindMessageLost    Kind = C.SLIM_EVENT_MESSAGE_LOST
	KindSessionClosed  Kind = C.SLIM_EVENT_SESSION_CLOSED
	KindEncryptionLost Kind = C.SLIM_EVENT_ENCRYPTION_LOST
)

// A Message is what came in a session: copies, and what a reply needs.
type Message struct {
	Kind        Kind // what it is; not a message only where events were asked for
	Data        []byte
	Source      string // full name of the sender
	Destination string // the name that it was sent to
	PayloadType string
	Identity    string // the sender's, proved by its keys; "" without MLS
	Metadata    map[string]string
	IsReply     bool // it was sent to this member of a group alone

	taken *taken
}

// taken is the library's own message.
type taken struct{ c *C.slim_message }

// PublishOptions say how to publish; the zero value is fine.
type PublishOptions struct {
	PayloadType string
	Metadata    map[string]string
}

// Publish hands a message over. It returns when it is in the send queue; see Flush.
func (s *Session) Publish(ctx context.Context, data []byte, options PublishOptions) error {
	return s.publish(ctx, nil, data, options)
}

// PublishTo publishes to the sender of a message only: a reply.
func (s *Session) PublishTo(ctx context.Context, to *Message, data []byte, options PublishOptions) error {
	return s.publish(ctx, to.taken, data, options)
}

func (s *Session) publish(ctx context.Context, to *taken, data []byte, options PublishOptions) error {
	o := options.forC()
	defer o.free()
	first := firstOf(data)
	err := s.use("slim_session_publish", func() error {
		return call("slim_session_publish", func() C.slim_status {
			if to != nil {
				return C.slim_session_publish_to(s.c, to.c, first, C.size_t(len(data)), o.c, timeoutOf(ctx))
			}
			return C.slim_session_publish(s.c, first, C.size_t(len(data)), o.c, timeoutOf(ctx))
		})
	})
	runtime.KeepAlive(to)
	return err
}

// PublishStart publishes without waiting: the operation ends when every receiver that could be
// reached has acknowledged the message; best effort, as soon as it is sent. ErrLimit: the send queue
// is full.
func (s *Session) PublishStart(data []byte, options PublishOptions) (*Op, error) {
	o := options.forC()
	defer o.free()
	first := firstOf(data)
	return s.start("slim_session_publish_start", func(op **C.slim_op) C.slim_status {
		return C.slim_session_publish_start(s.c, nil, first, C.size_t(len(data)), o.c, op)
	})
}

func firstOf(data []byte) unsafe.Pointer {
	if len(data) == 0 {
		return nil
	}
	return unsafe.Pointer(&data[0])
}

// publishOptions are in C's memory.
type publishOptions struct {
	c        *C.slim_publish_options
	metadata pairs
}

func (o PublishOptions) forC() publishOptions {
	c := (*C.slim_publish_options)(C.calloc(1, C.sizeof_slim_publish_options))
	c.size = C.sizeof_slim_publish_options
	c.payload_type = text(o.PayloadType)
	metadata := newPairs(o.Metadata)
	c.metadata, c.metadata_len = metadata.first, metadata.count
	return publishOptions{c, metadata}
}

func (o publishOptions) free() {
	free(o.c.payload_type)
	o.metadata.free()
	C.free(unsafe.Pointer(o.c))
}

// Flush waits until all that was published is acknowledged (best effort: sent); else the error is
// ErrUndelivered.
func (s *Session) Flush(ctx context.Context) error {
	return s.use("slim_session_flush", func() error {
		return call("slim_session_flush", func() C.slim_status { return C.slim_session_flush(s.c, timeoutOf(ctx)) })
	})
}

// Receive waits for the next message.
func (s *Session) Receive(ctx context.Context) (*Message, error) {
	var c *C.slim_message
	err := s.use("slim_session_receive", func() error {
		return s.ready.wait(ctx, func() error {
			return call("slim_session_receive", func() C.slim_status { return C.slim_session_receive(s.c, 0, &c) })
		})
	})
	if err != nil {
		return nil, err
	}
	t := &taken{c}
	runtime.SetFinalizer(t, func(t *taken) { C.slim_message_free(t.c) })
	fields := C.slim_message_fields{size: C.sizeof_slim_message_fields}
	err = call("slim_message_view", func() C.slim_status { return C.slim_message_view(t.c, &fields) })
	if err != nil {
		return nil, err
	}
	return &Message{
		Kind:        Kind(fields.kind),
		Data:        C.GoBytes(fields.data, C.int(fields.data_len)),
		Source:      C.GoString(fields.source),
		Destination: C.GoString(fields.destination),
		PayloadType: C.GoString(fields.payload_type),
		Identity:    C.GoString(fields.identity),
		Metadata:    copied(fields.metadata, fields.metadata_len),
		IsReply:     fields.is_reply == 1,
		taken:       t,
	}, nil
}

// SetEvents says whether Receive gives events, too; for sessions that were accepted.
func (s *Session) SetEvents(events bool) error {
	wanted := C.int32_t(0)
	if events {
		wanted = 1
	}
	return s.use("slim_session_set_events", func() error {
		return call("slim_session_set_events", func() C.slim_status { return C.slim_session_set_events(s.c, wanted) })
	})
}

// Invite invites an app into the group and waits until it has joined and the others know. When the
// context's time is up, the invitation is taken back.
func (s *Session) Invite(ctx context.Context, name string) error {
	c := C.CString(name)
	defer free(c)
	return s.use("slim_session_invite", func() error {
		return call("slim_session_invite", func() C.slim_status { return C.slim_session_invite(s.c, c, timeoutOf(ctx)) })
	})
}

// Remove removes a member from the group and waits until it and the others know.
func (s *Session) Remove(ctx context.Context, name string) error {
	c := C.CString(name)
	defer free(c)
	return s.use("slim_session_remove", func() error {
		return call("slim_session_remove", func() C.slim_status { return C.slim_session_remove(s.c, c, timeoutOf(ctx)) })
	})
}

// Suspend goes away from the group for a while and waits until the others know.
func (s *Session) Suspend(ctx context.Context) error {
	return s.use("slim_session_suspend", func() error {
		return call("slim_session_suspend", func() C.slim_status { return C.slim_session_suspend(s.c, timeoutOf(ctx)) })
	})
}

// Rejoin comes back after Suspend.
func (s *Session) Rejoin(ctx context.Context) error {
	return s.use("slim_session_rejoin", func() error {
		return call("slim_session_rejoin", func() C.slim_status { return C.slim_session_rejoin(s.c, timeoutOf(ctx)) })
	})
}

// An Op is something that was started. It goes on when it is closed.
type Op struct {
	handle
	c *C.slim_op
}

// InviteStart invites without waiting: the operation ends when Invite would have.
func (s *Session) InviteStart(name string) (*Op, error) {
	c := C.CString(name)
	defer free(c)
	return s.start("slim_session_invite_start", func(op **C.slim_op) C.slim_status {
		return C.slim_session_invite_start(s.c, c, op)
	})
}

// RemoveStart removes without waiting: the operation ends when Remove would have.
func (s *Session) RemoveStart(name string) (*Op, error) {
	c := C.CString(name)
	defer free(c)
	return s.start("slim_session_remove_start", func(op **C.slim_op) C.slim_status {
		return C.slim_session_remove_start(s.c, c, op)
	})
}

func (s *Session) start(op string, begin func(**C.slim_op) C.slim_status) (*Op, error) {
	o := &Op{}
	err := s.use(op, func() error { return call(op, func() C.slim_status { return begin(&o.c) }) })
	if err != nil {
		return nil, err
	}
	pointer := o.c
	o.free = func() { C.slim_op_free(pointer) }
	runtime.SetFinalizer(o, (*Op).Close)
	return o, nil
}

// Wait waits until the operation has ended, as long as the context's time allows, and says how.
func (o *Op) Wait(ctx context.Context) error {
	return o.use("slim_op_wait", func() error {
		return call("slim_op_wait", func() C.slim_status { return C.slim_op_wait(o.c, timeoutOf(ctx)) })
	})
}

// Close frees the operation.
func (o *Op) Close() {
	runtime.SetFinalizer(o, nil)
	o.release()
}

// A Participant is a member of a session.
type Participant struct {
	Name   string // full name
	Online bool   // it can be reached, as far as is known
}

// Participants gives who takes part, this side first.
func (s *Session) Participants(ctx context.Context) ([]Participant, error) {
	var list *C.slim_participants
	err := s.use("slim_session_participants", func() error {
		return call("slim_session_participants", func() C.slim_status {
			return C.slim_session_participants(s.c, timeoutOf(ctx), &list)
		})
	})
	if err != nil {
		return nil, err
	}
	defer C.slim_participants_free(list)
	found := make([]Participant, C.slim_participants_count(list))
	for at := range found {
		var online C.int32_t
		found[at].Name = C.GoString(C.slim_participants_at(list, C.size_t(at), &online))
		found[at].Online = online == 1
	}
	return found, nil
}

// Close ends the session, waits until the peer knows, as long as the context allows, and frees
// it. A group ends for all when its moderator does this; another member leaves it. Receive in other goroutines ends with ErrClosed.
func (s *Session) Close(ctx context.Context) error {
	err := s.use("slim_session_close", func() error {
		return call("slim_session_close", func() C.slim_status { return C.slim_session_close(s.c, timeoutOf(ctx)) })
	})
	s.abandon()
	return err
}

// abandon frees the session without waiting for the peer.
func (s *Session) abandon() {
	runtime.SetFinalizer(s, nil)
	s.ready.file.Close()
	s.release()
}
