package config

import "strings"

// KeyNames returns the dotted names of all keys.
func KeyNames() []string {
	var names []string
	for _, k := range keys() {
		names = append(names, k.name)
	}
	return names
}

// PolicyKeyNames returns the dotted names of the keys of [policy], without those of a rule.
func PolicyKeyNames() []string {
	var names []string
	for _, k := range policyKeys() {
		names = append(names, k.name)
	}
	return names
}

// SocketKeyNames returns the names of the keys of [[sockets]].
func SocketKeyNames() []string {
	var names []string
	for _, k := range socketKeys() {
		names = append(names, k.name)
	}
	return names
}

// RuleKeyNames returns the names of the keys of a rule; limits are one.
func RuleKeyNames() []string {
	var names []string
	for _, k := range ruleKeys() {
		name, _, _ := strings.Cut(k.name, ".")
		names = append(names, name)
	}
	return names
}
