package config

import _ "embed"

// Example is an annotated configuration file that names every key. Lines that begin with "#" and a key, without
// a space between them, show the defaults; taken out of the comment they change nothing.
//
//go:embed config.example.toml
var Example string
