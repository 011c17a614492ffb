// Asks the agent again and again: one question at a time, none while nobody looks.

const EVERY = 2000;
const SLOWEST = 15_000;
const LIMIT = 8000;

/** Fetches JSON within a time. */
export async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(LIMIT) });
  const text = await answer.text();
  let body = null;
  try { body = JSON.parse(text); } catch { /* said below: an answer that is no JSON is an error */ }
  if (!answer.ok) throw new Error(body?.error ?? `${path} answered ${answer.status}`);
  if (body === null) throw new Error(`${path} answered with something that is no JSON`);
  return body;
}

/** Calls `took(answer)` for every answer of `path`, and `failed(error)` when there is none. */
export class Feed {
  #path;
  #took;
  #failed;
  #timer = 0;
  #asking = false;
  #failures = 0;
  paused = false;

  constructor(path, took, failed) {
    this.#path = path;
    this.#took = took;
    this.#failed = failed;
    document.addEventListener("visibilitychange", () => document.hidden || this.now());
  }

  /** Asks at once, unless a question is on its way. */
  async now() {
    clearTimeout(this.#timer);
    if (this.#asking || this.paused) return;
    this.#asking = true;
    let answer = null;
    try {
      answer = await ask(this.#path);
      this.#failures = 0;
    } catch (error) {
      this.#failures += 1;
      this.#failed(error, this.#failures);
    }
    this.#asking = false;
    // Hidden pages ask nothing; they are told when they are seen again.
    const wait = Math.min(SLOWEST, EVERY * 2 ** Math.max(0, this.#failures - 1));
    if (!this.paused && !document.hidden) this.#timer = setTimeout(() => this.now(), wait);
    // Last: a fault of the page's own is thrown as such, and is not taken for the agent's.
    if (answer) this.#took(answer);
  }

  pause(paused) {
    this.paused = paused;
    if (paused) clearTimeout(this.#timer);
    else this.now();
  }
}
