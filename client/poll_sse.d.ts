/**
 * Follows the JSON document behind a URL that poll_sse serves, from now until `close()`.
 *
 * It uses the browser's EventSource, and reconnects by itself after whatever ends one: a
 * proxy's 502, a clean end, a reset, a connection that has fallen silent. It says where it
 * left off, and is sent what it has missed. Where there is no EventSource, as where pages
 * are rendered on a server, it stays `connecting` and never has a document.
 *
 * ```js
 * const prices = live('/api/prices')
 * const stop = prices.subscribe(doc => render(doc))
 * ```
 *
 * @typeParam T what the document looks like
 * @param url the URL that a browser without poll_sse would poll. Its query goes on to the
 *   server, which knows `sse_select=/prices/3` too, and then sends that part only, as if it
 *   were the document. For the same part without another connection see `select`.
 */
export function live<T = unknown>(url: string | URL, options?: LiveOptions): Live<T>

export interface LiveOptions {
  /** The name of the events, where the directive has the option `event`. */
  event?: string
  /** Is called with each new status. The first one, `connecting`, is not told. */
  onstatus?: (status: Status) => void
  /** Whether requests to another origin carry cookies; `false` by default. */
  withCredentials?: boolean
}

/**
 * - `connecting`: there is no connection, or nothing has come over it yet; the last
 *   document stays. The next attempt comes after one to four seconds, each further one
 *   twice as late, after a minute at most; at once where the browser says that it is
 *   online again, or that the page has come back from its cache.
 * - `live`: the server polls good documents; the one here is the newest that it has sent.
 * - `stale`: the connection is there, but the server polls no good documents at present.
 * - `closed`: `close()` was called.
 */
export type Status = 'connecting' | 'live' | 'stale' | 'closed'

/** A document that follows the one on the server. */
export interface Live<T> {
  /**
   * The newest document, `undefined` before the first one came.
   *
   * Documents are frozen. A new one shares with the one before, and with all before that,
   * the parts that are equal (`===`); those of lists, index by index where the server sends
   * a list as a whole.
   */
  readonly value: Immutable<T> | undefined

  /**
   * The event id of the document. `undefined` before the first one, and while the client
   * starts over, because a patch did not apply.
   */
  readonly id: string | undefined

  readonly status: Status

  /**
   * Calls `subscriber` with each new document, and right now if there is one: each is told
   * once, and in order. What it throws is reported as an uncaught error, and disturbs
   * nobody else. Returns the function that ends the subscription.
   */
  subscribe(subscriber: (document: Immutable<T>) => void): () => void

  /**
   * A part of the document, over the same connection: what a JSON Pointer (RFC 6901) leads
   * to, such as `/prices/3`, or what a function returns.
   *
   * A function is called once for each document. It has to return a part of the document, or
   * a string, number or boolean: what it builds is another object each time.
   */
  select<P>(part: (document: Immutable<T>) => P): Selection<P>
  select<P = unknown>(pointer: string): Selection<Immutable<P> | undefined>

  /** Ends the connection and all subscriptions, for good. The last document stays. */
  close(): void
}

/** A part of a document. */
export interface Selection<P> {
  /** `undefined` before there is a document, and where the document has no such part. */
  readonly value: P | undefined

  /**
   * Calls `subscriber` with the part whenever that has changed (`!==`), and right now if
   * there is one; with `undefined` when it has gone. Returns the function that ends the
   * subscription.
   */
  subscribe(subscriber: (part: P) => void): () => void
}

/** `T` as it may be read, but not changed. */
export type Immutable<T> = T extends object ? { readonly [K in keyof T]: Immutable<T[K]> } : T
