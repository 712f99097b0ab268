package runner

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Candidate is a back end that may or may not be to be had.
type Candidate struct {
	Name string
	Open func(ctx context.Context) (Runner, error)
}

// Choose opens the first candidate that works, or the one called prefer if that is not empty, and says why it is this
// one in words for a person. For production, isolation for development does not do: when nothing else is to be had the
// error wraps ErrDevelopment. When nothing works at all it wraps ErrUnavailable.
func Choose(ctx context.Context, production bool, prefer string, candidates ...Candidate) (r Runner, why string, err error) {
	var refused []error
	var names, passed []string
	for _, c := range candidates {
		names = append(names, c.Name)
		if prefer != "" && prefer != c.Name {
			continue
		}
		r, isolation, err := try(ctx, c)
		if err == nil && production && isolation.Development {
			err = fmt.Errorf("%s: %w", c.Name, ErrDevelopment)
		}
		if err != nil {
			refused = append(refused, err)
			passed = append(passed, err.Error())
			continue
		}
		switch {
		case prefer != "":
			why = c.Name + " was asked for"
		case len(passed) > 0:
			why = "not " + strings.Join(passed, "; not ")
		default:
			why = c.Name + " works here"
		}
		return r, why, nil
	}
	if len(refused) == 0 {
		return nil, "", fmt.Errorf("%w: no isolation is called %q, only %s", ErrUnavailable, prefer, strings.Join(names, ", "))
	}
	err = errors.Join(refused...)
	if !errors.Is(err, ErrDevelopment) && !errors.Is(err, ErrUnavailable) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil, "", fmt.Errorf("choosing isolation: %w", err)
}

// try opens a candidate and has it prove itself.
func try(ctx context.Context, c Candidate) (Runner, Isolation, error) {
	r, err := c.Open(ctx)
	if err != nil {
		return nil, Isolation{}, fmt.Errorf("%s: %w", c.Name, err)
	}
	isolation, err := r.Probe(ctx)
	if err != nil {
		return nil, Isolation{}, fmt.Errorf("%s: %w", c.Name, err)
	}
	return r, isolation, nil
}
