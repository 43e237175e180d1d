// Package oidc stands in for the source of the usage collector's tokens, which is switched off with the collector.
package oidc

// Option and Source have no effect.
type (
	Option struct{}
	Source struct{}
)

func WithSkipIfUnsupportedCloud(bool) Option { return Option{} }
func NewSource(...Option) *Source            { return &Source{} }
