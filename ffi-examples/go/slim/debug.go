//go:build debug

package slim

import "runtime"

// collect is called within each call of the library: what is freed too early is found by
// `go test -tags debug`.
func collect() { runtime.GC() }
