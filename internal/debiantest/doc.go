// Package debiantest is a test only: an unmodified Debian, kernel and root disk, in a machine that is killed. It stands above all rooms that
// such a guest needs, and has no code but its tests.
package debiantest
