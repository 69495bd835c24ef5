// Package jsondiff tells what has changed between two versions of a JSON document, in
// the time that it takes to compare their bytes, as long as little has.
//
// # Terminology
//
// A document is one JSON text (RFC 8259). Its values are containers, which are objects
// and arrays, and scalars. The children of a container are the members of an object,
// each with a name and a value, or the items of an array. The old text is compact and
// has been checked; of the new text nothing is known. A stretch is a part of the old
// text that stands in the new one too. A pointer (RFC 6901) says where a value is. A
// patch (RFC 6902) is a list of operations, each of which adds, removes or replaces a
// value.
//
// # The idea
//
// Most of a document stays the same, and memory is compared some thirty times faster
// than JSON is read. So nothing is read that does not have to be.
//
// A document keeps its text and an index of it, no tree: for each large container a
// node, which marks where about every thousandth byte a child starts. Comparing begins
// at the root of both texts and gallops to where the bytes differ. By bisection of the
// marks, and a short walk from there, the child is found in which that is. All children
// before it are the same, and need not even be checked: they are equal to text that has
// been. The walk goes on inside the child, and when both texts are behind it, it
// gallops on to the next difference.
//
// What the walk meets is read by a scanner, which trusts nothing: between what equals
// checked text and what the scanner has read, the whole new text is checked, and the
// index of the new document is made on the way, out of the nodes and marks of the old
// one and of what was read.
//
// Members are paired by their names. Where names are not the same one by one, the rest
// of the object is read and matched.
//
// Items have no names. Where two arrays begin to differ, both are read until they meet
// again; what lies between is a hunk, mostly of one item. Items of a hunk are paired in
// place, if they are much alike, else by a key, a member that tells them apart, else by
// their content: what is unique in both anchors the rest, and between anchors those are
// paired that have most in common. Of pairs that cross each other the heaviest stay. A
// hunk is written from left to right: what stands left of an operation is final, so
// that every index is right at its turn.
//
// A value that has changed in so many places that it is shorter said whole is replaced.
// When the patch as a whole is not worth it any more, the rest is only read.
//
// White space between tokens and repeated names are taken out of a text before all
// this, so that nothing here has to know of them. That a text has any is found out by
// failing without.
//
// # Promises
//
//   - Applying the patch to the old document gives the new one, whatever the two are.
//     Only add, remove and replace are used, indices are explicit, and the root is
//     only ever replaced.
//   - Values are equal if they are the same whatever the white space, the order of
//     members and the escapes in strings. Numbers are compared and sent as they are
//     written, so that no digit is lost. Of members with the same name the last one
//     counts. Lone surrogates, which have no UTF-8, stay what they are.
//   - A text is accepted if it is JSON in UTF-8, of no more than [MaxDepth] levels,
//     whichever way it is read.
//   - A patch holds no white space outside strings and no control character, so it is
//     always a single line.
//   - No input makes it panic. Where [Differ.Worth] sets limits, no more than some ten
//     times the texts are read, whatever they are.
package jsondiff
