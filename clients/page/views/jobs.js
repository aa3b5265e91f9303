import { html, css } from '../vendor/lit.js';
import { Problem, ask, file } from '../api.js';
import { copy } from '../copy.js';
import { fieldsOf } from '../request.js';
import { Watching } from '../watch.js';
import * as link from '../link.js';
import { capital, count, duration } from '../say.js';
import '../parts/remarks.js';
import '../parts/take-away.js';

/** What was asked: how far it is and what it found. */
export const jobs = { title: 'Jobs', alone: true };

const VIEW = { trace: 'trace', patch: 'patch', sweep: 'averages', run: 'inside' };
/** Data sets that are looked at for the one of a job. */
const MOST_SETS = 20;
const OVER = ['succeeded', 'failed', 'cancelled', 'expired'];

export class JobsView extends Watching {
  static properties = { ...Watching.properties, list: { state: true }, next: { state: true }, problem: { state: true }, shown: { state: true }, said: { state: true } };
  static styles = [Watching.styles, css`
    .table { overflow-x: auto; }
    td, th { white-space: nowrap; }
    td button { padding: 0 .5rem; }
    img { max-width: 100%; background: #fff; display: block; }
  `];

  connectedCallback() {
    super.connectedCallback();
    this.#look();
    this.clock = setInterval(() => {
      if (document.hidden) return;
      if ((this.list ?? []).some(job => !OVER.includes(job.state))) this.#look();
      if (this.shown?.job && !OVER.includes(this.shown.job.state)) this.#show(this.shown.id);
    }, 2000);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    clearInterval(this.clock);
    if (this.shown?.picture) URL.revokeObjectURL(this.shown.picture);
  }

  willUpdate() {
    if (this.lab.id !== this.shown?.id && this.lab.view === 'jobs') this.#show(this.lab.id);
  }

  async #try(work) {
    try {
      this.problem = null;
      await work();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.problem = problem;
    }
  }

  #look = (more = '') => this.#try(async () => {
    const { jobs: found, next } = await ask(`/v1/jobs?limit=50${more && `&before=${more}`}`);
    this.list = more ? [...this.list, ...found] : found;
    this.next = found.length === 50 ? next : null;
  });

  #show(id) {
    if (this.shown?.picture) URL.revokeObjectURL(this.shown.picture);
    // Until the answer is there, what was seen of the same job stays.
    this.shown = id ? { id, job: this.shown?.id === id ? this.shown.job : null } : null;
    if (!id) return;
    const shown = this.shown;
    this.#try(async () => {
      const job = await ask(`/v1/jobs/${id}`);
      if (this.shown === shown) this.shown = Object.assign(shown, { job });
      if (job.state === 'succeeded') {
        const [result, picture] = await Promise.all([ask(`/v1/jobs/${id}/result`), file(`/v1/jobs/${id}/plot?format=svg`).catch(() => null)]);
        Object.assign(shown, { result, picture: picture && URL.createObjectURL(picture), link: await this.#link(job, result) });
      }
      this.requestUpdate();
    });
  }

  /** The link of the view that shows a job, if its request is one that the view writes: the server's plan of both is the same. */
  async #link(job, result) {
    const view = VIEW[job.kind];
    const fields = fieldsOf(job.kind, result.request, this.lab.facts.model);
    if (!fields) return null;
    try {
      for (const candidate of await this.#candidates(job.kind, fields, result.request)) {
        const body = this.lab.body(view, candidate);
        if (!body) continue;
        const plan = await ask('/v1/plan', { body: { [job.kind]: body } });
        if (plan.plan_sha256 === result.provenance?.plan_sha256) return link.write(view, { ...candidate, r: job.id });
      }
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
    }
    return null;
  }

  /** The fields that may have asked it: of averages, with each saved data set of as many cases. */
  async #candidates(kind, fields, { cases }) {
    if (kind !== 'sweep') return [fields];
    const { datasets } = await ask('/v1/datasets');
    return datasets.filter(set => set.cases === cases.length).slice(0, MOST_SETS).map(({ id }) => ({ ...fields, dataset: id }));
  }

  async #cancel(id) {
    await this.#try(() => ask(`/v1/jobs/${id}`, { method: 'DELETE' }));
    this.#look();
  }

  async #copy(id) {
    await copy(id);
    this.said = `${id} is copied.`;
  }

  render() {
    const { list, shown } = this;
    const when = time => html`<time datetime=${time}>${new Date(time).toLocaleString('en', { dateStyle: 'short', timeStyle: 'medium' })}</time>`;
    const took = job => (job.started && job.finished ? duration((new Date(job.finished) - new Date(job.started)) / 1000) : '');
    return html`
      <remark-list .problem=${this.problem}></remark-list>
      ${shown?.job ? this.#one(shown) : ''}
      <h2>Jobs</h2><span class="dim" role="status">${this.said ?? ''}</span>
      ${!list ? html`<p role="status">asking …</p>` : !list.length ? html`<p>None yet. What you trace, patch or average appears here.</p>` : html`
      <div class="table" tabindex="0" role="region" aria-label="Jobs"><table><thead><tr>${['state', 'kind', 'progress', 'begun', 'took', 'job'].map(name => html`<th scope="col">${name}</th>`)}<td></td></tr></thead>
        <tbody>${list.map(job => html`<tr><td>${job.state}</td><td>${job.kind}</td>
          <td>${OVER.includes(job.state) ? '' : `${job.progress.done} of ${job.progress.total}${job.eta_s ? `, about ${duration(job.eta_s)} left` : ''}`}</td>
          <td>${when(job.created)}</td><td>${took(job)}</td><td><a href="#/jobs/${job.id}">${job.id}</a></td>
          <td>${OVER.includes(job.state) ? '' : html`<button @click=${() => this.#cancel(job.id)}>Cancel</button>`} <button @click=${() => this.#copy(job.id)}>Copy id</button></td></tr>`)}</tbody></table></div>
      ${this.next ? html`<button @click=${() => this.#look(this.next)}>Older</button>` : ''}`}`;
  }

  #one({ id, job, result, picture, link: target }) {
    return html`
      <h2>${capital(job.kind)} ${id}</h2>
      <p>${capital(job.state)}${job.error ? `: ${job.error}` : ''}. ${count(job.cost.rows)} rows computed in ${duration(job.cost.seconds)}. ${target ? html`<a href=${target}>Open it in ${capital(VIEW[job.kind])}</a>` : ''}</p>
      <remark-list .lints=${result?.lints ?? job.lints}></remark-list>
      ${picture ? html`<img src=${picture} alt="The server's picture of this ${job.kind}">` : ''}
      ${result ? html`<take-away kind=${job.kind} .body=${result.request ?? null} job=${id}></take-away>` : ''}`;
  }
}
customElements.define('jobs-view', JobsView);
