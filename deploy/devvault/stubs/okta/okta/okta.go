package okta

import (
	"context"
	"errors"
	"net/http"
)

var errStub = errors.New("okta is not built into this server")

type Configuration struct{ Context context.Context }
type ConfigSetter func(*Configuration)

func WithToken(string) ConfigSetter                            { return nil }
func WithOrgUrl(string) ConfigSetter                           { return nil }
func WithCache(bool) ConfigSetter                              { return nil }
func NewConfiguration(...ConfigSetter) (*Configuration, error) { return nil, errStub }

type APIClient struct {
	UserAPI       userAPI
	UserFactorAPI userFactorAPI
}

func NewAPIClient(*Configuration) *APIClient   { return &APIClient{} }
func (c *APIClient) GetConfig() *Configuration { return &Configuration{Context: context.Background()} }

type userAPI struct{}
type listUsers struct{}
type User struct{}

func (User) GetId() string                                 { return "" }
func (userAPI) ListUsers(context.Context) listUsers        { return listUsers{} }
func (l listUsers) Filter(string) listUsers                { return l }
func (listUsers) Execute() ([]User, *http.Response, error) { return nil, nil, errStub }

type UserFactorPush struct{}

func (*UserFactorPush) GetId() string { return "" }

type factor struct{ UserFactorPush *UserFactorPush }
type userFactorAPI struct{}
type listFactors struct{}
type verifyFactor struct{}
type txStatus struct{}
type VerifyResult struct{ Links map[string]interface{} }
type TxResult struct {
	UserFactorPushTransactionWaiting, UserFactorPushTransaction,
	UserFactorPushTransactionRejected, UserFactorPushTransactionTimeout *struct{}
}

func (*VerifyResult) GetFactorResult() string                         { return "" }
func (userFactorAPI) ListFactors(context.Context, string) listFactors { return listFactors{} }
func (listFactors) Execute() ([]factor, *http.Response, error)        { return nil, nil, errStub }
func (userFactorAPI) VerifyFactor(context.Context, string, string) verifyFactor {
	return verifyFactor{}
}
func (verifyFactor) Execute() (*VerifyResult, *http.Response, error) { return nil, nil, errStub }
func (userFactorAPI) GetFactorTransactionStatus(context.Context, string, string, string) txStatus {
	return txStatus{}
}
func (txStatus) Execute() (*TxResult, *http.Response, error) { return nil, nil, errStub }
