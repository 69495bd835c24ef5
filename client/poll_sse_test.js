// Run by `node --test`, in time that passes when it is told to, against an EventSource that
// says what it is told to. integration/clientmodule_test.go has the real ones.
import assert from 'node:assert/strict'
import { setMaxListeners } from 'node:events'
import { beforeEach, test } from 'node:test'
import { live } from './poll_sse.js'

let sources, timers, now, random, reported, page

class Source extends EventTarget {
	constructor(url, options) {
		super()
		Object.assign(this, { url, options, closed: false })
		sources.push(this)
	}
	close() { this.closed = true }
	tell(type, data, lastEventId = '') { this.dispatchEvent(Object.assign(new Event(type), { data, lastEventId })) }
	patch(id, ...operations) { this.tell('message', JSON.stringify(operations), id) }
	whole(id, value) { this.patch(id, { op: 'replace', path: '', value }) }
	status(state, heartbeat = 15000) { this.tell('status', JSON.stringify({ state, heartbeat })) }
}

// pass lets time pass.
function pass(ms) {
	for (const end = now + ms; ;) {
		const [timer] = timers.filter(t => t.at <= end).sort((a, b) => a.at - b.at)
		if (!timer) {
			now = end
			return
		}
		timers.splice(timers.indexOf(timer), 1)
		now = timer.at
		timer.f()
	}
}

// wait is how long the only timer takes.
function wait() {
	assert.equal(timers.length, 1)
	return timers[0].at - now
}

const newest = () => sources.at(-1)
const query = () => newest().url.slice('/doc?sse_format=patch&sse_status'.length)
const add = (path, value) => ({ op: 'add', path, value })
const replace = (path, value) => ({ op: 'replace', path, value })
const remove = path => ({ op: 'remove', path })

beforeEach(() => {
	[sources, timers, now, random, reported, page] = [[], [], 0, 0, [], new EventTarget()]
	setMaxListeners(0, page)
	globalThis.EventSource = Source
	globalThis.setTimeout = (f, ms) => {
		const timer = { f, at: now + ms }
		timers.push(timer)
		return timer
	}
	globalThis.clearTimeout = timer => { timers = timers.filter(t => t !== timer) }
	Math.random = () => random
	globalThis.queueMicrotask = f => { try { f() } catch (e) { reported.push(e) } }
	globalThis.addEventListener = (...args) => page.addEventListener(...args)
	globalThis.removeEventListener = (...args) => page.removeEventListener(...args)
})

// follow returns the live document of a first event, and what a subscriber is told.
function follow(value, options) {
	const doc = live('/doc', options), told = []
	doc.subscribe(v => told.push(v))
	newest().whole('1', value)
	return { doc, told }
}

test('URLs', () => {
	for (const [url, want] of [
		['/doc', '/doc?sse_format=patch&sse_status'],
		['/doc?a=%20b&sse_select=/x', '/doc?a=%20b&sse_select=/x&sse_format=patch&sse_status'],
		['/doc?a#?b', '/doc?a&sse_format=patch&sse_status'],
		[new URL('http://localhost/doc'), 'http://localhost/doc?sse_format=patch&sse_status'],
	]) {
		live(url)
		assert.equal(newest().url, want)
	}
	live('/doc', { withCredentials: true })
	assert.equal(newest().options.withCredentials, true)
})

test('documents, and who is told of them', () => {
	const doc = live('/doc'), told = []
	const stop = doc.subscribe(v => told.push(['a', v.n, doc.id]))
	assert.deepEqual([doc.value, doc.id, told], [undefined, undefined, []])
	newest().whole('1', { n: 1 })
	assert.deepEqual([doc.value, doc.id], [{ n: 1 }, '1'])
	doc.subscribe(v => told.push(['b', v.n, doc.id]))
	newest().patch('2', replace('/n', 2))
	stop()
	newest().patch('3', replace('/n', 3))
	assert.deepEqual(told, [['a', 1, '1'], ['b', 1, '1'], ['a', 2, '2'], ['b', 2, '2'], ['b', 3, '3']])
})

