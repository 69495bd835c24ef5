export function live(url) { throw new Error("not yet") }
