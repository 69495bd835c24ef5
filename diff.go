package pollsse

import "github.com/pollsse/caddy-poll-sse/internal/jsondiff"

// differ returns what compares the documents of clients with that wish.
func (h *Handler) differ(w wish) jsondiff.Differ {
	d := jsondiff.Differ{Worth: worthwhile}
	if w.format == formatMerge {
		d.Merge, d.Worth = true, mergeable
	}
	for _, k := range h.Key {
		if pointer, ok := jsondiff.Rebase(k.Pointer, w.pointer); ok {
			d.Keys = append(d.Keys, jsondiff.Key{Pointer: pointer, Member: k.Member})
		}
	}
	return d
}

// diff makes a document of text, and says whether its value is another than that of
// old, and if so by which patch; a nil patch stands for the whole new document, where
// that costs less, or where a merge patch cannot say it. Without an old document all
// is new.
func diff(d *jsondiff.Differ, old *jsondiff.Document, text []byte) (document *jsondiff.Document, patch []byte, changed bool, err error) {
	if old == nil {
		document, err = jsondiff.Parse(text)
		return document, nil, err == nil, err
	}
	document, p, err := d.Diff(old, text)
	switch {
	case err != nil:
		return nil, nil, false, err
	case p == nil:
		return document, nil, true, nil
	case p.Len() == 0:
		return document, nil, false, nil
	case d.Merge:
		patch, ok := p.Merge()
		if !ok || len(patch) >= len(document.Bytes()) {
			patch = nil
		}
		return document, patch, true, nil
	}
	return document, p.Bytes(), true, nil
}

// worthwhile reports whether a patch costs less than the whole document of size
// bytes: applying an operation costs a browser about as much as parsing 1,500 bytes.
func worthwhile(operations, bytes, size int) bool {
	return bytes <= size/2 && operations <= max(64, size/1500)
}

// mergeable reports whether a merge patch may be smaller than the document: it is up to
// eight times smaller than the same changes as operations, each with its whole path.
func mergeable(_, bytes, size int) bool { return bytes <= 8*size }
