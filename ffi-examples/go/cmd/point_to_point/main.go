// Command point_to_point sends a message some times and prints the replies, or receives and
// replies.
//
//	point_to_point --local org/ns/alice --shared-secret S                          receives
//	point_to_point --local org/ns/bob --remote org/ns/alice --message hello \
//	               --iterations 3 --sticky --shared-secret S                       sends
//
// --slim names the node (a URL or JSON); every option can be an environment variable, too.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"libslim.example/ffi-examples/go/internal/common"
	"libslim.example/ffi-examples/go/slim"
)

const (
	retries       = 5
	retryInterval = 5 * time.Second
	// A reply may take as long as all tries of a message.
	reply = (retries + 1) * retryInterval
)

func main() {
	options := common.ReadOptions()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, options)
	if ctx.Err() != nil {
		fmt.Println("Client interrupted by user.")
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, options common.Options) error {
	node, err := slim.NewNode("")
	if err != nil {
		return err
	}
	defer node.Close()
	// Ctrl-C ends what waits in the library, too.
	go func() {
		<-ctx.Done()
		node.Stop()
	}()
	limited, cancel := context.WithTimeout(ctx, reply)
	defer cancel()
	app, connection, err := common.CreateLocalApp(limited, node, options)
	if err != nil {
		return err
	}
	defer app.Close()
	if options.Message == nil {
		return receive(ctx, app, options.Local)
	}
	if options.Remote == "" {
		return errors.New("Remote ID must be provided when message is specified.")
	}
	return send(ctx, app, connection, options)
}

// checkName ends the program if a message is not for this app.
func checkName(message *slim.Message, local string) {
	if message.Destination != local && !strings.HasPrefix(message.Destination, local+"/") {
		fmt.Printf("received message with wrong name, exit. local %s, dst %s\n", local, message.Destination)
		os.Exit(1)
	}
}

// receive takes sessions for ever and serves each in a goroutine of its own.
func receive(ctx context.Context, app *slim.App, local string) error {
	for {
		common.Say(app.ID(), "waiting for new session to be established")
		session, err := app.Accept(ctx)
		if err != nil {
			return err
		}
		common.Say(app.ID()+" received a new session:", "%d", session.ID())
		go func() {
			if err := serve(ctx, app, session, local); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "Error:", err)
			}
		}()
	}
}

// serve replies to everything that comes in one session.
func serve(ctx context.Context, app *slim.App, session *slim.Session, local string) error {
	for {
		message, err := session.Receive(ctx)
		if errors.Is(err, slim.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		checkName(message, local)
		common.Say(app.ID(), "received (from session %d): %s", session.ID(), message.Data)
		answer := fmt.Sprintf("%s from %s", message.Data, app.ID())
		limited, cancel := context.WithTimeout(ctx, reply)
		err = session.PublishTo(limited, message, []byte(answer), slim.PublishOptions{})
		cancel()
		if err != nil {
			return err
		}
		common.Say(app.ID(), "replies: %s", answer)
	}
}

// send sends the message, waits for the reply, and again.
func send(ctx context.Context, app *slim.App, connection uint64, o common.Options) error {
	how := slim.SessionOptions{MLS: o.EnableMLS, MaxRetries: retries, RetryInterval: retryInterval}
	if !o.Sticky && !o.EnableMLS {
		// Each message goes to any instance, once.
		how = slim.SessionOptions{BestEffort: true, Anycast: true}
	}
	if err := app.SetRoute(o.Remote, connection); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, reply)
	defer cancel()
	session, err := app.Open(limited, o.Remote, how)
	if err != nil {
		return err
	}
	for i := 0; i < o.Iterations && ctx.Err() == nil; i++ {
		if err := ask(ctx, app, session, o, i); err != nil && ctx.Err() == nil {
			fmt.Println("received error: ", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	limited, cancel = context.WithTimeout(ctx, reply)
	defer cancel()
	if err := session.Close(limited); err != nil && !errors.Is(err, slim.ErrClosed) {
		return err
	}
	return nil
}

// ask sends one message and prints its reply.
func ask(ctx context.Context, app *slim.App, session *slim.Session, o common.Options, i int) error {
	limited, cancel := context.WithTimeout(ctx, reply+retryInterval)
	defer cancel()
	if err := session.Publish(limited, []byte(*o.Message), slim.PublishOptions{}); err != nil {
		return err
	}
	common.Say(app.ID(), "Sent message %s - %d/%d:", *o.Message, i+1, o.Iterations)
	if err := session.Flush(limited); err != nil {
		return err
	}
	limited, cancel = context.WithTimeout(ctx, reply)
	defer cancel()
	message, err := session.Receive(limited)
	if err != nil {
		return err
	}
	checkName(message, o.Local)
	common.Say(app.ID(), "received (from session %d): %s", session.ID(), message.Data)
	return nil
}
