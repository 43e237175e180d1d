package main

import "os"

// hangUps delivers nothing: Windows has no SIGHUP. The configuration is reloaded by a restart.
func hangUps() <-chan os.Signal { return nil }