test('null, false and "" are documents', () => {
	for (const value of [null, false, 0, '']) {
		const { doc, told } = follow(value)
		assert.deepEqual([doc.value, told], [value, [value]])
		newest().whole('2', [1])
		assert.deepEqual(told, [value, [1]])
	}
})

test('named events', () => {
	const doc = live('/doc', { event: 'price' })
	newest().tell('price', '[{"op":"replace","path":"","value":1}]', '1')
	assert.equal(doc.value, 1)
	newest().whole('2', 2)
	assert.equal(doc.value, 2)
	newest().tell('other', '[]', '3')
	assert.equal(doc.id, '2')
})

test('subscribers that throw, stop, subscribe and close', () => {
	const { doc } = follow({ n: 1 }), told = []
	doc.subscribe(() => { throw new Error('mine') })
	assert.equal(reported.length, 1)
	const stops = [doc.subscribe(v => { told.push(['a', v.n]); if (v.n === 2) stops.forEach(stop => stop()) })]
	stops.push(doc.subscribe(v => told.push(['b', v.n])))
	doc.subscribe(v => { if (v.n === 2) doc.subscribe(v => told.push(['late', v.n])) })
	doc.subscribe(v => told.push(['c', v.n]))
	newest().patch('2', replace('/n', 2))
	assert.deepEqual(told, [['a', 1], ['b', 1], ['c', 1], ['a', 2], ['late', 2], ['c', 2]])
	assert.deepEqual(reported.map(e => e.message), ['mine', 'mine'])
	doc.subscribe(v => { if (v.n === 3) doc.close() })
	doc.subscribe(v => told.push(['d', v.n]))
	newest().patch('3', replace('/n', 3))
	assert.deepEqual(told.slice(6), [['d', 2], ['c', 3], ['late', 3]])
	assert.deepEqual([doc.status, newest().closed, timers], ['closed', true, []])
})

test('a status handler may throw, and close', () => {
	const doc = live('/doc', { onstatus() { throw new Error('mine') } })
	newest().whole('1', 1)
	assert.deepEqual([doc.status, doc.value, reported.length], ['live', 1, 1])
	doc.close()
	for (const at of ['stale', 'live', 'connecting']) {
		const doc = live('/doc', { onstatus: s => { if (s === at) doc.close() } }), source = newest()
		source.status('stale')
		source.status('live')
		source.tell('error')
		assert.deepEqual([doc.status, source.closed, newest()], ['closed', true, source])
		pass(1e6)
		assert.equal(newest(), source)
	}
	const other = live('/doc', { onstatus: s => { if (s === 'connecting') other.close() } })
	newest().status('live')
	page.dispatchEvent(new Event('online'))
	assert.deepEqual([other.status, newest().closed, timers], ['closed', true, []])
	assert.equal(sources.filter(s => !s.closed).length, 0)
})

test('status', () => {
	const told = [], doc = live('/doc', { onstatus: s => told.push([s, doc.status]) })
	assert.equal(doc.status, 'connecting')
	newest().tell('open')
	assert.equal(doc.status, 'connecting')
	newest().status('stale')
	newest().whole('1', 1)
	assert.equal(doc.status, 'stale')
	newest().status('of another kind')
	newest().tell('error')
	pass(1000)
	newest().tell('ping', '{}')
	assert.equal(doc.status, 'connecting')
	newest().whole('2', 2)
	doc.close()
	doc.close()
	assert.deepEqual(told, ['stale', 'live', 'connecting', 'live', 'closed'].map(s => [s, s]))
})

