package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// maxAnswer bounds an answer: a part of a key piece in kv has 512 KiB.
const maxAnswer = 8 << 20

// call sends a request as the AppRole. A token that is not taken any more is replaced once: it may have expired or been
// revoked. A refusal that remains is the policy's.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("vault: %s %s: %w", method, path, err)
		}
	}
	tok, err := c.login(ctx, 0)
	if err != nil {
		return err
	}
	err = c.repeat(ctx, method, path, tok.value, body, out)
	if !errors.Is(err, ErrDenied) {
		return err
	}
	if tok, err = c.login(ctx, tok.used); err != nil {
		return err
	}
	return c.repeat(ctx, method, path, tok.value, body, out)
}

// login returns the current token, or a new one if there is none, it is about to expire, or it is the one with the
// number that the caller found refused.
func (c *Client) login(ctx context.Context, refused uint64) (token, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.token
	if t.value != "" && t.used != refused && (t.until.IsZero() || time.Now().Before(t.until)) {
		return t, nil
	}
	var cred struct {
		RoleID   string `json:"role_id"`
		SecretID string `json:"secret_id"`
	}
	for path, at := range map[string]*string{c.cfg.RoleIDFile: &cred.RoleID, c.cfg.SecretIDFile: &cred.SecretID} {
		data, err := os.ReadFile(filepath.Clean(path))
		if err != nil {
			return token{}, fmt.Errorf("vault: reading AppRole credentials: %w", err)
		}
		*at = strings.TrimSpace(string(data))
	}
	body, err := json.Marshal(cred)
	if err != nil {
		return token{}, fmt.Errorf("vault: logging in: %w", err)
	}
	defer clear(body)
	path := "auth/" + c.cfg.AppRole + "/login"
	asked := time.Now()
	var answer envelope
	err = c.repeatRaw(ctx, http.MethodPost, path, "", body, &answer)
	var e *Error
	if errors.As(err, &e) && (errors.Is(err, ErrRejected) || errors.Is(err, ErrDenied)) {
		e.Err = ErrLogin
	}
	if err != nil {
		return token{}, err
	}
	if answer.Auth == nil || answer.Auth.Token == "" {
		return token{}, &Error{Op: http.MethodPost, Path: path, Status: http.StatusOK, Err: ErrLogin}
	}
	t = token{value: answer.Auth.Token, used: t.used + 1}
	if answer.Auth.Lease > 0 {
		t.until = asked.Add(time.Duration(answer.Auth.Lease) * time.Second * 2 / 3)
	}
	c.token = t
	return t, nil
}

// envelope is the frame of every answer.
type envelope struct {
	Data json.RawMessage `json:"data"`
	Auth *struct {
		Token string `json:"client_token"`
		Lease int64  `json:"lease_duration"`
	} `json:"auth"`
	Errors []string `json:"errors"`
}

func (c *Client) repeat(ctx context.Context, method, path, token string, body []byte, out any) error {
	var answer envelope
	defer func() { clear(answer.Data) }()
	if err := c.repeatRaw(ctx, method, path, token, body, &answer); err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if len(answer.Data) == 0 {
		return &Error{Op: method, Path: path, Status: http.StatusOK, Err: fmt.Errorf("%w: the answer is empty", ErrServer)}
	}
	if err := json.Unmarshal(answer.Data, out); err != nil {
		// The cause could quote the answer.
		return &Error{Op: method, Path: path, Status: http.StatusOK, Err: fmt.Errorf("%w: the answer is not of the expected form", ErrServer)}
	}
	return nil
}

const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// repeatRaw asks again, after growing pauses with jitter and for Patience in all, while the server is away. What it
// answers is final.
func (c *Client) repeatRaw(ctx context.Context, method, path, token string, body []byte, answer *envelope) error {
	ctx, stop := context.WithTimeoutCause(ctx, c.cfg.Patience, errPatience)
	defer stop()
	var before error
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := c.once(ctx, method, path, token, body, answer)
		if err == nil || !away(err) {
			return err
		}
		if before != nil && errors.Is(context.Cause(ctx), errPatience) {
			return before // this one was cut off; the one before says what the matter is
		}
		before = err
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			if errors.Is(context.Cause(ctx), errPatience) {
				return err // says what the matter is, which the end of patience does not
			}
			return errors.Join(ctx.Err(), err)
		}
		c.cfg.Logger.WarnContext(ctx, "asking vault again", "path", path, "error", err)
	}
}

var errPatience = errors.New("vault: patience is at its end")

func away(err error) bool {
	return errors.Is(err, ErrSealed) || errors.Is(err, ErrUnreachable) || errors.Is(err, ErrSlow)
}

// once sends one request and reads one answer.
func (c *Client) once(ctx context.Context, method, path, token string, body []byte, answer *envelope) error {
	fault := func(status int, err error, said ...string) error {
		return &Error{Op: method, Path: path, Status: status, Said: said, Err: err}
	}
	rctx, stop := context.WithTimeout(ctx, c.cfg.Timeout)
	defer stop()
	req, err := http.NewRequestWithContext(rctx, method, c.base.JoinPath("v1", path).String(), bytes.NewReader(body))
	if err != nil {
		return fault(0, err)
	}
	req.Header.Set("X-Vault-Request", "true")
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	if c.cfg.Namespace != "" {
		req.Header.Set("X-Vault-Namespace", c.cfg.Namespace)
	}
	c.sent.Add(1)
	resp, err := c.http.Do(req)
	if err != nil {
		return fault(0, transportError(ctx, err))
	}
	defer resp.Body.Close()
	data, err := readAnswer(resp)
	defer clear(data)
	if err != nil {
		return fault(resp.StatusCode, transportError(ctx, err))
	}
	if resp.StatusCode == http.StatusNoContent {
		return nil
	}
	var got envelope
	if err := json.Unmarshal(data, &got); err != nil && resp.StatusCode < 300 {
		return fault(resp.StatusCode, fmt.Errorf("%w: the answer is not JSON", ErrServer))
	}
	if err := byStatus(resp.StatusCode); err != nil {
		return fault(resp.StatusCode, err, got.Errors...)
	}
	*answer = got
	return nil
}

// readAnswer reads into a buffer that is made once, so that no half of a key stays behind in one that was outgrown.
func readAnswer(resp *http.Response) ([]byte, error) {
	size := resp.ContentLength
	if size > maxAnswer {
		return nil, fmt.Errorf("%w: an answer of %d bytes", ErrServer, size)
	}
	if size >= 0 {
		data := make([]byte, size)
		_, err := io.ReadFull(resp.Body, data)
		return data, err
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // chunked: long listings, which are no secret
}

func transportError(ctx context.Context, err error) error {
	var n net.Error
	switch {
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errPatience):
		return ctx.Err() // the caller has gone
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded), errors.As(err, &n) && n.Timeout():
		return ErrSlow
	case errors.Is(err, ErrServer):
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// byStatus maps an HTTP status as Vault's API documentation gives them.
func byStatus(status int) error {
	switch {
	case status < 300:
		return nil
	case status == http.StatusForbidden:
		return ErrDenied
	case status == http.StatusNotFound:
		return ErrNotFound
	case status == http.StatusNotImplemented, status == http.StatusServiceUnavailable:
		return ErrSealed // or not initialised, or in maintenance
	case status == http.StatusBadGateway, status == http.StatusGatewayTimeout, status == http.StatusTooManyRequests, status < 400:
		return ErrUnreachable // something in between, or a standby that would send us elsewhere
	case status < 500:
		return ErrRejected
	}
	return ErrServer
}
