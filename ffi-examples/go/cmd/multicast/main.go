// Command multicast is a member of a group: its moderator, or somebody who was invited.
//
//	multicast --local org/ns/client-1 --shared-secret S                       waits to be invited
//	multicast --local org/ns/moderator --remote org/ns/chat \
//	          --invites org/ns/client-1 --invites org/ns/client-2 --shared-secret S
//
// What is typed is published to the group, but for a few words: "invite NAME" and "remove NAME", for
// the moderator, and "exit" or "quit", which leave the group (the moderator's ends it).
package main

import (
	"bufio"
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
	// Joining and leaving may take as long as all tries.
	patience = (retries + 1) * retryInterval
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
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	app, connection, err := common.CreateLocalApp(limited, node, options)
	if err != nil {
		return err
	}
	defer app.Close()
	m := &member{local: options.Local, told: make(chan string), atTerminal: common.AtTerminal()}
	if options.Remote != "" && len(options.Invites) > 0 {
		err = m.create(ctx, app, connection, options)
	} else {
		common.Say(m.local, "-> Waiting for session...")
		if m.session, err = app.Accept(ctx); err == nil {
			err = m.session.SetEvents(true)
		}
	}
	if err != nil {
		return err
	}
	if m.takePart(ctx) {
		return nil // the others have ended it
	}
	limited, cancel = context.WithTimeout(ctx, patience)
	defer cancel()
	if err := m.session.Close(limited); err != nil && !errors.Is(err, slim.ErrClosed) {
		return err
	}
	return nil
}

// member is this side of the group.
type member struct {
	local      string
	session    *slim.Session
	told       chan string // what goroutines have to say
	atTerminal bool
}

// tell prints, over the prompt.
func (m *member) tell(format string, arguments ...any) {
	if m.atTerminal {
		fmt.Print("\r")
	}
	common.Say(m.local, format, arguments...)
}

func (m *member) create(ctx context.Context, app *slim.App, connection uint64, o common.Options) error {
	common.Say(m.local, "Creating new multicast sessions...")
	how := slim.SessionOptions{
		Group: true, Events: true, MLS: o.EnableMLS,
		MaxRetries: retries, RetryInterval: retryInterval,
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var err error
	if m.session, err = app.Open(limited, o.Remote, how); err != nil {
		return err
	}
	for _, name := range o.Invites {
		if err := app.SetRoute(name, connection); err != nil {
			return err
		}
		fmt.Printf("%s -> add %s to the group\n", m.local, name)
		m.invite(name)
	}
	return nil
}

// start begins something; a goroutine waits for its end and says how it went.
func (m *member) start(op *slim.Op, err error, failure, success string) {
	if err != nil {
		m.tell("%s: %v", failure, err)
		return
	}
	go func() {
		defer op.Close()
		if err := op.Wait(context.Background()); err != nil {
			m.told <- fmt.Sprintf("%s: %v", failure, err)
		} else if success != "" {
			m.told <- success
		}
	}()
}

func (m *member) invite(name string) {
	op, err := m.session.InviteStart(name)
	m.start(op, err, "-> Error inviting "+name, "-> "+name+" has joined")
}

func (m *member) remove(name string) {
	op, err := m.session.RemoveStart(name)
	m.start(op, err, "-> Error removing "+name, "-> "+name+" was removed")
}

// obey does what was typed. False: that is all.
func (m *member) obey(line string) bool {
	words := strings.Fields(line)
	switch {
	case len(words) == 0:
	case len(words) == 1 && (strings.EqualFold(words[0], "exit") || strings.EqualFold(words[0], "quit")):
		return false
	case len(words) == 2 && words[0] == "invite":
		m.invite(words[1])
	case len(words) == 2 && words[0] == "remove":
		m.remove(words[1])
	default:
		op, err := m.session.PublishStart([]byte(line), slim.PublishOptions{})
		m.start(op, err, "-> Error sending message", "")
	}
	return true
}

// hear prints what the others say, and what happens to them. False: the group is over.
func (m *member) hear(message *slim.Message, err error) bool {
	switch {
	case err != nil:
		m.tell("-> Error receiving message: %v", err)
		return false
	case message.Kind == slim.KindMessage:
		m.tell("-> Received message from %d: %s", m.session.ID(), message.Data)
	case message.Kind == slim.KindPeerLeft:
		m.tell("-> %s has left", message.Source)
	case message.Kind == slim.KindPeerOffline:
		m.tell("-> %s does not answer", message.Source)
	case message.Kind == slim.KindPeerOnline:
		m.tell("-> %s is back", message.Source)
	case message.Kind == slim.KindEncryptionLost:
		m.tell("-> %s", message.Data)
	}
	return true
}

// received is what Receive gave.
type received struct {
	message *slim.Message
	err     error
}

// takePart listens to the others and to what is typed, until one of them ends it. True: the others.
func (m *member) takePart(ctx context.Context) bool {
	typed, heard := make(chan string), make(chan received)
	go func() {
		input := bufio.NewScanner(os.Stdin)
		for input.Scan() {
			typed <- input.Text()
		}
		// No more input, but the others may have something to say.
	}()
	go func() {
		for {
			message, err := m.session.Receive(ctx)
			heard <- received{message, err}
			if err != nil {
				return
			}
		}
	}()
	for {
		if m.atTerminal {
			fmt.Print("\x1b[1mmessage>\x1b[0m ")
		}
		select {
		case <-ctx.Done():
			return true
		case got := <-heard:
			if ctx.Err() == nil && !m.hear(got.message, got.err) {
				return true
			}
		case text := <-m.told:
			m.tell("%s", text)
		case line := <-typed:
			if !m.obey(line) {
				return false
			}
		}
	}
}
