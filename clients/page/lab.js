// What the page knows: the experiment that is being written, what the server says about it, and what the views have asked. Views read
// it and call its methods; it fires `change`.

import { Problem, ask, connection, follow, listen, submit } from './api.js';
import { Texts, begun, more } from './live.js';
import * as link from './link.js';

/** Milliseconds without a key before the server is asked. */
const PAUSE = 120;
/** Fields of the page by their places in requests, of those that cures of lints change. */
const CURED = { '/corrupt/samples': 'samples', '/prompt': 'prompt', '/base': 'prompt', '/source': 'source', '/target': 'target', '/target_scoring': 'scoring', '/samples': 'texts' };
const NOTHING = { tokens: [], mark: null, tokenLints: [], problem: null, isSubject: false, plan: null, planProblem: null, run: null, runProblem: null, runOf: '' };

export class Lab extends EventTarget {
  view = 'workbench';
  /** What a link holds. */
  given = link.initial();
  /** What the server says about it. */
  live = { ...NOTHING };
  /** The model and what the server can do. */
  facts = { model: null, capabilities: null, version: null, examples: null };
  /** By view: the job that it shows. */
  jobs = {};
  #timer = 0;
  #lookup = null;
  #runs = null;
  #views;

  /** `views` by name have `kind` and `body(given, lab)`: the request that a view asks for, or null. */
  constructor(views) {
    super();
    this.#views = views;
    addEventListener('hashchange', () => this.#follow());
    this.#follow(false);
    this.#meet();
  }

  changed() {
    this.dispatchEvent(new Event('change'));
  }

  /** Sets fields and asks the server about them. */
  set(fields) {
    const before = JSON.stringify(this.body());
    Object.assign(this.given, fields);
    // What only changes how a result is shown keeps it.
    if (JSON.stringify(this.body()) !== before) this.given.r = '';
    this.#address();
    this.ask();
    this.changed();
  }

  /** The fields that a cure of a lint sets, or null where the page has no field for it. */
  cure(changes) {
    const fields = {};
    for (const { path, value } of changes) {
      const [name, set] = path === '/corrupt' ? ['samples', value.samples] : [CURED[path], value];
      if (name === undefined || typeof set === 'object' || set === undefined) return null;
      fields[name] = set;
    }
    return fields;
  }

  /** The request of a view, as short as it can be written. */
  body(view = this.view, given = this.given) {
    return this.#views[view]?.body?.(given, this) || null;
  }

  /** Whether what is wrong with the prompt keeps a view from asking. Only traces have a subject. */
  isBlocked(view = this.view) {
    const { problem, isSubject } = this.live;
    return !!problem && !this.#views[view].alone && !(isSubject && view !== 'trace');
  }

  kind(view = this.view) {
    return this.#views[view]?.kind;
  }

  /** The subject as requests name it: a text, or a range of tokens. */
  subject() {
    const { subject, tokens } = this.given;
    if (!tokens) return subject;
    return tokens.split('-').map(Number);
  }

  /** Marks tokens as the subject: by their text where it occurs once, so that the link can be read. */
  mark(range) {
    if (!range) return this.set({ subject: '', tokens: '' });
    const [from, to] = range;
    const { tokens } = this.live;
    const characters = [...this.given.prompt];
    const text = characters.slice(tokens[from].start, tokens[to - 1].end).join('').trim();
    const once = text && this.given.prompt.split(text).length === 2;
    const cuts = tokens.slice(from, to).some(token => token.end <= token.start) || /<[0-9A-F]{2}>/.test(tokens[from].text + tokens[to - 1].text);
    this.live.mark = range;
    return this.set(once && !cuts ? { subject: text, tokens: '' } : { subject: '', tokens: `${from}-${to}` });
  }

  show(view) {
    location.hash = link.write(view, { ...this.given, r: this.jobs[view]?.of === JSON.stringify(this.body(view)) ? this.jobs[view].id ?? '' : '' });
  }

  /** Asks the server about what is written, when nobody has typed for a moment. */
  ask(wait = PAUSE) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), wait);
  }

  async #ask() {
    this.#lookup?.abort();
    const { signal } = (this.#lookup = new AbortController());
    try {
      await this.#tokens(signal);
      this.#top();
      await this.#plan(signal);
    } catch (error) {
      if (!signal.aborted && !(error instanceof Problem)) throw error;
    }
    if (!signal.aborted) this.changed();
  }

  async #tokens(signal) {
    const { prompt } = this.given;
    const subject = this.subject();
    const read = spans => ask('/v1/tokenize', { body: { prompt, ...(spans && { spans }) }, signal });
    const set = (answer, problem, isSubject = false) => {
      Object.assign(this.live, { tokens: answer?.tokens ?? [], mark: answer?.spans?.subject ?? null, tokenLints: answer?.lints ?? [], problem, isSubject });
      this.changed();
    };
    if (!prompt) return set(null, null);
    try {
      set(await read(subject.length ? { subject } : null), null);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      const isSubject = error.errors.length && error.errors.every(({ pointer }) => pointer.startsWith('/spans'));
      // The tokens are wanted all the more when the subject is not among them.
      set(isSubject ? await read(null) : null, error, isSubject);
    }
  }

  async #plan(signal) {
    // Who is at the workbench is about to trace.
    const view = this.view === 'workbench' ? 'trace' : this.view;
    const [body, kind] = [this.body(view), this.kind(view)];
    if (!body || this.isBlocked(view)) {
      Object.assign(this.live, { plan: null, planProblem: null });
      return;
    }
    try {
      Object.assign(this.live, { plan: await ask('/v1/plan', { body: { [kind]: body }, signal }), planProblem: null });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      Object.assign(this.live, { plan: null, planProblem: error });
    }
  }

  /** The clean run of the workbench. One at a time, and then the latest that is wanted: the engine finishes what it began. */
  async #top() {
    const wanted = this.view === 'workbench' && this.given.prompt && !(this.live.problem && !this.live.tokens.length) && this.body('workbench');
    this.#runs = wanted || null;
    if (this.asking) return;
    while (this.#runs && this.live.runOf !== JSON.stringify(this.#runs)) {
      const body = this.#runs;
      this.asking = true;
      this.changed();
      try {
        const run = await ask('/v1/run', { body });
        Object.assign(this.live, { run, runProblem: null, runOf: JSON.stringify(body) });
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        Object.assign(this.live, { runProblem: error, runOf: JSON.stringify(body) });
      } finally {
        this.asking = false;
        this.changed();
      }
    }
  }

  /** What a view shows from now on: a request and what comes of it. */
  #take(view) {
    this.#drop(view);
    const body = this.body(view);
    const job = { of: JSON.stringify(body), body, kind: this.kind(view), stop: new AbortController(), since: Date.now(), state: 'sent', view: null, result: null, problem: null };
    this.jobs[view] = job;
    this.changed();
    return job;
  }

  /** Has the request of a view computed: while it is listened to, or as a job. */
  async start(view = this.view) {
    const job = this.#take(view);
    const { kind, body, stop } = job;
    await this.#mind(job, async () => {
      if (kind === 'sweep') job.view = await submit(kind, body, stop.signal);
      else {
        const { job: later, result } = await listen(kind, body, event => this.#told(job, event), stop.signal);
        if (result) return this.#show(view, job, result);
        job.view = later;
      }
      return this.#finish(view, job);
    });
  }

  /** Shows a job or a result by its id, as links name it. */
  async open(view, id) {
    if (this.jobs[view]?.id === id) return;
    const job = this.#take(view);
    const { signal } = job.stop;
    await this.#mind(job, async () => {
      if (id.startsWith('job_')) {
        job.view = await ask(`/v1/jobs/${id}`, { signal });
        return this.#finish(view, job);
      }
      try {
        return this.#show(view, job, await ask(`/v1/results/${id}`, { signal }));
      } catch (error) {
        // It is kept no longer: what was asked is in the link.
        if (!(error instanceof Problem) || error.status !== 404) throw error;
        this.#drop(view);
        return this.#name(view, job, '');
      }
    });
  }

  #show(view, job, result) {
    Object.assign(job, { result, partial: null, state: 'succeeded', id: result.id });
    this.#name(view, job, result.id);
  }

  /** Has the link name what is shown. */
  #name(view, job, id) {
    if (view !== this.view || job.of !== JSON.stringify(this.body(view))) return;
    this.given.r = id;
    this.#address();
  }

  /** Something happened to what is listened to. */
  #told(job, event) {
    const { name, data } = event;
    if (name === 'start') {
      Object.assign(job, { state: 'running', began: Date.now(), partial: job.kind === 'generate' ? new Texts(data) : begun(data) });
      job.view = { progress: { done: 0, total: 1 } };
    } else if (name === 'progress') job.view = { progress: { done: data.done, total: data.all }, eta_s: data.seconds_left };
    else if (name === 'cells') job.partial = more(job.partial, data);
    else job.partial.hear(event);
    this.changed();
  }

  async #mind(job, work) {
    try {
      await work();
    } catch (error) {
      if (job.stop.signal.aborted) return;
      if (!(error instanceof Problem)) throw error;
      Object.assign(job, { problem: error, state: 'refused' });
    } finally {
      this.changed();
    }
  }

  async #finish(view, job) {
    job.id = job.view.id;
    job.state = job.view.state;
    this.#name(view, job, job.id);
    this.changed();
    const over = await follow(job.id, event => this.#heard(job, event), job.stop.signal);
    Object.assign(job, { view: over, state: over.state });
    this.changed();
    // A sweep that ended early has what it found.
    if (over.state === 'succeeded' || (job.kind === 'sweep' && over.state !== 'expired')) job.result = await ask(`/v1/jobs/${job.id}/result`, { signal: job.stop.signal });
  }

  #heard(job, { name, data }) {
    if (name === 'state') job.state = data.state;
    if (name === 'progress') Object.assign(job.view, { progress: { ...job.view.progress, done: data.units_done, total: data.units_total }, eta_s: data.eta_s });
    this.changed();
    if (name === 'progress' && job.kind === 'sweep') this.#fill(job);
  }

  /** What a sweep has found so far, not more often than one can look. */
  async #fill(job) {
    if (job.filling || Date.now() - (job.filled ?? 0) < 1500) return;
    job.filling = true;
    try {
      const result = await ask(`/v1/jobs/${job.id}/result?partial=true`, { signal: job.stop.signal });
      if (job.state === 'running') job.result = result;
    } catch (error) {
      if (!(error instanceof Problem) && !job.stop.signal.aborted) throw error;
    }
    Object.assign(job, { filling: false, filled: Date.now() });
    this.changed();
  }

  /** Forgets a view's job without calling it off. */
  #drop(view) {
    this.jobs[view]?.stop.abort(new DOMException('another job is shown', 'AbortError'));
    delete this.jobs[view];
  }

  /** Calls a view's job off. */
  async cancel(view = this.view) {
    const job = this.jobs[view];
    // What is only listened to ends with the connection.
    if (!job?.id) {
      this.#drop(view);
      if (job?.partial) this.jobs[view] = { ...job, state: 'cancelled' };
    }
    else await this.#mind(job, () => ask(`/v1/jobs/${job.id}`, { method: 'DELETE' }));
    this.changed();
  }

  /** Whether the result that a view shows is of what is written now. */
  isCurrent(view = this.view) {
    return this.jobs[view]?.of === JSON.stringify(this.body(view));
  }

  #address() {
    history.replaceState(null, '', link.write(this.view, this.given));
  }

  #follow(announce = true) {
    const { view, id, fields } = link.read(location.hash);
    this.view = this.#views[view] ? view : 'workbench';
    this.id = id;
    this.given = fields;
    if (!id) this.#address();
    // Texts are not kept.
    if (fields.r && this.kind() && this.kind() !== 'generate') this.open(this.view, fields.r);
    this.ask(0);
    if (announce) this.changed();
  }

  /** Meets the server: waits until the model is there. */
  async #meet() {
    for (const [name, path] of [['model', '/v1/models'], ['capabilities', '/v1/capabilities'], ['version', '/v1/version'], ['examples', '/v1/examples']]) {
      try {
        const answer = await ask(path);
        this.facts[name] = { model: answer.models?.[0], examples: answer.examples }[name] ?? answer;
        if (name === 'model') this.ask(0);
        this.changed();
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
      }
    }
  }

  /** Asks again for all that was refused for want of a key. */
  again() {
    connection.say('ok');
    this.live.runOf = '';
    this.#meet();
    this.ask(0);
  }
}
