package okta

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/okta/okta-sdk-golang/v2/okta/query"
)

var errStub = errors.New("okta is not built into this server")

type Setter func()

func WithToken(string) Setter  { return nil }
func WithOrgUrl(string) Setter { return nil }
func WithCache(bool) Setter    { return nil }

type Client struct {
	User       users
	UserFactor factors
}

func NewClient(ctx context.Context, _ ...Setter) (context.Context, *Client, error) {
	return ctx, nil, errStub
}

type User struct{ Id string }
type users struct{}

func (users) ListUsers(context.Context, *query.Params) ([]*User, *http.Response, error) {
	return nil, nil, errStub
}

type Factor interface{ IsUserFactorInstance() bool }
type UserFactor struct{ Id, FactorType string }

func (*UserFactor) IsUserFactorInstance() bool { return true }

type VerifyFactorRequest struct{}
type VerifyUserFactorResponse struct {
	FactorResult string
	Links        interface{}
}
type factors struct{}

func (factors) ListFactors(context.Context, string) ([]Factor, *http.Response, error) {
	return nil, nil, errStub
}
func (factors) VerifyFactor(context.Context, string, string, VerifyFactorRequest, Factor, *query.Params) (*VerifyUserFactorResponse, *http.Response, error) {
	return nil, nil, errStub
}

type Executor struct{}

func (*Client) CloneRequestExecutor() *Executor      { return &Executor{} }
func (e *Executor) WithAccept(string) *Executor      { return e }
func (e *Executor) WithContentType(string) *Executor { return e }
func (e *Executor) NewRequest(string, string, io.Reader) (*http.Request, error) {
	return nil, errStub
}
func (e *Executor) Do(context.Context, *http.Request, interface{}) (*http.Response, error) {
	return nil, errStub
}
