import { html, css } from '../vendor/lit.js';
import { Problem, ask } from '../api.js';
import { key } from '../key.js';
import { Watching } from '../watch.js';
import { count, num, percent } from '../say.js';
import '../parts/remarks.js';

/** What serves this page. */
export const status = { title: 'Status', alone: true };

export class StatusView extends Watching {
  static properties = { ...Watching.properties, ready: { state: true }, me: { state: true }, problem: { state: true }, said: { state: true } };
  static styles = [Watching.styles, css`
    dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; margin: .5rem 0; }
    dt { color: var(--dim); }
    dd { margin: 0; overflow-wrap: anywhere; }
  `];

  connectedCallback() {
    super.connectedCallback();
    this.#look();
    this.clock = setInterval(() => { if (!document.hidden) this.#look(); }, 5000);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    clearInterval(this.clock);
  }

  async #look() {
    // Not through `ask`: a server that is not ready is the answer here.
    this.ready = await fetch('/readyz', { headers: key.header() }).then(answer => answer.json(), () => ({ status: 'lost', reason: 'no connection' }));
    try {
      Object.assign(this, { me: await ask('/v1/me'), problem: null });
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      // Without a key the banner asks for one.
      Object.assign(this, { me: null, problem: problem.status === 401 ? null : problem });
    }
  }

  render() {
    const { model, version, capabilities } = this.lab.facts;
    const { me } = this;
    const rows = [
      ['Server', version && `${version.name} ${version.version}, ${version.platform}${version.optimised ? '' : ', built without optimisation'}`],
      ['State', this.ready && `${this.ready.status}${this.ready.reason ? `: ${this.ready.reason}` : ''}`],
      ['Model', model && `${model.id}, ${model.config.architecture}, ${count(model.parameters)} parameters, ${model.config.num_layers} layers, ${model.config.num_heads} heads`],
      ['Computed', model && `${model.dtype} on ${model.device}, ${num(model.flops_per_second / 1e9)} Gflop/s when it started`],
      ['Tokens', model && `${count(model.tokenizer.vocab_size)}${model.tokenizer.adds_bos ? ', prompts begin with BOS' : ', no BOS is added'}; prompts of up to ${count(model.config.max_positions)}`],
      ['Loaded from', model?.fingerprint.source],
      ['Weights', model?.fingerprint.weights_sha256],
      ['Answers as', capabilities?.formats.join(', ')],
      ['You are', me && `${me.owner}${me.key ? `, key ${me.key.id}` : ', no key is needed'}; may ${me.scopes.join(', ') || 'read'}`],
      ['Today', me?.today && `${count(me.today.row_layers)} row-layers computed${me.today.row_layers_limit ? `, ${percent(me.today.row_layers / me.today.row_layers_limit)} of the day's ${count(me.today.row_layers_limit)}` : ''}`],
      ['In use', me && `${me.in_use.jobs.running} jobs running, ${me.in_use.jobs.queued} of at most ${me.in_use.jobs.queued_limit} queued; ${me.in_use.datasets.count} data sets`],
    ].filter(([, value]) => value);
    return html`<h2>Status</h2><remark-list .problem=${this.problem}></remark-list><dl>${rows.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>
      ${(model?.warnings ?? []).map(warning => html`<p>${warning}</p>`)}
      <h2>Key</h2>
      <p>A server that asks for a key takes it as <code>Authorization: Bearer</code>. It is kept in this tab only: in no link, copy or log.</p>
      <div class="row"><label>Key <input type="password" id="key" autocomplete="off" placeholder=${key.get() ? 'one is kept' : 'none'} @keydown=${event => { if (event.key === 'Enter') this.#keep(); }}></label>
        <button @click=${this.#keep}>Use it in this tab</button><button @click=${this.#forget} ?disabled=${!key.get()}>Forget it</button><span class="dim" role="status">${this.said ?? ''}</span></div>
      <h2>From elsewhere</h2>
      <p>All that this page does is asked over HTTP: <a href="/v1/openapi.json">the contract</a>. “Copy as curl” and “Copy as Python” stand below every result.</p>`;
  }

  #keep = () => {
    const box = this.renderRoot.getElementById('key');
    key.set(box.value.trim());
    box.value = '';
    this.said = key.get() ? 'Kept in this tab.' : 'Forgotten.';
    this.lab.again();
  };

  #forget = () => {
    key.set('');
    this.said = 'Forgotten.';
  };
}
customElements.define('status-view', StatusView);
