package blockdev

import "sync"

// cache keeps up to max values that can be had again. Which ones it forgets is left to chance.
type cache[K comparable, V any] struct {
	max int // immutable

	mu     sync.Mutex
	values map[K]V // protected by mu
}

func newCache[K comparable, V any](max int) *cache[K, V] {
	return &cache[K, V]{max: max, values: map[K]V{}}
}

// get returns the value of k, by make if it is not there. Two goroutines may make the same value.
func (c *cache[K, V]) get(k K, make func() (V, error)) (V, error) {
	c.mu.Lock()
	v, ok := c.values[k]
	c.mu.Unlock()
	if ok {
		return v, nil
	}
	v, err := make()
	if err != nil {
		return v, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for old := range c.values {
		if len(c.values) < c.max {
			break
		}
		delete(c.values, old)
	}
	c.values[k] = v
	return v, nil
}
