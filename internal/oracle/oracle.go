// Package oracle tells tests what is right: it reads JSON and applies patches
// (RFC 6902) in the plainest way and shares no code with what it judges. It is
// stricter than the RFC where this project promises more: add, remove and replace
// only, explicit indices, and a root that is only ever replaced.
package oracle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Value reads one JSON text. Numbers stay as they are written ([json.Number]), so
// reflect.DeepEqual compares values exactly.
func Value(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}

// Apply returns what patch makes of doc, which stays as it is.
func Apply(doc any, patch []byte) (any, error) {
	var ops []struct {
		Op    string
		Path  *string
		Value json.RawMessage
	}
	d := json.NewDecoder(bytes.NewReader(patch))
	d.DisallowUnknownFields()
	if err := d.Decode(&ops); err != nil {
		return nil, fmt.Errorf("reading patch: %w", err)
	}
	for _, op := range ops {
		if op.Path == nil {
			return nil, errors.New("operation without a path")
		}
		if (op.Op == "remove") != (op.Value == nil) {
			return nil, fmt.Errorf("%s %s: value missing or too much", op.Op, *op.Path)
		}
		var v any
		if op.Value != nil {
			var err error
			if v, err = Value(op.Value); err != nil {
				return nil, err
			}
		}
		tokens, err := split(*op.Path)
		if err != nil {
			return nil, err
		}
		if doc, err = apply(doc, op.Op, tokens, v); err != nil {
			return nil, fmt.Errorf("%s %s: %w", op.Op, *op.Path, err)
		}
	}
	return doc, nil
}

func split(pointer string) ([]string, error) {
	if pointer == "" {
		return nil, nil
	}
	if pointer[0] != '/' {
		return nil, fmt.Errorf("pointer %q without a leading slash", pointer)
	}
	tokens := strings.Split(pointer[1:], "/")
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for i := range tokens {
		tokens[i] = unescape.Replace(tokens[i])
	}
	return tokens, nil
}

func apply(in any, op string, path []string, v any) (any, error) {
	if len(path) == 0 {
		if op != "replace" {
			return nil, errors.New("the root can only be replaced")
		}
		return v, nil
	}
	name, last := path[0], len(path) == 1
	switch in := in.(type) {
	case map[string]any:
		old, held := in[name]
		if !held && !(last && op == "add") {
			return nil, errors.New("no such member")
		}
		if held && last && op == "add" {
			return nil, errors.New("add of a member that is there")
		}
		out := maps.Clone(in)
		switch {
		case !last:
			child, err := apply(old, op, path[1:], v)
			if err != nil {
				return nil, err
			}
			out[name] = child
		case op == "remove":
			delete(out, name)
		default:
			out[name] = v
		}
		return out, nil
	case []any:
		i, err := strconv.Atoi(name)
		if err != nil || strconv.Itoa(i) != name || i < 0 {
			return nil, errors.New("bad index")
		}
		if i > len(in) || i == len(in) && !(last && op == "add") {
			return nil, errors.New("index out of range")
		}
		out := slices.Clone(in)
		switch {
		case !last:
			child, err := apply(out[i], op, path[1:], v)
			if err != nil {
				return nil, err
			}
			out[i] = child
		case op == "add":
			out = slices.Insert(out, i, v)
		case op == "remove":
			out = slices.Delete(out, i, i+1)
		default:
			out[i] = v
		}
		return out, nil
	}
	return nil, errors.New("path through a scalar")
}

// Merge returns what a JSON Merge Patch makes of doc, which stays as it is, by the
// words of RFC 7396 §2.
func Merge(doc, patch any) any {
	members, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	target, _ := doc.(map[string]any)
	out := maps.Clone(target)
	if out == nil {
		out = make(map[string]any)
	}
	for name, value := range members {
		if value == nil {
			delete(out, name)
		} else {
			out[name] = Merge(out[name], value)
		}
	}
	return out
}

// Find returns the value in v that pointer leads to. An item of an array may also be
// named by a member, as in [id=42]: it is the first whose member is that number or
// string, or true, false or null. The first = ends the member's name.
func Find(v any, pointer string) (found any, ok bool) {
	path, err := split(pointer)
	if err != nil {
		return nil, false
	}
	for _, name := range path {
		switch in := v.(type) {
		case map[string]any:
			if v, ok = in[name]; !ok {
				return nil, false
			}
		case []any:
			i := slices.IndexFunc(in, func(item any) bool { return named(item, name) })
			if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < len(in) && strconv.Itoa(n) == name {
				i = n
			}
			if i < 0 {
				return nil, false
			}
			v = in[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// named reports whether name tells an item by one of its members.
func named(item any, name string) bool {
	members, _ := item.(map[string]any)
	for member, value := range members {
		switch value.(type) {
		case map[string]any, []any:
			continue
		case nil:
			value = "null"
		}
		if !strings.Contains(member, "=") && name == fmt.Sprintf("[%s=%v]", member, value) {
			return true
		}
	}
	return false
}

// Without returns v without the members and items at pointers that look like one of
// the patterns, in which * stands for any token and [id=42] for all items that have such
// a member.
func Without(v any, patterns ...string) any {
	var paths [][]string
	for _, p := range patterns {
		if p == "" {
			return nil
		}
		if path, err := split(p); err == nil {
			paths = append(paths, path)
		}
	}
	return without(v, nil, paths)
}

// step is one on the way to a value: the name or the index of a child, and the child
// itself if it is an item.
type step struct {
	name string
	item any
}

func without(v any, at []step, patterns [][]string) any {
	drops := func(here []step) bool {
		return slices.ContainsFunc(patterns, func(pattern []string) bool {
			return slices.EqualFunc(pattern, here, func(token string, s step) bool {
				return token == "*" || token == s.name || named(s.item, token)
			})
		})
	}
	switch in := v.(type) {
	case map[string]any:
		out := make(map[string]any)
		for name, child := range in {
			if here := append(slices.Clone(at), step{name, nil}); !drops(here) {
				out[name] = without(child, here, patterns)
			}
		}
		return out
	case []any:
		out := []any{}
		for i, child := range in {
			if here := append(slices.Clone(at), step{strconv.Itoa(i), child}); !drops(here) {
				out = append(out, without(child, here, patterns))
			}
		}
		return out
	}
	return v
}
