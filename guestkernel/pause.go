package guestkernel

// pause executes n PAUSE instructions; n is not 0.
func pause(n uint32)