test('patches', () => {
	const names = { 'a/b//c': 0, '~': 0, '~~1': 0, '': { '': 0 }, 'é': 0 }
	for (const [before, after, ...operations] of [
		[[1, 2, 3], [2, 3], remove('/0')],
		[[1, 2, 3], [1, 3], remove('/1')],
		[[1, 2, 3], [1, 2], remove('/2')],
		[[1, 2, 3], [0, 1, 2, 3], add('/0', 0)],
		[[1, 2, 3], [1, 2, 3, 4], add('/3', 4)],
		[[1, 2, 3], [1, 0, 3], replace('/1', 0)],
		[[[1]], [[]], remove('/0/0')],
		[{ a: 1 }, { a: 1, b: null }, add('/b', null)],
		[{ a: 1 }, { a: 2 }, add('/a', 2)],
		[{ a: 1, b: 2 }, { b: 2 }, remove('/a')],
		[{ a: {} }, { a: [] }, replace('/a', [])],
		[{}, { a: [2] }, add('/a', 1), replace('/a', {}), remove('/a'), add('/a', [1, 2]), remove('/a/0')],
		[{}, { toString: {}, constructor: { b: [] } }, add('/toString', {}), add('/constructor', {}), add('/constructor/b', [])],
		[1, { a: 2 }, replace('', {}), add('/a', 2)],
		[names, { ...names, 'a/b//c': 1, '~': 2, '~~1': 3, '': { '': 4 } }, replace('/a~1b~1~1c', 1), replace('/~0', 2), replace('/~0~01', 3), replace('//', 4)],
	]) {
		const { doc } = follow(before)
		newest().patch('2', ...operations)
		assert.deepEqual([doc.value, doc.id], [after, '2'])
	}
})

test('parts that have not changed are the same objects', () => {
	const { doc } = follow({ a: { b: [{ c: 1 }, { c: 2 }] }, d: { e: {} } })
	const before = doc.value
	newest().patch('2', replace('/a/b/1/c', 3), add('/a/x', { y: [] }), add('/a/x/y/0', 1))
	assert.deepEqual(doc.value, { a: { b: [{ c: 1 }, { c: 3 }], x: { y: [1] } }, d: { e: {} } })
	assert.deepEqual(before, { a: { b: [{ c: 1 }, { c: 2 }] }, d: { e: {} } })
	assert.equal(doc.value.d, before.d)
	assert.equal(doc.value.a.b[0], before.a.b[0])
	for (const part of ['/a', '/a/b', '/a/b/1']) assert.notEqual(doc.select(part).value, undefined)
	assert.notEqual(doc.value.a.b[1], before.a.b[1])
	// Also where the whole comes again, or a part as a whole.
	const second = doc.value
	newest().whole('3', { d: { e: {} }, a: { b: [{ c: 1 }, { c: 4 }, null], x: { y: [1] } } })
	assert.equal(doc.value.d, before.d)
	assert.equal(doc.value.a.b[0], before.a.b[0])
	assert.equal(doc.value.a.x, second.a.x)
	assert.deepEqual(doc.value.a.b, [{ c: 1 }, { c: 4 }, null])
	newest().patch('4', replace('/a/b', [{ c: 1 }, { c: 5 }]))
	assert.equal(doc.value.a.b[0], before.a.b[0])
	const last = doc.value
	newest().whole('5', structuredClone(last))
	assert.equal(doc.value, last)
	assert.equal(doc.id, '5')
})

test('what differs is not taken for equal', () => {
	const values = [{}, [], '', 0, null, false, { 0: 1 }, [1], [1, 2], { 0: 1, length: 1 }, { a: {} }, { a: [] }, { a: null }, { a: 0 }, { b: {} }, { a: {}, b: {} },
		{ toString: {} }, { length: {} }, { toString: {}, a: {} }]
	for (const a of values) {
		for (const b of values) {
			const { doc } = follow({ part: a })
			newest().whole('2', { part: b })
			assert.deepEqual(doc.value, { part: b })
			newest().patch('3', replace('/part', a))
			assert.deepEqual(doc.value, { part: a })
		}
	}
})

test('documents are frozen', () => {
	const { doc } = follow({ a: [{ b: 1 }], c: {} })
	newest().patch('2', replace('/a/0/b', 2), add('/a/1', { d: [] }), add('/e', [{}]))
	const frozen = v => Object(v) !== v || Object.isFrozen(v) && Object.values(v).every(frozen)
	assert.deepEqual(doc.value, { a: [{ b: 2 }, { d: [] }], c: {}, e: [{}] })
	assert.equal(frozen(doc.value), true)
})

