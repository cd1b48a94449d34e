package slim

/*
#include <slim.h>
*/
import "C"

import (
	"os"
	"runtime"
)

// Status is the number that a failing call returned. Each is an error of its own for errors.Is:
// errors.Is(err, slim.ErrClosed).
type Status int32

// What slim.h says of each of them.
const (
	ErrInvalidArgument = Status(C.SLIM_ERR_INVALID_ARGUMENT)
	ErrInvalidName     = Status(C.SLIM_ERR_INVALID_NAME)
	ErrInvalidConfig   = Status(C.SLIM_ERR_INVALID_CONFIG)
	ErrTimeout         = Status(C.SLIM_ERR_TIMEOUT)
	ErrClosed          = Status(C.SLIM_ERR_CLOSED)
	ErrNotFound        = Status(C.SLIM_ERR_NOT_FOUND)
	ErrExists          = Status(C.SLIM_ERR_EXISTS)
	ErrNotAllowed      = Status(C.SLIM_ERR_NOT_ALLOWED)
	ErrTooLarge        = Status(C.SLIM_ERR_TOO_LARGE)
	ErrLimit           = Status(C.SLIM_ERR_LIMIT)
	ErrConnect         = Status(C.SLIM_ERR_CONNECT)
	ErrTLS             = Status(C.SLIM_ERR_TLS)
	ErrAuth            = Status(C.SLIM_ERR_AUTH)
	ErrProtocol        = Status(C.SLIM_ERR_PROTOCOL)
	ErrMLS             = Status(C.SLIM_ERR_MLS)
	ErrNoRoute         = Status(C.SLIM_ERR_NO_ROUTE)
	ErrUndelivered     = Status(C.SLIM_ERR_UNDELIVERED)
	ErrIO              = Status(C.SLIM_ERR_IO)
	ErrUnsupported     = Status(C.SLIM_ERR_UNSUPPORTED)
	ErrForked          = Status(C.SLIM_ERR_FORKED)
	ErrInternal        = Status(C.SLIM_ERR_INTERNAL)
)

// Error gives the status its name in slim.h.
func (s Status) Error() string { return C.GoString(C.slim_status_name(C.int32_t(s))) }

// Is makes ErrTimeout an os.ErrDeadlineExceeded, too.
func (s Status) Is(target error) bool {
	return s == target || s == ErrTimeout && target == os.ErrDeadlineExceeded
}

// Error is what went wrong in a call.
type Error struct {
	Op     string // the call
	Status Status
	Text   string // what slim_last_error() said
}

func (e *Error) Error() string { return e.Op + ": " + e.Text + " (" + e.Status.Error() + ")" }

// Unwrap gives the status.
func (e *Error) Unwrap() error { return e.Status }

// call makes a call and, when it fails, fetches its text: on the same OS thread, to which the
// text belongs.
func call(op string, f func() C.slim_status) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if status := f(); status != C.SLIM_OK {
		return &Error{op, Status(status), C.GoString(C.slim_last_error())}
	}
	return nil
}
