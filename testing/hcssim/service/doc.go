// Package service is a simulated Host Compute Service and Host Networking Service: layers, compute systems, their
// processes and notifications, networks and endpoints, as far as Airlock uses them. Everything it says about Windows
// is a reading of public sources (hcsshim, moby, containerd and their issues), never Microsoft's own word: what passes
// here is simulated, and proves nothing about a real Windows.
//
// It owns the state of one machine and the rules by which calls are judged (rules.go names each with its source). It
// must never trust a client's path outside of the client's C: drive, and never loosen a rule to let a client pass.
// Clients reach it through package hcssim, its only caller beside the tests: Invoke takes a call as the forwarding DLL
// sends it. Where the real service leaves something open, it varies its behaviour by a seed (vary.go).
package service
