// Package jsondiff compares JSON documents and says the difference as a JSON
// Patch (RFC 6902).
//
// # Terminology
//
// A document is one valid JSON text (RFC 8259). Its values are objects, arrays
// and scalars; an object has members, an array has items. A pointer (RFC 6901)
// names the place of a value. A patch is a list of operations, each with an op,
// a path and, but for remove, a value.
//
// # Promises
//
//   - Applying the patch to the old document gives the new one, whatever the two
//     are. Only add, remove and replace are used, indices are explicit, and the
//     root is only ever replaced.
//   - Values are equal if they are the same whatever the white space, the order of
//     members and the escapes in strings. Numbers are compared and sent as they
//     are written, so that no digit is lost. Of members with the same name the
//     last one counts.
//   - A patch holds no white space outside strings and no control character, so it
//     is always a single line.
//   - No input makes it panic or recurse deeper than [MaxDepth].
//
// # How arrays are compared
//
// Items keep their identity by a key, a member whose value no two items share, or
// else by their content. What both arrays begin and end with is set aside; items
// whose identity is unique on both sides and whose order holds are kept; between
// them an edit script is looked for, and what is left is replaced in its place.
// The script is written from left to right: whatever stands left of an operation
// is final, so every index is right at its turn.
package jsondiff
