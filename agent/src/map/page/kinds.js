// The kinds of connection: each with a colour (in the style sheets), a symbol, a line and words, so
// that nobody has to tell them apart by colour.

export const KINDS = [
  { id: "mtls", short: "Mutual TLS", long: "mutual TLS: both ends proved who they are" },
  { id: "local", short: "Same node", long: "on one node, inside the kernel: identities known, nothing on the wire" },
  { id: "plain", short: "Plaintext", long: "plaintext: nobody proved who they are" },
  { id: "refused", short: "Refused", long: "refused: the connection was not carried" },
];

/** Ends that a connection comes to after it was carried; all other reasons are refusals. */
const AFTERWARDS = new Set([
  "ok", "peer_reset", "application_reset", "peer_gone", "draining", "abandoned",
  "policy_changed", "root_revoked",
]);

export function isRefusal(reason) {
  return !AFTERWARDS.has(reason);
}

export function kindOf(security) {
  return security === "mutual_tls" ? "mtls" : security === "local" ? "local" : "plain";
}

export function kind(id) {
  return KINDS.find((one) => one.id === id);
}

// Drawn in a box of 16 by 16, by strokes.
const SHAPES = {
  mtls: "M3.75 7.25h8.5v6.5h-8.5zM5.5 7.25v-2a2.5 2.5 0 0 1 5 0v2M8 9.75v1.5",
  local: "M3.75 7.25h8.5v6.5h-8.5zM5.5 7.25v-2a2.5 2.5 0 0 1 5 0v2M6 10.5h4",
  plain: "M3.75 7.25h8.5v6.5h-8.5zM5.5 7.25v-3a2.5 2.5 0 0 1 4.7-1.2",
  refused: "M8 2.25a5.75 5.75 0 1 0 0 11.5a5.75 5.75 0 1 0 0-11.5M4 4l8 8",
};

/** The path of a kind's symbol. */
export function shape(id) {
  return SHAPES[id];
}
