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

// A Session is a conversation with one app.
type Session struct {
	handle
	c           *C.slim_session
	app         *App
	ready       *poller
	id          uint32
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
	s.metadata = copied(fields.metadata, fields.metadata_len)
	pointer := s.c
	s.free = func() { C.slim_session_free(pointer) }
	runtime.SetFinalizer(s, (*Session).abandon)
	return s, nil
}

// ID is the session's number.
func (s *Session) ID() uint32 { return s.id }

// Destination is the peer's name.
func (s *Session) Destination() string { return s.destination }

// Metadata is what the session was opened with.
func (s *Session) Metadata() map[string]string { return s.metadata }

// A Message is what came in a session: copies, and what a reply needs.
type Message struct {
	Data        []byte
	Source      string // full name of the sender
	Destination string // the name that it was sent to
	PayloadType string
	Identity    string // as the sender's token proved it
	Metadata    map[string]string

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
	o := (*C.slim_publish_options)(C.calloc(1, C.sizeof_slim_publish_options))
	defer C.free(unsafe.Pointer(o))
	o.size = C.sizeof_slim_publish_options
	o.payload_type = text(options.PayloadType)
	defer free(o.payload_type)
	metadata := newPairs(options.Metadata)
	defer metadata.free()
	o.metadata, o.metadata_len = metadata.first, metadata.count
	var first unsafe.Pointer
	if len(data) > 0 {
		first = unsafe.Pointer(&data[0])
	}
	err := s.use("slim_session_publish", func() error {
		return call("slim_session_publish", func() C.slim_status {
			if to != nil {
				return C.slim_session_publish_to(s.c, to.c, first, C.size_t(len(data)), o, timeoutOf(ctx))
			}
			return C.slim_session_publish(s.c, first, C.size_t(len(data)), o, timeoutOf(ctx))
		})
	})
	runtime.KeepAlive(to)
	return err
}

// Flush waits until all that was published is acknowledged; else the error is ErrUndelivered.
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
		Data:        C.GoBytes(fields.data, C.int(fields.data_len)),
		Source:      C.GoString(fields.source),
		Destination: C.GoString(fields.destination),
		PayloadType: C.GoString(fields.payload_type),
		Identity:    C.GoString(fields.identity),
		Metadata:    copied(fields.metadata, fields.metadata_len),
		taken:       t,
	}, nil
}

// Close ends the session, waits until the peer knows, as long as the context allows, and frees
// it. Receive in other goroutines ends with ErrClosed.
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
