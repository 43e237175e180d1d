// Package windows runs whole jobs on Windows: the driver called as GitLab Runner 19.4 calls it, through host and plugin,
// to a container and back. All of it is simulated (testing/hcssim, under Wine); smoke.ps1 is for a real Windows Server.
package windows
