package db

// Provider and Connect reach below Open, for tests of migrations and damage.
var (
	Provider = provider
	Connect  = connect
)
