// Package bytesize writes sizes for people, in job logs, tables and errors alike. It is a leaf.
package bytesize

import (
	"fmt"
	"strings"
)

// Format returns n bytes in binary units, with one decimal where it tells something: "512 B", "1.5 MiB", "20 GiB".
func Format(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), -1
	for value >= 1023.95 { // which would be written as 1024.0
		value /= 1024
		unit++
	}
	return strings.Replace(fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[unit]), ".0 ", " ", 1)
}
