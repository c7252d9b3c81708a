// Package observe finds the threads that run guests on this host, reads from /proc what they do, predicts their load and learns which
// of them talk to each other. It changes nothing, and knows no plans: what is done with the answers does not enter.
package observe
