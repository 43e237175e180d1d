package config

// KeyNames returns the dotted names of all keys.
func KeyNames() []string {
	var names []string
	for _, k := range keys() {
		names = append(names, k.name)
	}
	return names
}
