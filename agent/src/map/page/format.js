// Numbers, times and names as a person reads them.

/** 1234 → `1.2 k`. */
export function count(value) {
  if (value < 1000) return String(Math.round(value));
  if (value < 1e6) return `${trim(value / 1e3)} k`;
  return `${trim(value / 1e6)} M`;
}

/** A rate a second, with as many digits as it is worth. */
export function rate(value) {
  if (!value) return "0";
  if (value < 0.1) return "<0.1";
  if (value < 10) return value.toFixed(1);
  return count(value);
}

/** Bytes, in powers of 1024. */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let left = value;
  while (left >= 1024 && unit < units.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(left) : trim(left)} ${units[unit]}`;
}

/** Milliseconds. */
export function millis(value) {
  if (value == null) return "–";
  if (value < 1) return `${value.toFixed(2)} ms`;
  if (value < 10) return `${value.toFixed(1)} ms`;
  if (value < 1000) return `${Math.round(value)} ms`;
  return `${trim(value / 1000)} s`;
}

/** How long ago, or how far ahead, `then` is of `now`; both in milliseconds. */
export function span(then, now) {
  const seconds = Math.abs(then - now) / 1000;
  const text =
    seconds < 60 ? `${Math.round(seconds)} s`
    : seconds < 3600 ? `${Math.floor(seconds / 60)} min`
    : seconds < 172800 ? `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`
    : `${Math.floor(seconds / 86400)} days`;
  return then >= now + 1000 ? `in ${text}` : seconds < 2 ? "just now" : `${text} ago`;
}

/** A time of day, or date and time. */
export function clock(time) {
  return new Date(time).toLocaleTimeString(undefined, { hour12: false });
}

export function moment(time) {
  return new Date(time).toISOString().replace("T", " ").replace(/(\.\d+)?Z$/, " UTC");
}

/** `spiffe://cluster.local/ns/shop/sa/cart` → `shop/cart`. */
export function account(identity) {
  const parts = /\/ns\/([^/]+)\/sa\/([^/]+)$/.exec(identity ?? "");
  return parts ? `${parts[1]}/${parts[2]}` : null;
}

/** `policy_denied` → `policy denied`. */
export function words(label) {
  return label.replaceAll("_", " ");
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

function trim(value) {
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}
