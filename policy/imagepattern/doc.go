// Package imagepattern decides by patterns which images a job may name, as GitLab Runner's allowed_images does: "*"
// stays within an element of the path, "**" is any number of whole elements, "!" in front forbids.
//
// It is the one owner of these patterns. Package config refuses with Parse what cannot do what it seems to;
// package jobs asks Allows about what a job names; package policy compares lists with Within. Images are
// compared by what they mean, not by how they are written: "debian" is docker.io/library/debian:latest. Where it is
// in doubt whether two names mean one image, the answer is always the refusal. The package does no I/O.
package imagepattern
