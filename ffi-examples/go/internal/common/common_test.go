package common

import (
	"encoding/hex"
	"strings"
	"testing"
)

func TestH8TheBytesOfALine(t *testing.T) {
	expected := "1b5b316d1b5b39366d416c696365" + strings.Repeat("20", 40) + "1b5b306d78"
	if got := hex.EncodeToString([]byte(FormatMessage("alice", "x"))); got != expected {
		t.Fatal(got)
	}
}
