import { html, css, LitElement } from '../vendor/lit.js';
import { base } from '../style.js';
import { visible } from '../say.js';

const WORDS = { samples: 'noise samples', prompt: 'prompt', source: 'source', target: 'target', scoring: 'target scoring', texts: 'texts of each' };

/** Remarks of the server, and what it refused: each with its cure. */
export class RemarkList extends LitElement {
  static properties = { lints: { attribute: false }, problem: { attribute: false }, lab: { attribute: false } };
  static styles = [base, css`
    .lint, .problem { border-inline-start: 4px solid var(--accent); background: var(--info-bg); padding: .35rem .7rem; margin: .3rem 0; border-radius: .2rem; overflow-wrap: anywhere; }
    .warning { border-color: var(--warn); background: var(--warn-bg); }
    .problem, .error { border-color: var(--err); background: var(--err-bg); }
    b { font-weight: 600; }
    code, a { color: var(--dim); }
  `];

  render() {
    const { problem } = this;
    const seen = new Set();
    const lints = (this.lints ?? []).filter(({ code, detail }) => {
      const mark = `${code} ${detail}`;
      return !seen.has(mark) && seen.add(mark);
    });
    // What begins with a name, as `prob:target`, keeps its small letter.
    const sentence = text => (/^\w+( |$)/.test(text) ? text.charAt(0).toUpperCase() + text.slice(1) : text) + (/[.!?]$/.test(text) ? '' : '.');
    return html`
      ${problem ? html`<div class="problem" role="alert"><b>${problem.title}.</b>
        ${problem.errors.length ? problem.errors.map(error => html`<div><code>${error.pointer}</code> ${sentence(error.detail)} <b>${sentence(error.fix)}</b></div>`) : problem.message}</div>` : ''}
      ${lints.map(({ severity, detail, fix, code, apply }) => html`<div class="lint ${severity}">
        <b>${severity === 'info' ? '' : `${sentence(severity)} `}${sentence(detail)}</b> ${sentence(fix)} ${this.#cure(apply)} <a href="/docs/search?${new URLSearchParams({ q: code })}" target="_blank" title="What it means"><code>${code}</code></a></div>`)}`;
  }

  /** The button that does what cures a remark, where one change of the request does. */
  #cure(apply) {
    const fields = apply && this.lab?.cure(apply);
    if (!fields) return '';
    const [[name, value]] = Object.entries(fields);
    return html`<button data-cure=${name} @click=${() => this.lab.set(fields)}>Apply: ${WORDS[name]} ${visible(String(value))}</button>`;
  }
}
customElements.define('remark-list', RemarkList);
