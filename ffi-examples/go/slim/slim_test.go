package slim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const secret = "a secret for tests, 32 bytes or more"

func within(t testing.TB, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func listening(t testing.TB) string {
	node, err := NewNode("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Close)
	port, err := node.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("http://127.0.0.1:%d", port)
}

func connected(t testing.TB, endpoint, name string) *App {
	node, err := NewNode("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Close)
	app, err := node.NewApp(name, secret)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(app.Close)
	if _, err := app.Connect(within(t, 30*time.Second), endpoint); err != nil {
		t.Fatal(err)
	}
	return app
}

func pair(t testing.TB, options SessionOptions) (near, far *Session) {
	endpoint := listening(t)
	alice, bob := connected(t, endpoint, "org/test/alice"), connected(t, endpoint, "org/test/bob")
	near, err := bob.Open(within(t, 30*time.Second), "org/test/alice", options)
	if err != nil {
		t.Fatal(err)
	}
	if far, err = alice.Accept(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(near.abandon)
	t.Cleanup(far.abandon)
	return near, far
}

func TestConversation(t *testing.T) {
	near, far := pair(t, SessionOptions{Metadata: map[string]string{"topic": "tests"}})
	ctx := within(t, 30*time.Second)
	if far.Metadata()["topic"] != "tests" || near.ID() != far.ID() {
		t.Fatal(far.Metadata(), near.ID(), far.ID())
	}
	options := PublishOptions{PayloadType: "text/plain", Metadata: map[string]string{"k": "v"}}
	if err := near.Publish(ctx, []byte("a\x00b"), options); err != nil {
		t.Fatal(err)
	}
	if err := near.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	got, err := far.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Data) != "a\x00b" || got.PayloadType != "text/plain" || got.Metadata["k"] != "v" ||
		got.Source != near.app.Name() || !strings.HasSuffix(got.Source, "/"+near.app.ID()) {
		t.Fatalf("%+v", got)
	}
	if err := far.PublishTo(ctx, got, nil, PublishOptions{}); err != nil {
		t.Fatal(err)
	}
	if answer, err := near.Receive(ctx); err != nil || len(answer.Data) != 0 {
		t.Fatal(answer, err)
	}
	if err := near.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Receive(ctx); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if _, err := near.Receive(ctx); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestEpoch(t *testing.T) {
	for _, mls := range []bool{false, true} {
		wanted := int64(-1)
		if mls {
			wanted = 1
		}
		near, far := pair(t, SessionOptions{MLS: mls})
		for _, session := range []*Session{near, far} {
			if epoch, err := session.Epoch(); epoch != wanted || err != nil || session.MLS() != mls {
				t.Fatal(epoch, err, session.MLS())
			}
		}
	}
}

func TestGroup(t *testing.T) {
	endpoint, ctx := listening(t), within(t, 60*time.Second)
	moderator, alice := connected(t, endpoint, "org/test/moderator"), connected(t, endpoint, "org/test/alice")
	bob := connected(t, endpoint, "org/test/bob")
	if err := bob.SetDirection(ReceiveOnly); err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	group, err := moderator.Open(ctx, "org/test/chat", SessionOptions{Group: true, Events: true})
	must(err)
	defer group.abandon()
	must(group.Invite(ctx, "org/test/alice"))
	op, err := group.InviteStart("org/test/bob")
	must(err)
	must(op.Wait(ctx))
	op.Close()
	alices, err := alice.Accept(ctx)
	must(err)
	defer alices.abandon()
	bobs, err := bob.Accept(ctx)
	must(err)
	defer bobs.abandon()
	if !alices.Group() || alices.Initiator() || !group.Initiator() || alices.Destination() != "org/test/chat" {
		t.Fatal(alices.Group(), alices.Initiator(), alices.Destination())
	}
	expect := func(s *Session, kind Kind, source *App, text string) *Message {
		t.Helper()
		got, err := s.Receive(ctx)
		must(err)
		if got.Kind != kind || got.Source != source.Name() || string(got.Data) != text {
			t.Fatalf("%+v", got)
		}
		return got
	}
	op, err = group.PublishStart([]byte("to all"), PublishOptions{})
	must(err)
	must(op.Wait(ctx))
	op.Close()
	expect(bobs, KindMessage, moderator, "to all")
	must(alices.PublishTo(ctx, expect(alices, KindMessage, moderator, "to all"), []byte("to you"), PublishOptions{}))
	if !expect(group, KindMessage, alice, "to you").IsReply {
		t.Fatal("no reply")
	}
	must(bobs.Publish(ctx, []byte("x"), PublishOptions{}))
	if err := bobs.Flush(ctx); !errors.Is(err, ErrNotAllowed) {
		t.Fatal(err)
	}
	must(alices.SetEvents(true))
	must(alices.Suspend(ctx))
	expect(group, KindPeerOffline, alice, "")
	found, err := group.Participants(ctx)
	must(err)
	online := map[string]bool{}
	for _, one := range found {
		online[one.Name] = one.Online
	}
	if len(found) != 3 || found[0].Name != moderator.Name() || online[alice.Name()] || !online[bob.Name()] {
		t.Fatal(found)
	}
	must(alices.Rejoin(ctx))
	expect(group, KindPeerOnline, alice, "")
	must(group.Remove(ctx, "org/test/bob"))
	expect(alices, KindPeerLeft, bob, "")
	if _, err := bobs.Receive(ctx); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if err := group.Invite(ctx, alice.Name()); !errors.Is(err, ErrExists) {
		t.Fatal(err)
	}
	if _, err := alices.RemoveStart(moderator.Name()); !errors.Is(err, ErrNotAllowed) {
		t.Fatal(err)
	}
	must(group.Close(ctx))
	if got, err := alices.Receive(ctx); err != nil || got.Kind != KindSessionClosed {
		t.Fatal(got, err)
	}
}

func TestAnycast(t *testing.T) {
	endpoint, ctx := listening(t), within(t, 60*time.Second)
	receivers := []*App{connected(t, endpoint, "org/test/alice"), connected(t, endpoint, "org/test/alice")}
	session, err := connected(t, endpoint, "org/test/bob").Open(ctx, "org/test/alice", SessionOptions{Anycast: true})
	if err != nil {
		t.Fatal(err)
	}
	defer session.abandon()
	for i := 0; i < 2; i++ {
		if err := session.Publish(ctx, []byte("x"), PublishOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, app := range receivers {
		far, err := app.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer far.abandon()
		if got, err := far.Receive(ctx); err != nil || string(got.Data) != "x" {
			t.Fatal(got, err)
		}
	}
}

func TestErrors(t *testing.T) {
	node, err := NewNode("")
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	var detail *Error
	_, err = node.NewApp("no/name", secret)
	if !errors.Is(err, ErrInvalidName) || !errors.As(err, &detail) || !strings.Contains(detail.Text, "no/name") {
		t.Fatal(err)
	}
	if _, err = node.NewApp("org/test/x", "short"); !errors.Is(err, ErrAuth) {
		t.Fatal(err)
	}
	if _, err = NewNode(`{"node_idd": "x"}`); !errors.Is(err, ErrInvalidConfig) {
		t.Fatal(err)
	}
	if !errors.Is(&Error{"", ErrTimeout, ""}, os.ErrDeadlineExceeded) || errors.Is(ErrClosed, os.ErrDeadlineExceeded) {
		t.Fatal("only a timeout is a deadline that passed")
	}
}

func TestCancel(t *testing.T) {
	_, far := pair(t, SessionOptions{BestEffort: true})
	var late []time.Duration
	for i := 0; i < 20; i++ {
		ctx, cancel := context.WithCancel(context.Background())
		cancelled := make(chan time.Time, 1)
		time.AfterFunc(time.Millisecond, func() { cancelled <- time.Now(); cancel() })
		if _, err := far.Receive(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		late = append(late, time.Since(<-cancelled))
		ctx, cancel = context.WithTimeout(context.Background(), time.Millisecond)
		if _, err := far.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		deadline, _ := ctx.Deadline()
		late = append(late, time.Since(deadline))
		cancel()
	}
	// 08 part 7 item 21: within 50 ms; single ones may wait for a busy machine.
	sort.Slice(late, func(i, j int) bool { return late[i] < late[j] })
	if late[len(late)/2] > 50*time.Millisecond {
		t.Fatal(late)
	}
}

func TestDescriptorsAreNotInherited(t *testing.T) {
	_, far := pair(t, SessionOptions{})
	flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, far.ready.file.Fd(), syscall.F_GETFD, 0)
	if errno != 0 || flags&syscall.FD_CLOEXEC == 0 {
		t.Fatal(flags, errno)
	}
}

func TestCloseEndsWaits(t *testing.T) {
	near, far := pair(t, SessionOptions{})
	ended := make(chan error)
	for i := 0; i < 4; i++ {
		go func() {
			_, err := far.Receive(context.Background())
			ended <- err
		}()
	}
	if err := far.Close(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 4; i++ {
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Fatal(err)
		}
	}
	near.app.node.Close()
	if _, err := near.Receive(context.Background()); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

// Goroutines that wait cost no thread: 08 part 7 item 21.
func TestWaitingCostsNoThreads(t *testing.T) {
	const count = 200
	endpoint := listening(t)
	bob := connected(t, endpoint, "org/test/bob")
	alice := connected(t, endpoint, "org/test/alice")
	ctx := within(t, 60*time.Second)
	var group sync.WaitGroup
	sessions := make([]*Session, count)
	for i := range sessions {
		var err error
		if sessions[i], err = bob.Open(ctx, "org/test/alice", SessionOptions{BestEffort: true}); err != nil {
			t.Fatal(err)
		}
		far, err := alice.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		group.Add(1)
		go func() {
			defer group.Done()
			if _, err := far.Receive(ctx); err != nil {
				t.Error(err)
			}
		}()
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err == nil && len(tasks) >= 20 {
		t.Errorf("%d threads for %d waits", len(tasks), count)
	}
	for _, session := range sessions {
		if err := session.Publish(ctx, []byte("x"), PublishOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	group.Wait()
}

// What nobody holds any more is freed in any order, messages included.
func TestFinalizers(t *testing.T) {
	endpoint := listening(t)
	for i := 0; i < 3; i++ {
		func() {
			node, err := NewNode("")
			if err != nil {
				t.Fatal(err)
			}
			app, err := node.NewApp("org/test/gone", secret)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := app.Connect(within(t, 30*time.Second), endpoint); err != nil {
				t.Fatal(err)
			}
		}()
		runtime.GC()
		runtime.GC()
	}
}

// TestMain is a node in a process of its own when a test has started it as one.
func TestMain(m *testing.M) {
	if os.Getenv("SLIM_TEST_NODE") == "" {
		os.Exit(m.Run())
	}
	node, err := NewNode("")
	if err != nil {
		panic(err)
	}
	port, err := node.Listen("127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(port)
	node.Wait(context.Background())
}

// A node whose peer does not answer takes two seconds to end. Other finalizers do not wait for it.
func TestFinalizersDoNotWait(t *testing.T) {
	peer := exec.Command(os.Args[0])
	peer.Env = append(os.Environ(), "SLIM_TEST_NODE=1")
	output, err := peer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
	defer peer.Wait()
	defer peer.Process.Kill()
	var port int
	if _, err := fmt.Fscan(output, &port); err != nil {
		t.Fatal(err)
	}
	func() {
		node, err := NewNode("")
		if err != nil {
			t.Fatal(err)
		}
		app, err := node.NewApp("org/test/gone", secret)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := app.Connect(within(t, 30*time.Second), fmt.Sprintf("http://127.0.0.1:%d", port)); err != nil {
			t.Fatal(err)
		}
		app.Close()
	}()
	if err := peer.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	runtime.GC()
	finalized := make(chan bool, 1)
	runtime.SetFinalizer(&struct{ filler [64]byte }{}, func(any) { finalized <- true })
	runtime.GC()
	<-finalized
	if took := time.Since(begun); took > time.Second {
		t.Fatal(took)
	}
}
