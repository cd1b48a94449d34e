package slim

/*
#include <fcntl.h>
#include <slim.h>

// Programs that C starts meanwhile do not inherit the copy.
static int duplicate(int descriptor)
{
	return fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
}
*/
import "C"

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
)

// A handle frees itself when it was closed and the last call on it has returned: freeing must be
// the last thing that happens to a handle of the library.
type handle struct {
	mutex  sync.Mutex
	users  int
	closed bool
	free   func()
}

// use makes calls on the handle; when it is closed already it says so instead.
func (h *handle) use(op string, f func() error) error {
	h.mutex.Lock()
	if h.closed {
		h.mutex.Unlock()
		return &Error{op, ErrClosed, "it is closed"}
	}
	h.users++
	h.mutex.Unlock()
	collect()
	defer func() {
		h.mutex.Lock()
		h.users--
		last := h.closed && h.users == 0
		h.mutex.Unlock()
		if last {
			h.free()
		}
	}()
	return f()
}

// release is what Close and the finalizers do. Again it does nothing.
func (h *handle) release() {
	h.mutex.Lock()
	now := !h.closed && h.users == 0
	h.closed = true
	h.mutex.Unlock()
	if now {
		h.free()
	}
}

// A poller waits for a descriptor of the library in Go's own poller, so that a goroutine that
// waits costs no thread.
type poller struct {
	file *os.File
	raw  syscall.RawConn
	// One wait at a time: they share the deadline.
	turn chan struct{}
}

func newPoller(descriptor C.int32_t) (*poller, error) {
	if descriptor < 0 {
		return nil, Status(descriptor)
	}
	// A copy: the library's own stays its own.
	number, err := C.duplicate(C.int(descriptor))
	if number < 0 {
		return nil, err
	}
	copied := int(number)
	if err := syscall.SetNonblock(copied, true); err != nil {
		syscall.Close(copied)
		return nil, err
	}
	p := &poller{file: os.NewFile(uintptr(copied), "slim"), turn: make(chan struct{}, 1)}
	p.raw, err = p.file.SyscallConn()
	return p, err
}

// wait tries until take says something else than ErrTimeout, or the context is over.
func (p *poller) wait(ctx context.Context, take func() error) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := p.file.SetReadDeadline(time.Time{}); err != nil {
		return ErrClosed
	}
	over := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ctx.Done():
			p.file.SetReadDeadline(time.Unix(1, 0))
		case <-over:
		}
	}()
	defer func() { close(over); <-watched }()
	var result error
	err := p.raw.Read(func(uintptr) bool {
		result = take()
		return !errors.Is(result, ErrTimeout)
	})
	switch {
	case err == nil:
		return result
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return &Error{"wait", ErrClosed, "it was closed meanwhile"}
	}
}

// timeoutOf is the time that a context leaves, for a call that waits in C.
func timeoutOf(ctx context.Context) C.int32_t {
	deadline, limited := ctx.Deadline()
	if !limited {
		return C.SLIM_WAIT_FOREVER
	}
	left := time.Until(deadline)
	if left <= 0 {
		return 0
	}
	if left > 24*time.Hour {
		left = 24 * time.Hour
	}
	// Up, so that a short time does not become "do not wait".
	return C.int32_t((left + time.Millisecond - 1) / time.Millisecond)
}
