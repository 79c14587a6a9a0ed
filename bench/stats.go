package bench

// Stats are values of one thing, sorted.
type stats []float64

// median is the middle value; of an even number the mean of the two.
func (s stats) median() float64 {
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

func (s stats) least() float64 { return s[0] }
func (s stats) most() float64  { return s[len(s)-1] }

// over is the ratio of two medians; false if one of them is not there.
func (s stats) over(base stats) (float64, bool) {
	if len(s) == 0 || len(base) == 0 || base.median() == 0 {
		return 0, false
	}
	return s.median() / base.median(), true
}
