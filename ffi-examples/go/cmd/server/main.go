// Command server is a node.   server [-s|--slim ADDRESS|JSON]
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"libslim.example/ffi-examples/go/internal/common"
	"libslim.example/ffi-examples/go/slim"
)

func main() {
	address := os.Getenv("SLIM_SLIM")
	if address == "" {
		address = "127.0.0.1:46357"
	}
	flags := common.Flags()
	flags.StringVar(&address, "slim", address, "where to listen, an address or JSON")
	flags.StringVar(&address, "s", address, "the same")
	telemetry := flags.Bool("enable-opentelemetry", false, "not in this version")
	flags.BoolVar(telemetry, "t", false, "the same")
	common.Parse(flags)
	if *telemetry {
		common.Wrong("--enable-opentelemetry is not in this version of libslim.")
	}
	if err := serve(address); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func serve(address string) error {
	node, err := slim.NewNode("")
	if err != nil {
		return err
	}
	defer node.Close()
	port, err := node.Listen(address)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		node.Stop()
	}()
	fmt.Fprintln(os.Stderr, "listening on port", port)
	if err := node.Wait(context.Background()); err != nil {
		return err
	}
	fmt.Println("\nShutting down...")
	return nil
}
