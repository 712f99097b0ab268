package process

import "context"

// Unfiltered leaves the seccomp filter out, so that tests see what the other layers stop.
func (r *Runner) Unfiltered() { r.without = []string{"seccomp"} }

// OpenLevel opens the level numbered i of those that this user could have.
func OpenLevel(ctx context.Context, i int) (*Runner, error) {
	r, err := Open(ctx, Config{})
	if err != nil {
		return nil, err
	}
	r.level = levels()[i]
	_, err = r.Probe(ctx)
	return r, err
}

// Levels is how many there are.
func Levels() int { return len(levels()) }
