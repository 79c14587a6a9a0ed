// Package test holds the end-to-end tests: the real program, stock registries
// and stock clients, each a process of its own, and real images.
//
// Sub-tests are named after the clauses of the mount's contract, M1 to M13 in
// docs/posix.md. A test fails if it leaves a mount, a server or a process
// behind. The program is built once a run, or is the one that $REGFS names.
package test
