// Package pages tests what the pages in docs/ say about the source. It has tests only.
package pages
