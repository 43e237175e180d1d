// Command empty does nothing: what any Go program costs before its first line.
package main

func main() {}
