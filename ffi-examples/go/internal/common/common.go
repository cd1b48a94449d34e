// Package common is what the example programs share: options, the printed lines, the app.
package common

// #include <unistd.h>
import "C"

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"libslim.example/ffi-examples/go/slim"
)

// Options are what the command line and the environment (SLIM_LOCAL, SLIM_REMOTE, ...) say.
type Options struct {
	Local, Remote, Slim, SharedSecret string
	Message                           *string // nil: receive
	Iterations                        int
	Sticky, EnableMLS                 bool
	Invites                           []string
}

// Wrong ends the program: it was used wrongly.
func Wrong(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, "Error: "+format+"\n", arguments...)
	os.Exit(2)
}

// Flags is a set of options whose mistakes end the program with one line.
func Flags() *flag.FlagSet {
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	return flags
}

// Parse reads the command line.
func Parse(flags *flag.FlagSet) {
	err := flags.Parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		flags.SetOutput(os.Stdout)
		flags.PrintDefaults()
		os.Exit(0)
	case err != nil:
		Wrong("%v", err)
	case flags.NArg() > 0:
		Wrong("Got unexpected extra argument (%s)", flags.Arg(0))
	}
}

// ReadOptions reads the options of point_to_point.
func ReadOptions() Options {
	flags := Flags()
	texts := map[string]*string{}
	for _, option := range [][2]string{
		{"local", "organization/namespace/service of this program"},
		{"remote", "of the other one"},
		{"slim", "the node, a URL or JSON"},
		{"message", "what to send; without it, receive"},
		{"iterations", "how often to send it; 2 if not given"},
		{"shared-secret", "32 bytes or more, the same for all"},
		{"jwt", "not in this version"},
		{"bundle", "not in this version"},
		{"audience", "not in this version"},
	} {
		texts[option[0]] = flags.String(option[0], environment(option[0]), option[1])
	}
	var invites []string
	flags.Func("invites", "whom to invite; repeatable", func(name string) error {
		invites = append(invites, name)
		return nil
	})
	sticky := flags.Bool("sticky", truth("sticky"), "one instance for all messages, reliably")
	mls := flags.Bool("enable-mls", truth("enable-mls"), "encrypt the session end to end")
	telemetry := flags.Bool("enable-opentelemetry", truth("enable-opentelemetry"), "not in this version")
	Parse(flags)

	if *texts["local"] == "" {
		Wrong("Missing option '--local'.")
	}
	for option, given := range map[string]bool{
		"--enable-opentelemetry": *telemetry, "--jwt": *texts["jwt"] != "",
		"--bundle": *texts["bundle"] != "", "--audience": *texts["audience"] != "",
	} {
		if given {
			Wrong("%s is not in this version of libslim.", option)
		}
	}
	o := Options{
		Local: *texts["local"], Remote: *texts["remote"], Slim: *texts["slim"],
		SharedSecret: *texts["shared-secret"], Iterations: 2, Sticky: *sticky,
		EnableMLS: *mls,
	}
	flags.Visit(func(f *flag.Flag) {
		if f.Name == "message" {
			o.Message = texts["message"]
		}
	})
	if *texts["message"] != "" {
		o.Message = texts["message"]
	}
	if text := *texts["iterations"]; text != "" {
		var err error
		if o.Iterations, err = strconv.Atoi(text); err != nil {
			Wrong("Invalid value for '--iterations': '%s' is not a valid integer.", text)
		}
	}
	if o.Invites = invites; len(invites) == 0 {
		o.Invites = strings.Fields(environment("invites"))
	}
	if o.Slim == "" {
		o.Slim = "http://127.0.0.1:46357"
	}
	if strings.HasPrefix(o.Slim, "{") && !json.Valid([]byte(o.Slim)) {
		Wrong("Invalid value for '--slim': %s is not valid JSON", o.Slim)
	}
	return o
}

// environment gives SLIM_SOME_NAME for some-name.
func environment(option string) string {
	return os.Getenv("SLIM_" + strings.ToUpper(strings.ReplaceAll(option, "-", "_")))
}

func truth(option string) bool {
	switch text := environment(option); text {
	case "1", "true", "t", "yes", "y", "on":
		return true
	case "", "0", "false", "f", "no", "n", "off":
		return false
	default:
		Wrong("Invalid value for '--%s': '%s' is not a valid boolean.", option, text)
		return false
	}
}

// FormatMessage gives label in bold cyan, 45 columns wide, and the text behind it.
func FormatMessage(label, text string) string {
	if label != "" {
		label = strings.ToUpper(label[:1]) + strings.ToLower(label[1:])
	}
	return fmt.Sprintf("\x1b[1m\x1b[96m%-45s\x1b[0m%s", label, text)
}

// AtTerminal says whether somebody types.
func AtTerminal() bool { return C.isatty(C.STDIN_FILENO) == 1 }

// Say prints such a line.
func Say(label, format string, arguments ...any) {
	fmt.Println(FormatMessage(label, fmt.Sprintf(format, arguments...)))
}

// CreateLocalApp makes the app and connects; it gives the connection's number, too.
func CreateLocalApp(ctx context.Context, node *slim.Node, o Options) (*slim.App, uint64, error) {
	if o.SharedSecret == "" {
		return nil, 0, errors.New("Either JWT or bundle must be provided, or a shared secret.")
	}
	parts := strings.Split(o.Local, "/")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		fmt.Println("Error: IDs must be in the format organization/namespace/app-or-stream.")
		return nil, 0, errors.New(o.Local)
	}
	app, err := node.NewApp(o.Local, o.SharedSecret)
	if err != nil {
		return nil, 0, err
	}
	Say(app.ID(), "Created app")
	connection, err := app.Connect(ctx, o.Slim)
	if errors.Is(err, slim.ErrInvalidConfig) {
		Wrong("Invalid value for '--slim': %v", err)
	}
	if err != nil {
		return nil, 0, err
	}
	endpoint := o.Slim
	var client struct{ Endpoint string }
	if json.Unmarshal([]byte(o.Slim), &client) == nil {
		endpoint = client.Endpoint
	}
	Say(app.ID(), "Connected to %s", endpoint)
	return app, connection, nil
}
