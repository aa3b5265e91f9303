// The page: what stays on top in every view, and the views.

import { html, css, live, nothing } from './vendor/lit.js';
import { connection } from './api.js';
import { key } from './key.js';
import { Lab } from './lab.js';
import * as link from './link.js';
import { Watching } from './watch.js';
import { capital, isRightToLeft } from './say.js';
import { workbench } from './views/workbench.js';
import { trace } from './views/trace.js';
import { patch } from './views/patch.js';
import { averages } from './views/averages.js';
import { generate } from './views/generate.js';
import { inside } from './views/inside.js';
import { jobs } from './views/jobs.js';
import { status } from './views/status.js';
import { scoringChoice } from './parts/scoring.js';
import './parts/token-strip.js';
import './parts/remarks.js';

const VIEWS = { workbench, trace, patch, averages, inside, generate, jobs, status };

class LabPage extends Watching {
  static styles = [Watching.styles, css`
    header { display: flex; gap: .4rem 1.2rem; align-items: center; padding: .5rem 1rem; border-bottom: 1px solid var(--line); flex-wrap: wrap; }
    h1 { font-size: 1.05rem; margin: 0; }
    nav { display: flex; gap: .2rem; flex-wrap: wrap; }
    nav a { color: var(--ink); text-decoration: none; padding: .25rem .6rem; border-radius: .4rem; }
    nav a.guides { color: var(--accent); text-decoration: underline; }
    nav a[aria-current] { background: var(--accent); color: var(--bg); }
    main { padding: .5rem 1rem 3rem; max-width: 1500px; margin: auto; }
    .skip { position: absolute; inset-inline-start: -999px; }
    .skip:focus { inset-inline-start: 1rem; background: var(--bg); z-index: 2; }
    .banner { background: var(--warn-bg); color: var(--ink); border-bottom: 1px solid var(--warn); padding: .4rem 1rem; display: flex; gap: .4rem 1rem; flex-wrap: wrap; align-items: center; }
    .prompt { margin: .4rem 0; }
    input.token { width: 9rem; }
  `];

  constructor() {
    super();
    this.lab = new Lab(VIEWS);
    connection.addEventListener('change', () => this.requestUpdate());
    setInterval(() => { if (connection.state !== 'ok') this.requestUpdate(); }, 1000);
  }

  render() {
    const { lab, given } = this;
    const { model } = lab.facts;
    return html`
      <a class="skip" href="#main" @click=${event => { event.preventDefault(); this.renderRoot.getElementById('main').focus(); }}>Skip to the view</a>
      <header><h1>mediant</h1>
        <nav aria-label="Views">${Object.entries(VIEWS).map(([name, { title }]) => html`<a href=${link.write(name, { ...given, r: '' })}
          aria-current=${lab.view === name ? 'page' : nothing} @click=${event => { event.preventDefault(); lab.show(name); }}>${title}</a>`)}
          <a class="guides" href="/docs" target="_blank">Guides</a></nav>
        <span class="dim">${model ? `${model.id} · ${model.device}` : 'waiting for the model'}</span></header>
      ${this.#banner()}
      <main id="main" tabindex="-1">
        ${VIEWS[lab.view].alone ? '' : this.#prompt()}
        ${this.#view()}
      </main>`;
  }

  updated() {
    document.title = `${VIEWS[this.lab.view].title} · mediant`;
  }

