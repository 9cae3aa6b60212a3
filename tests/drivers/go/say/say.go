// Package say prints what a program of tests/drivers has seen.
package say

import (
	"fmt"
	"os"
)

// Line prints its words with blanks between them.
func Line(words ...any) {
	fmt.Fprintln(os.Stdout, words...)
}

// Parts runs one part after another; one that fails does not keep the next from running.
func Parts(parts []Part) {
	for _, part := range parts {
		Line("==", part.Name)
		run(part)
	}
	Line("== end")
}

// Part is a piece of a program with a name.
type Part struct {
	Name string
	Run  func()
}

func run(part Part) {
	defer func() {
		if broken := recover(); broken != nil {
			Line("== failed", broken)
		}
	}()
	part.Run()
}

// Must ends the part when there is an error.
func Must(err error) {
	if err != nil {
		panic(err)
	}
}
