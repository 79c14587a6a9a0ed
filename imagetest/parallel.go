package imagetest

import (
	"errors"
	"sync"
)

// parallel calls do with every item, by so many goroutines, and returns all
// errors.
func parallel[T any](goroutines int, items []T, do func(i int, item T) error) error {
	errs := make([]error, len(items))
	next := make(chan int)
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := range next {
				errs[i] = do(i, items[i])
			}
		})
	}
	for i := range items {
		next <- i
	}
	close(next)
	wg.Wait()
	return errors.Join(errs...)
}