  /** What is shared by the views that ask about one prompt. */
  #prompt() {
    const { lab, given, live: said } = this;
    const set = name => event => lab.set({ [name]: event.target.value });
    return html`
      <div class="row"><label>Example <select name="example" @change=${this.#example}><option value="">choose …</option>${(lab.facts.examples ?? []).map(({ title, shows }, at) => html`<option value=${at} title=${shows}>${title}</option>`)}</select></label><span class="dim">${this.shows ?? ''}</span></div>
      <div class="prompt"><label for="prompt" class="dim">Prompt</label>
        <textarea id="prompt" dir="auto" spellcheck="false" .value=${live(given.prompt)} @input=${set('prompt')}></textarea></div>
      <token-strip .text=${given.prompt} .tokens=${said.tokens} .mark=${said.mark} @mark=${event => lab.mark(event.detail)}></token-strip>
      <div class="row dim"><span>${said.tokens.length} tokens${isRightToLeft(given.prompt) ? ', shown from right to left; maps keep position 0 at the left' : ''}.</span>
        <span>${this.#subject()}</span><button @click=${this.#markSelected}>Mark the selected text as subject</button></div>
      <div class="row">
        <label>Target <input class="token" name="target" dir="auto" .value=${live(given.target)} @input=${set('target')} autocomplete="off"></label>
        <label>Foil <input class="token" name="foil" dir="auto" placeholder="none" .value=${live(given.foil)} @input=${set('foil')} autocomplete="off"></label>
        ${scoringChoice(lab)}
        <span class="dim">Tokens mostly begin with a space. Alternatives: a bar between them, “ a| b”.</span></div>
      <remark-list .problem=${said.problem} .lints=${said.tokenLints} .lab=${lab}></remark-list>`;
  }

  #view() {
    const { lab } = this;
    switch (lab.view) {
      case 'trace': return html`<trace-view .lab=${lab}></trace-view>`;
      case 'patch': return html`<patch-view .lab=${lab}></patch-view>`;
      case 'averages': return html`<averages-view .lab=${lab}></averages-view>`;
      case 'inside': return html`<inside-view .lab=${lab}></inside-view>`;
      case 'generate': return html`<generate-view .lab=${lab}></generate-view>`;
      case 'jobs': return html`<jobs-view .lab=${lab}></jobs-view>`;
      case 'status': return html`<status-view .lab=${lab}></status-view>`;
      default: return html`<workbench-view .lab=${lab}></workbench-view>`;
    }
  }

  #subject() {
    const { mark, tokens } = this.live;
    if (!mark) return this.given.subject ? html`Subject: <b><bdi>${this.given.subject}</bdi></b>` : 'Drag over the tokens to mark the subject.';
    const text = [...this.given.prompt].slice(tokens[mark[0]]?.start, tokens[mark[1] - 1]?.end).join('').trim();
    return html`Subject: <b><bdi>${text}</bdi></b>, tokens ${mark[0]} to ${mark[1] - 1}.`;
  }

  #example = event => {
    const example = this.lab.facts.examples[event.target.value];
    if (!example) return;
    this.shows = `It shows ${example.shows}.`;
    const view = Object.keys(VIEWS).find(name => VIEWS[name].kind === example.kind && VIEWS[name].from);
    // Prompt and target mean the same in all views.
    this.lab.set({ subject: '', tokens: '', target: '', foil: '', ...VIEWS[view].from(example.body) });
    if (view !== 'trace' && view !== this.lab.view) this.lab.show(view);
  };

  #markSelected = () => {
    const box = this.renderRoot.getElementById('prompt');
    const before = [...box.value.slice(0, box.selectionStart)].length;
    const end = before + [...box.value.slice(box.selectionStart, box.selectionEnd)].length;
    const { tokens } = this.live;
    const from = tokens.findIndex(token => token.end > before);
    const to = tokens.findLastIndex(token => token.start < end) + 1;
    if (end > before && from >= 0 && to > from) this.lab.mark([from, to]);
    else box.focus();
  };

  #banner() {
    const { state, detail, until } = connection;
    const seconds = Math.max(1, Math.ceil((until - Date.now()) / 1000));
    const words = {
      lost: `No connection. Trying again in ${seconds} s; nothing is lost.`,
      busy: `The server is full. Trying again in ${seconds} s.`,
      waiting: `${capital(detail)}. Trying again in ${seconds} s.`,
      key: key.get() ? `${capital(detail)}.` : 'This server needs a key. Ask whoever runs it.',
    }[state];
    if (!words && connection.outdated) {
      return html`<div class="banner" role="status"><span>The server was updated.</span><button @click=${() => location.reload()}>Reload</button></div>`;
    }
    if (!words) return '';
    return html`<div class="banner" role="status"><span>${words}</span>
      ${state === 'key' ? html`<label>Key <input type="password" autocomplete="off" id="key" @keydown=${event => { if (event.key === 'Enter') this.#unlock(); }}></label>
        <button @click=${this.#unlock}>Use it in this tab</button>` : ''}</div>`;
  }

  #unlock = () => {
    key.set(this.renderRoot.getElementById('key').value.trim());
    this.lab.again();
  };
}
customElements.define('lab-page', LabPage);