test('a patch copies a list once', () => {
	const { doc } = follow({ list: Array.from({ length: 2000 }, (_, n) => ({ n })) })
	const iterator = Array.prototype[Symbol.iterator]
	let copies = 0
	Array.prototype[Symbol.iterator] = function () {
		if (this.length >= 2000) copies++
		return iterator.call(this)
	}
	try {
		newest().patch('2', ...Array.from({ length: 100 }, (_, n) => replace(`/list/${n * 20}/n`, -n)), add('/list/0', 'first'))
	} finally {
		Array.prototype[Symbol.iterator] = iterator
	}
	assert.equal(copies, 1)
	assert.deepEqual([doc.value.list.length, doc.value.list[0], doc.value.list[21]], [2001, 'first', { n: -1 }])
})

test('select', () => {
	const { doc } = follow({ prices: [{ n: 1 }, { n: 2 }], 'a/b': { '~': 'x' }, text: 'abc' }), told = []
	const log = name => part => told.push([name, part])
	doc.select('/prices/1').subscribe(log('second'))
	const stop = doc.select(d => d.prices[0]).subscribe(log('first'))
	doc.select('/prices/2/n').subscribe(log('third'))
	doc.select('/a~1b/~0').subscribe(log('escaped'))
	assert.deepEqual(told.splice(0), [['second', { n: 2 }], ['first', { n: 1 }], ['escaped', 'x']])
	newest().patch('2', replace('/prices/0/n', 3))
	newest().whole('3', { prices: [{ n: 3 }, { n: 2 }], 'a/b': { '~': 'x' }, text: 'abc' })
	assert.deepEqual(told.splice(0), [['first', { n: 3 }]])
	stop()
	newest().patch('4', add('/prices/2', { n: 4 }), replace('/prices/0/n', 5))
	newest().patch('5', remove('/prices/2'))
	assert.deepEqual(told.splice(0), [['third', 4], ['third', undefined]])
	for (const [pointer, want] of [
		['', doc.value], ['/prices', doc.value.prices], ['/prices/length'], ['/prices/01'], ['/prices/-'], ['/text/0'], ['/text/length'],
		['/toString'], ['/__proto__'], ['/prices/0/n/x'], ['prices'], ['/none/at/all'],
	]) assert.equal(doc.select(pointer).value, want)
	assert.equal(doc.select('/prices/0').value, doc.value.prices[0])
})

test('a function that selects', () => {
	const doc = live('/doc')
	let calls = 0
	const built = doc.select(d => { calls++; return d.list.filter(n => n > 1) }), told = []
	assert.equal(built.value, undefined)
	built.subscribe(v => told.push(v))
	built.subscribe(v => told.push(v))
	newest().whole('1', { list: [1, 2] })
	assert.equal(built.value, built.value)
	assert.deepEqual([calls, told], [1, [[2], [2]]])
	newest().whole('2', {}) // it throws, for each who wants it
	newest().tell('ping', '{}')
	assert.equal(reported.length, 2)
	assert.throws(() => built.value, TypeError)
	newest().whole('3', { list: [3] })
	assert.deepEqual(built.value, [3])
	assert.deepEqual(told.slice(2), [[3], [3]])
})

test('a part that makes a subscriber throw is told once', () => {
	const { doc } = follow({ a: 1, b: 1 })
	doc.select('/a').subscribe(() => { throw new Error('mine') })
	newest().patch('2', replace('/b', 2))
	assert.equal(reported.length, 1)
})

test('__proto__ is a name like others', () => {
	const text = '{"__proto__":{"x":1},"a":{}}', doc = live('/doc')
	newest().tell('message', `[{"op":"replace","path":"","value":${text}}]`, '1')
	assert.equal(JSON.stringify(doc.value), text)
	newest().patch('2', replace('/__proto__/x', 2), add('/a/__proto__', { y: 1 }), add('/a/__proto__/z', 2))
	assert.equal(JSON.stringify(doc.value), '{"__proto__":{"x":2},"a":{"__proto__":{"y":1,"z":2}}}')
	assert.equal(doc.select('/a/__proto__/z').value, 2)
	assert.deepEqual([{}.x, {}.y, Object.getPrototypeOf(doc.value), doc.value.x], [undefined, undefined, Object.prototype, undefined])
	const a = doc.value.a
	newest().tell('message', `[{"op":"replace","path":"","value":{"__proto__":{"x":3},"a":{"__proto__":{"z":2,"y":1}}}}]`, '3')
	assert.equal(doc.value.a, a)
	newest().patch('4', remove('/a/__proto__'))
	assert.deepEqual(doc.value.a, {})
	for (const path of ['/a/__proto__/x', '/constructor/x', '/constructor/prototype/x', '/toString/x']) {
		newest().patch('5', add(path, 'polluted'))
		assert.deepEqual([{}.x, Object.x, newest().closed], [undefined, undefined, true])
		pass(1000)
		newest().whole('6', { a: {} })
	}
})

