// Package hostpb is the generated ttrpc binding of the host's socket: what drivers and the administrator's command
// call. Its messages are those of package api. `make generate` makes it; nobody edits it by hand.
package hostpb
