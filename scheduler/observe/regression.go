package observe

import "math"

// order is how many of the last values a regression looks at.
const order = 6

// regression predicts the next value as a sum of the last ones, each with a weight learned by recursive least squares that forget slowly.
type regression struct {
	x       [order + 1]float64 // the last values, newest first, and 1
	weights [order + 1]float64
	p       [order + 1][order + 1]float64 // how unsure the weights are: the inverse of what was seen of x
}

const (
	remember = 0.99
	unsure   = 10.0 // of the weights, at the beginning
	most     = 1e4  // at most: with nothing to learn from, forgetting alone would let it grow without end
)

// begin starts as the last value.
func (r *regression) begin(y float64) {
	*r = regression{}
	for i := range order {
		r.x[i] = y
	}
	r.x[order] = 1
	r.weights[0] = 1
	for i := range r.p {
		r.p[i][i] = unsure
	}
}

func (r *regression) forecast() float64 {
	sum := 0.0
	for i, w := range r.weights {
		sum += w * r.x[i]
	}
	return sum
}

// learn corrects the weights by the error of the forecast of y.
func (r *regression) learn(y float64) {
	var px [order + 1]float64
	scale := remember
	trace := 0.0
	for i := range r.p {
		for j := range r.p[i] {
			px[i] += r.p[i][j] * r.x[j]
		}
		trace += r.p[i][i]
		scale += px[i] * r.x[i]
	}
	keep := remember
	if trace > most {
		keep = 1
	}
	miss := y - r.forecast()
	for i := range r.p {
		r.weights[i] += px[i] / scale * miss
		for j := range i + 1 {
			v := (r.p[i][j] - px[i]*px[j]/scale) / keep
			r.p[i][j], r.p[j][i] = v, v
		}
	}
	copy(r.x[1:order], r.x[:order-1])
	r.x[0] = y
	if f := r.forecast(); math.IsNaN(f) || math.Abs(f) > 1e6 || !(scale > 0) {
		r.begin(y)
	}
}