// bad are patches, or other data, that do not apply to {"list":[1,2],"o":{"n":null,"s":"abc"}}.
const bad = {
	'no JSON': '[{"op":', 'nothing': '', 'an object': '{}', 'null': 'null', 'a string': '""', 'a number': '5',
	'an operation that is none': '[5]', 'null as an operation': '[null]',
	...Object.fromEntries(Object.entries({
		'a member that is not there': replace('/x', 1), 'removing what is not there': remove('/x'), 'a way that is not there': add('/x/y', 1),
		'a member of null': add('/o/n/x', 1), 'a member of a string': add('/o/s/x', 1), 'a character': replace('/o/s/0', 'x'), 'a member of a number': add('/list/0/x', 1),
		'an index beyond the end': replace('/list/2', 1), 'an index far beyond the end': add('/list/3', 1), 'removing beyond the end': remove('/list/2'),
		'-': add('/list/-', 1), '01': replace('/list/01', 1), '-1': remove('/list/-1'), '1.0': remove('/list/1.0'), 'no index': add('/list/', 1), '02': add('/list/02', 1),
		'length': replace('/list/length', 0), 'through length': add('/list/length/x', 0), 'no pointer': add('x', 1), 'no path': { op: 'add', value: 1 },
		'no value': { op: 'add', path: '/x' }, 'no value in a list': { op: 'add', path: '/list/0' }, 'no value to replace': { op: 'replace', path: '/o' },
		'no op': { path: '/o', value: 1 }, 'test': { op: 'test', path: '/o', value: 1 }, 'move': { op: 'move', path: '/o', from: '/list' },
		'removing the whole': remove(''), 'inherited': replace('/toString', 1), 'of a list': replace('/list/map', 1),
	}).map(([name, operation]) => [name, JSON.stringify([replace('/o/n', 'changed'), operation])])),
}

for (const [name, data] of Object.entries(bad)) {
	test('does not apply: ' + name, () => {
		const before = { list: [1, 2], o: { n: null, s: 'abc' } }, { doc, told } = follow(before), value = doc.value, source = newest()
		source.tell('message', data, '2')
		assert.deepEqual([source.closed, doc.status, doc.id], [true, 'connecting', undefined])
		assert.equal(doc.value, value)
		assert.deepEqual(value, before)
		source.patch('3', replace('/o', 1)) // an EventSource that goes on after its end
		assert.equal(doc.value, value)
		pass(1000)
		assert.equal(sources.length, 2)
		assert.equal(query(), '')
		newest().whole('4', { list: [], o: {} })
		assert.deepEqual([told, doc.id, doc.status], [[before, { list: [], o: {} }], '4', 'live'])
	})
}

test('a patch before the first document', () => {
	for (const operations of [[], [add('/a', 1)]]) {
		const doc = live('/doc')
		newest().patch('1', ...operations)
		assert.deepEqual([doc.value, doc.id, newest().closed], [undefined, undefined, true])
	}
})

test('reconnects with its id', () => {
	const { doc, told } = follow(1)
	newest().tell('error')
	assert.deepEqual([sources[0].closed, sources.length, doc.value, doc.id], [true, 1, 1, '1'])
	sources[0].whole('2', 2)
	assert.equal(doc.value, 1)
	pass(1000)
	assert.equal(query(), '&lastEventId=1')
	assert.equal(sources.length, 2)
	newest().whole('2', 2)
	newest().tell('error')
	pass(1000)
	assert.equal(query(), '&lastEventId=2')
	assert.deepEqual(told, [1, 2])
})

