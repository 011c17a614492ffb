// From the agent's answers to what is drawn: workloads, and links between them with their rates.
// Pure but for the memory of earlier answers, from which rates come.

import { isRefusal, kindOf } from "./kinds.js";

/** Samples kept for the small curves: two minutes at one every two seconds. */
const SAMPLES = 60;
const COUNTERS = ["opened", "bytesSent", "bytesReceived", "requests", "refusals"];

/** Everything that is known after the answers so far. */
export class Model {
  nodes = new Map();
  links = new Map();
  now = 0;
  node = "";
  #memory = new Map();

  /** Takes one answer of `/map.json`; `at` is the time of arrival, in milliseconds. */
  take(answer, at) {
    this.now = Date.parse(answer.now) || Date.now();
    this.node = answer.node ?? "";
    this.nodes = new Map();
    for (const workload of answer.workloads ?? []) this.#workload(workload);
    this.links = this.#merge(answer.edges ?? []);
    for (const link of this.links.values()) this.#remember(link, at);
    for (const id of this.#memory.keys()) if (!this.links.has(id)) this.#memory.delete(id);
  }

  #workload(workload) {
    // Edges tell of a Deployment or the like, so all its pods are one node.
    const name = workload.workload ?? workload.name;
    const id = `${workload.namespace}/${name}`;
    const known = this.nodes.get(id);
    if (!known) {
      this.nodes.set(id, { id, ...workload, name, pods: [workload.name], known: true });
      return;
    }
    known.pods.push(workload.name);
    known.addresses = [...known.addresses, ...(workload.addresses ?? [])];
    known.enrolled &&= workload.enrolled;
    known.certificate ??= workload.certificate;
    // One node is named only where there is one.
    if (known.node !== workload.node) known.node = null;
  }

  /** The node of one end; ends that are no workload of the mesh get one of their own. */
  #end(party, service) {
    const namespace = meaningful(party?.namespace);
    const name = meaningful(party?.workload);
    const id = name ? `${namespace ?? ""}/${name}` : service ? `/${service}` : "/unknown";
    if (!this.nodes.has(id)) {
      this.nodes.set(id, {
        id,
        namespace: namespace ?? "",
        name: name ?? service ?? "unknown addresses",
        identity: meaningful(party?.identity),
        enrolled: Boolean(meaningful(party?.identity)),
        addresses: [],
        policies: [],
        known: Boolean(name),
      });
    }
    return id;
  }

  /** One link a pair and kind: both reporters of a connection tell of the same one. */
  #merge(edges) {
    const pairs = new Map();
    for (const edge of edges) {
      const source = this.#end(edge.source, null);
      const target = this.#end(edge.destination, meaningful(edge.service));
      const key = `${source}|${target}`;
      if (!pairs.has(key)) pairs.set(key, { source, target, edges: [] });
      pairs.get(key).edges.push(edge);
    }
    const links = new Map();
    for (const pair of pairs.values()) {
      for (const link of linksOf(pair)) links.set(link.id, link);
    }
    return links;
  }

  #remember(link, at) {
    const before = this.#memory.get(link.id);
    const sample = Object.fromEntries(COUNTERS.map((name) => [name, link[name]]));
    const seconds = before ? (at - before.at) / 1000 : 0;
    const rates = {};
    for (const name of COUNTERS) {
      // A counter that fell is one of an agent started anew: what it shows came since.
      const risen = before ? sample[name] - before.sample[name] : 0;
      rates[name] = seconds > 0 ? Math.max(0, risen < 0 ? sample[name] : risen) / seconds : 0;
    }
    const history = before?.history ?? [];
    history.push(link.kind === "refused" ? rates.refusals : rates.bytesSent + rates.bytesReceived);
    if (history.length > SAMPLES) history.shift();
    this.#memory.set(link.id, { at, sample, history });
    Object.assign(link, { rates, history });
  }
}

function linksOf({ source, target, edges }) {
  const made = [];
  for (const kind of ["mtls", "local", "plain"]) {
    const of = edges.filter((edge) => kindOf(edge.security) === kind && carried(edge));
    if (of.length) made.push(link(source, target, kind, ...views(of)));
  }
  const refusals = refusalsOf(edges);
  if (refusals.size) {
    const of = edges.filter((edge) => refusedBy(edge) > 0);
    const total = [...refusals.values()].reduce((sum, number) => sum + number, 0);
    const [one] = views(of);
    made.push({ ...link(source, target, "refused", one, of), refusals: total, reasons: refusals, open: 0 });
  }
  return made;
}

/** Where both ends report, the source's word counts: it knows the service that was asked for. */
function views(edges) {
  const bySource = edges.filter((edge) => edge.reporter === "source");
  return [bySource.length ? bySource : edges, edges];
}

function link(source, target, kind, edges, all) {
  const sum = (name) => edges.reduce((total, edge) => total + (edge[name] ?? 0), 0);
  const last = all.map((edge) => Date.parse(edge.lastOpened)).filter(Number.isFinite);
  return {
    id: `${source}|${target}|${kind}`,
    source, target, kind,
    services: [...new Set(edges.map(serviceOf).filter(Boolean))].sort(),
    identities: [identityOf(all, "source"), identityOf(all, "destination")],
    open: sum("open"),
    opened: sum("opened"),
    bytesSent: sum("bytesSent"),
    bytesReceived: sum("bytesReceived"),
    requests: sum("requests"),
    refusals: 0,
    reasons: new Map(),
    handshake: slowest(all.map((edge) => edge.handshakeMs)),
    firstByte: slowest(all.map((edge) => edge.firstByteMs)),
    last: last.length ? Math.max(...last) : null,
  };
}

/** Whether anything of an edge was carried: one that was only ever refused is no plaintext. */
function carried(edge) {
  const moved = (edge.bytesSent ?? 0) + (edge.bytesReceived ?? 0) + (edge.open ?? 0) > 0;
  return moved || (edge.opened ?? 0) > refusedBy(edge);
}

function refusedBy(edge) {
  return Object.entries(edge.refused ?? {})
    .reduce((sum, [reason, number]) => sum + (isRefusal(reason) ? number : 0), 0);
}

/** Refusals by reason: those of one end added up, and of both ends the larger number. */
function refusalsOf(edges) {
  const all = new Map();
  for (const reporter of ["source", "destination"]) {
    const own = new Map();
    for (const edge of edges.filter((one) => one.reporter === reporter)) {
      for (const [reason, number] of Object.entries(edge.refused ?? {})) {
        if (isRefusal(reason) && number > 0) own.set(reason, (own.get(reason) ?? 0) + number);
      }
    }
    for (const [reason, number] of own) all.set(reason, Math.max(all.get(reason) ?? 0, number));
  }
  return all;
}

export function slowest(quantiles) {
  const known = quantiles.filter(Boolean);
  if (!known.length) return null;
  return { p50: Math.max(...known.map((q) => q.p50)), p99: Math.max(...known.map((q) => q.p99)) };
}

function serviceOf(edge) {
  // As one writes it in the cluster: `cart.shop`.
  const service = meaningful(edge.service)?.replace(/\.svc\..+$/, "");
  return service ? (edge.port ? `${service}:${edge.port}` : service) : edge.port ? `port ${edge.port}` : null;
}

function identityOf(edges, end) {
  return edges.map((edge) => meaningful(edge[end]?.identity)).find(Boolean) ?? null;
}

/** What is there and is not Istio's word for nothing. */
function meaningful(text) {
  return text && text !== "unknown" ? text : null;
}
