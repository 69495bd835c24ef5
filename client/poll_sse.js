// poll_sse: the live document behind a URL; see poll_sse.d.ts. Apache-2.0
const isObject = v => Object(v) === v
const has = (v, key) => isObject(v) && {}.propertyIsEnumerable.call(v, key) // own; of a list, its items
const keysOf = pointer => pointer.split('/').map(key => key.replaceAll('~1', '/').replaceAll('~0', '~'))
const find = (doc, pointer) => keysOf(pointer).reduce((v, key) => has(v, key) ? v[key] : undefined, { '': doc })

// Returns old where v, fresh from JSON, equals it; else v, frozen, with the parts of old that are equal.
const share = (old, v) => {
	if (!isObject(v)) return v
	const keys = Object.keys(v)
	let same = isObject(old) && Array.isArray(old) === Array.isArray(v) && Object.keys(old).length === keys.length
	for (const key of keys) {
		const before = has(old, key) ? old[key] : undefined
		same = (v[key] = share(before, v[key])) === before && same
	}
	return same ? old : Object.freeze(v)
}

// Returns the new document, or throws. Each part that the patch leads through is copied once.
const apply = (doc, patch) => {
	const root = { '': doc }, copies = new Set()
	patch.forEach(({ op, path, value }) => {
		const keys = keysOf(path), last = keys.pop()
		let at = root
		for (const key of keys) {
			let next = has(at, key) && at[key]
			if (!isObject(next)) throw path
			if (!copies.has(next)) copies.add(next = Array.isArray(next) ? [...next] : { ...next })
			at = at[key] = next
		}
		const list = Array.isArray(at), there = has(at, last), add = op === 'add'
		if (!there && (!add || at === root || list && last !== `${at.length}`)) throw path
		if (op === 'remove') list ? at.splice(last, 1) : delete at[last]
		else if (!add && op !== 'replace' || value === undefined) throw op
		else if (add && list) at.splice(last, 0, share(0, value))
		else {
			value = share(there && at[last], value)
			Object.defineProperty(at, last, { value, configurable: true, enumerable: true, writable: true }) // also __proto__
		}
	})
	if (root[''] === undefined) throw patch
	copies.forEach(Object.freeze)
	return root['']
}

export const live = (url, options = {}) => {
	const subscribers = new Set(), [base] = `${url}`.split('#')
	let value, id, status = 'connecting', source, timer, silence = 45e3, slack = 1, tries = 0

	const safely = f => { try { f() } catch (e) { queueMicrotask(() => { throw e }) } }
	const turn = to => {
		if (to === status) return
		status = to
		safely(() => options.onstatus?.(to))
	}

	const leave = () => {
		clearTimeout(timer)
		source?.close()
		source = undefined
	}
	const connect = () => {
		leave()
		if (!globalThis.EventSource) return // on a server
		source = new EventSource(base + (base.includes('?') ? '&' : '?') + 'sse_format=patch&sse_status' + (id ? '&lastEventId=' + id : ''), options)
		for (const type of ['open', 'error', 'ping', 'status', 'message', options.event]) source.addEventListener(type, hear)
		watch()
		turn('connecting')
	}
	const retry = () => {
		leave()
		timer = setTimeout(connect, Math.min(2 ** tries++, 15) * (1e3 + 3e3 * Math.random()))
		turn('connecting')
	}
	const watch = () => {
		clearTimeout(timer)
		timer = setTimeout(() => {
			slack = Math.min(2 * slack, 16) // a large event may be on its way
			retry()
		}, Math.min(silence * slack, 2 ** 31 - 1))
	}
	const wake = ({ persisted }) => {
		if (persisted === false) return // the page was loaded just now
		tries = 0
		connect()
	}
	const waking = verb => ['online', 'pageshow'].forEach(type => globalThis[verb + 'EventListener']?.(type, wake))

	const hear = ({ target, type, data, lastEventId }) => {
		if (target !== source) return
		if (type === 'error') return retry()
		const before = value
		let to = status
		try {
			if (type === 'status') {
				const { state, heartbeat } = JSON.parse(data)
				silence = 3 * heartbeat || 45e3
				to = state === 'stale' ? state : 'live'
			} else if (type === 'message' || type === options.event) {
				value = apply(value, JSON.parse(data))
				id = lastEventId
				if (to === 'connecting') to = 'live'
			}
		} catch {
			id = undefined
			return retry()
		}
		if (type !== 'open' && type !== 'status') tries = 0, slack = 1
		watch()
		turn(to)
		if (value !== before) subscribers.forEach(notify => notify())
	}

	const select = part => {
		let doc, chosen
		const get = () => {
			if (doc !== value) {
				chosen = isObject(part) ? part(value) : find(value, part)
				doc = value
			}
			return chosen
		}
		return {
			get value() { return get() },
			subscribe(f) {
				let last
				const notify = () => safely(() => { if (get() !== last) f(last = chosen) })
				subscribers.add(notify)
				notify()
				return () => { subscribers.delete(notify) }
			},
		}
	}

	connect()
	waking('add')
	return {
		get value() { return value },
		get id() { return id },
		get status() { return status },
		subscribe: select('').subscribe,
		select,
		close() {
			leave()
			subscribers.clear()
			waking('remove')
			turn('closed')
		},
	}
}