test('waits one to four seconds, then longer, up to a minute', () => {
	const { doc } = follow(1)
	const waits = r => Array.from({ length: 9 }, () => {
		random = r
		newest().tell('error')
		const ms = wait()
		pass(ms - 1)
		const n = sources.length
		pass(1)
		assert.equal(sources.length, n + 1)
		newest().tell('open') // is not yet a success
		newest().status('live') // nor is that, which each stream begins with
		return ms / 1000
	})
	assert.deepEqual(waits(0), [1, 2, 4, 8, 15, 15, 15, 15, 15])
	newest().tell('ping', '{}')
	assert.deepEqual(waits(1), [4, 8, 16, 32, 60, 60, 60, 60, 60])
	newest().whole('2', 2)
	assert.equal(waits(0.5)[0], 2.5)
	assert.equal(doc.value, 2)
})

test('reconnects where nothing is heard for long', () => {
	const { doc } = follow(1)
	assert.equal(wait(), 45000)
	pass(44999)
	assert.equal(newest().closed, false)
	newest().tell('ping', '{}')
	pass(44999)
	newest().status('live', 1000)
	assert.equal(wait(), 3000)
	pass(2999)
	newest().tell('open')
	pass(2999)
	assert.deepEqual([newest().closed, doc.status], [false, 'live'])
	pass(1)
	assert.deepEqual([newest().closed, doc.status, sources.length], [true, 'connecting', 1])
	pass(1000)
	assert.equal(query(), '&lastEventId=1')
	// It listens longer now, until there is more than a status.
	for (const silence of [6000, 12000, 24000, 48000, 48000]) {
		newest().tell('open')
		newest().status('live', 1000)
		assert.equal(wait(), silence)
		pass(silence)
		pass(wait())
	}
	newest().tell('ping', '{}')
	assert.equal(wait(), 3000)
	newest().tell('status', '{"state":"live"}') // from one that does not say
	assert.equal(wait(), 45000)
	newest().status('live', 30 * 24 * 3600e3)
	assert.equal(wait(), 2 ** 31 - 1) // above that a timer is over at once
})

test('a connection that is never made', () => {
	live('/doc')
	pass(45000)
	assert.equal(sources[0].closed, true)
	pass(1000)
	assert.equal(sources.length, 2)
})

test('a status that cannot be read', () => {
	follow(1)
	newest().tell('status', '{')
	assert.equal(newest().closed, true)
})

test('online again, and back from the cache', () => {
	const { doc } = follow(1)
	for (const type of ['online', 'pageshow']) {
		newest().tell('error')
		newest().tell('error')
		const n = sources.length
		page.dispatchEvent(Object.assign(new Event(type), type === 'pageshow' && { persisted: true }))
		assert.deepEqual([sources.length, query(), doc.status, wait()], [n + 1, '&lastEventId=1', 'connecting', 45000])
		newest().tell('error')
		assert.equal(wait(), 1000)
		pass(1000)
		newest().status('live')
	}
	const source = newest()
	page.dispatchEvent(Object.assign(new Event('pageshow'), { persisted: false }))
	assert.equal(newest(), source)
	page.dispatchEvent(new Event('online')) // the old connection may be dead
	assert.deepEqual([source.closed, newest().closed, doc.status], [true, false, 'connecting'])
	doc.close()
	page.dispatchEvent(new Event('online'))
	assert.equal(sources.filter(s => !s.closed).length, 0)
})

test('close', () => {
	const { doc, told } = follow(1)
	doc.close()
	assert.deepEqual([doc.status, doc.value, doc.id, newest().closed, timers], ['closed', 1, '1', true, []])
	newest().whole('2', 2)
	newest().tell('error')
	pass(1e6)
	assert.deepEqual([told, sources.length], [[1], 1])
	doc.subscribe(v => told.push(['late', v]))
	assert.deepEqual(told, [1, ['late', 1]])
	// While it waits.
	const waiting = live('/doc')
	newest().tell('error')
	waiting.close()
	pass(1e6)
	assert.equal(sources.length, 2)
})

test('on a server', () => {
	delete globalThis.EventSource
	delete globalThis.addEventListener
	delete globalThis.removeEventListener
	const doc = live('/doc')
	doc.subscribe(() => assert.fail())
	assert.deepEqual([doc.value, doc.status, doc.select('/a').value, timers], [undefined, 'connecting', undefined, []])
	doc.close()
	assert.equal(doc.status, 'closed')
})
