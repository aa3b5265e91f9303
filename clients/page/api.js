// Calls to the server. What only needs patience (a lost connection, a full queue, a model that is loading) is waited for and
// said; all else that goes wrong is a `Problem`.

import { key } from './key.js';

/** What the server refused, or why it can't be asked: a problem document (RFC 9457). */
export class Problem extends Error {
  constructor(document, status = 0) {
    super(document.detail || document.title || `The server answered ${status}.`);
    this.title = document.title ?? 'The request failed';
    this.errors = document.errors ?? [];
    this.status = status;
  }
}

/** How the connection is: `state` is ok, lost, busy, waiting or key. Fires `change`. */
class Connection extends EventTarget {
  state = 'ok';
  detail = '';
  until = 0;

  /** Whether the server has another page than this one by now. */
  outdated = false;

  say(state, detail = '', seconds = 0) {
    if (state === 'ok' && this.state === 'ok') return;
    // Who was away may come back as another version.
    if (state === 'ok' && ['lost', 'waiting'].includes(this.state)) this.#compare();
    Object.assign(this, { state, detail, until: Date.now() + seconds * 1000 });
    this.dispatchEvent(new Event('change'));
  }

  async #compare() {
    const [, build] = new URL(import.meta.url).pathname.match(/assets\/([^/]+)/) ?? [];
    const tag = await fetch('/', { method: 'HEAD' }).then(answer => answer.headers.get('etag') ?? '', () => '');
    if (!tag || tag.includes(build)) return;
    this.outdated = true;
    this.dispatchEvent(new Event('change'));
  }
}
export const connection = new Connection();

const LONGEST_PAUSE = 8;
/** Needs no key, so that its answer says nothing of one. */
const OPEN = '/v1/version';

/** Resolves after some seconds, or at once when the browser is online again; rejects when `signal` is aborted. */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const over = () => {
      clearTimeout(timer);
      removeEventListener('online', done);
      signal?.removeEventListener('abort', aborted);
    };
    const done = () => { over(); resolve(); };
    const aborted = () => { over(); connection.say('ok'); reject(signal.reason); };
    const timer = setTimeout(done, seconds * 1000);
    addEventListener('online', done);
    if (signal?.aborted) aborted();
    else signal?.addEventListener('abort', aborted);
  });
}

/** One request, sent again while the server is away, full or starting. */
async function send(path, { method, body, headers = {}, signal, accept = 'application/json' } = {}) {
  const sent = { accept, ...key.header(), ...headers };
  if (body !== undefined && !(body instanceof Blob)) {
    sent['content-type'] ??= 'application/json';
    if (typeof body !== 'string') body = JSON.stringify(body);
  }
  for (let wait = 0.5; ; wait = Math.min(wait * 2, LONGEST_PAUSE)) {
    let response;
    try {
      response = await fetch(path, { method: method ?? (body === undefined ? 'GET' : 'POST'), body, headers: sent, signal });
    } catch (error) {
      if (signal?.aborted) throw error;
      connection.say('lost', '', wait);
      await pause(wait, signal);
      continue;
    }
    if (response.ok) {
      if (connection.state !== 'key' || path !== OPEN) connection.say('ok');
      return response;
    }
    const document = await response.json().catch(() => ({}));
    if (response.status === 429 || response.status === 503) {
      const seconds = Math.max(wait, Number(response.headers.get('retry-after')) || 0);
      connection.say(response.status === 429 ? 'busy' : 'waiting', document.detail ?? '', seconds);
      await pause(seconds, signal);
      continue;
    }
    connection.say(response.status === 401 ? 'key' : 'ok', document.detail ?? '');
    throw new Problem(document, response.status);
  }
}

/** The JSON of an answer. */
export const ask = async (path, options) => (await send(path, options)).json();

/** An answer as a file. */
export const file = async (path, options) => (await send(path, { accept: '*/*', ...options })).blob();

/** Hands an experiment in as a job. Sent again with its key it is the same job, so that nothing is computed twice. */
export function submit(kind, body, signal) {
  const headers = { prefer: 'respond-async', 'idempotency-key': crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` };
  return ask(`/v1/${kind}`, { body, headers, signal });
}

const OVER = ['succeeded', 'failed', 'cancelled', 'expired'];

/** Follows a job until it is over and gives it back. `heard` gets each event once; a stream that is cut goes on after the last. */
export async function follow(id, heard, signal) {
  let after = 0;
  for (let wait = 0.5; ; wait = Math.min(wait * 2, LONGEST_PAUSE)) {
    try {
      const response = await send(`/v1/jobs/${id}/events`, {
        accept: 'text/event-stream', headers: { 'last-event-id': String(after) }, signal,
      });
      for await (const event of events(response.body)) {
        if (Number(event.id) > after) {
          after = Number(event.id);
          wait = 0.5;
          heard(event);
        }
      }
    } catch (error) {
      if (error instanceof Problem || signal?.aborted) throw error;
    }
    const job = await ask(`/v1/jobs/${id}`, { signal });
    if (OVER.includes(job.state)) return job;
    await pause(wait, signal);
  }
}

/**
 * Has an experiment computed while it is listened to. `heard` gets what happens, each event once; a stream that is cut goes on after
 * the last one, and one that the server has forgotten begins anew with `start`. Gives back the result, or the job that the server makes
 * of what takes long.
 */
export async function listen(kind, body, heard, signal) {
  let last = '';
  for (let wait = 0.5; ; wait = Math.min(wait * 2, LONGEST_PAUSE)) {
    try {
      const response = await send(`/v1/${kind}`, { body, accept: 'text/event-stream', headers: last ? { 'last-event-id': last } : {}, signal });
      if (!response.headers.get('content-type').startsWith('text/event-stream')) return { job: await response.json() };
      for await (const event of events(response.body)) {
        if (event.name === 'result') return { result: event.data };
        if (event.name === 'error') throw new Problem(event.data, event.data.status);
        last = event.id ?? '';
        wait = 0.5;
        heard(event);
      }
    } catch (error) {
      if (error instanceof Problem || signal?.aborted) throw error;
    }
    connection.say('lost', '', wait);
    await pause(wait, signal);
  }
}

/** Milliseconds without a sign of life after which a stream is taken for dead: the server gives one every 10 seconds. */
const SILENT = 25_000;

/** The texts of a stream, which ends with an error where nothing comes any more. */
async function* texts(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      let timer;
      const silent = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error('nothing comes any more')), SILENT); });
      const { done, value } = await Promise.race([reader.read(), silent]).finally(() => clearTimeout(timer));
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Server-sent events of a body. */
async function* events(body) {
  let rest = '';
  for await (const text of texts(body)) {
    const blocks = (rest + text).split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = {};
      for (const line of block.split('\n')) {
        const at = line.indexOf(':');
        if (at > 0) fields[line.slice(0, at)] = line.slice(at + 1).trimStart();
      }
      if (fields.data) yield { id: fields.id, name: fields.event, data: JSON.parse(fields.data) };
    }
  }
}
