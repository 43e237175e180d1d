package service

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// strictly decodes JSON and refuses members that the target does not have, spelled exactly.
func strictly(text []byte, target any) error {
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		return broken(RuleJSON, InvalidJSON, "%v", err)
	}
	if err := json.Unmarshal(text, target); err != nil {
		return broken(RuleType, InvalidJSON, "%v", err)
	}
	if name := unknownMember(tree, typeOf(target)); name != "" {
		return broken(RuleMember, InvalidJSON, "there is no member %s", name)
	}
	return nil
}

// readQuery is strictly for a query, which may be empty: it then asks for all.
func readQuery(text string, target any) error {
	if text == "" {
		return nil
	}
	return strictly([]byte(text), target)
}

func quoted(path, name string) string {
	return strings.TrimPrefix(fmt.Sprintf("%s.%s", path, name), ".")
}

func typeOf(target any) reflect.Type { return reflect.TypeOf(target).Elem() }

// unknownMember returns the path of the first member in a decoded JSON value that a type does not have under exactly
// that name; "" when there is none. encoding/json would take other spellings.
func unknownMember(value any, of reflect.Type) string { return unknownBelow("", value, of) }

func unknownBelow(path string, value any, of reflect.Type) string {
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	switch v := value.(type) {
	case map[string]any:
		if of.Kind() != reflect.Struct {
			return "" // a map: its keys are data
		}
		for name, member := range v {
			field, ok := memberOf(of, name)
			if !ok {
				return quoted(path, name)
			}
			if unknown := unknownBelow(quoted(path, name), member, field); unknown != "" {
				return unknown
			}
		}
	case []any:
		if of.Kind() != reflect.Slice {
			return ""
		}
		for _, element := range v {
			if unknown := unknownBelow(path, element, of.Elem()); unknown != "" {
				return unknown
			}
		}
	}
	return ""
}

// memberOf returns the type of a struct's member by its name in JSON.
func memberOf(of reflect.Type, name string) (reflect.Type, bool) {
	for i := range of.NumField() {
		field := of.Field(i)
		key, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if key == "" {
			key = field.Name
		}
		if key == name && field.IsExported() {
			return field.Type, true
		}
	}
	return nil, false
}
