//go:build !debug

package slim

func collect() {}
