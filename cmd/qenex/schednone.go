//go:build kernelonly

package main

// schedVerbs are left out of the build for kernels only, which is for short starts.
type schedVerbs struct{}
