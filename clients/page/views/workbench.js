import { html, css } from '../vendor/lit.js';
import { alternatives, measured } from '../targets.js';
import { Watching } from '../watch.js';
import { count, duration, labels, metricName, num, percent, visible } from '../say.js';
import { Problem, ask } from '../api.js';
import '../charts/lens-grid.js';
import '../charts/series-chart.js';
import '../parts/remarks.js';
import '../parts/take-away.js';

/** What the model says next, and what each layer would say. */
export const workbench = {
  title: 'Workbench',
  kind: 'run',
  body: ({ prompt, target, foil, scoring }) => prompt && {
    prompt,
    ...measured({ target, foil, scoring }),
    read: { topk: 10, logit_lens: { topk: 3 } },
  },
};

/** Tokens that are followed through the layers, at most: the chart has as many colours. */
const FOLLOWED = 4;

export class WorkbenchView extends Watching {
  static properties = { ...Watching.properties, lines: { state: true } };
  static styles = [Watching.styles, css`
    .next { display: flex; gap: .35rem; flex-wrap: wrap; padding: 0; list-style: none; margin: .3rem 0; }
    .next button { padding: .15rem .5rem; }
    .old { opacity: .55; }
  `];

  #lens(run) {
    // One object for each answer, so that the grid keeps its cursor while other things change.
    if (this.of !== run) {
      const { logit_lens: lens, tokens } = run;
      this.of = run;
      this.shown = {
        layers: lens.layers, topk: lens.topk, entropy: lens.entropy, columns: labels(tokens, this.live.run.request.runs.run.prompt),
        vocabulary: this.lab.facts.model?.tokenizer.vocab_size ?? 50000,
      };
    }
    return this.shown;
  }

  /** Asks how probable the tokens that led at some layer are at every layer, after one position. */
  async #follow(run, position) {
    const { topk, layers } = run.logit_lens;
    const led = topk.toReversed().map(layer => layer[position][0].text);
    const tokens = [...new Set([...(position === run.read && this.given.target ? alternatives(this.given.target) : []), ...led])].slice(0, FOLLOWED);
    const targets = Object.fromEntries(tokens.map((text, at) => [`t${at}`, [text]]));
    const { prompt } = this.live.run.request.runs.run;
    const lines = (this.lines = { run, position });
    const body = { prompt, targets, metrics: tokens.map((_, at) => `prob:t${at}`), read: { logit_lens: { positions: [position], topk: 1 } } };
    try {
      const answer = await ask('/v1/run', { body });
      const values = answer.runs.run.logit_lens.metrics;
      const data = {
        x: { name: 'Layer', texts: layers.map(String) }, words: 'probability', unit: '', from: 0,
        series: tokens.map((text, at) => ({ name: visible(answer.targets[`t${at}`][0].text ?? text), values: values[`prob:t${at}`].map(([value]) => value) })),
      };
      if (this.lines === lines) this.lines = { ...lines, data };
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (this.lines === lines) this.lines = { ...lines, problem };
    }
  }

  #lines(run) {
    const { lines } = this;
    if (lines?.run !== run) return html`<p class="dim">Click a cell to follow its tokens through the layers.</p>`;
    const { text, part } = this.shown.columns[lines.position];
    return html`<h3>Through the layers, after ${lines.position} <bdi>${text} ${part}</bdi>: the tokens that lead in the last layers</h3>
      ${lines.problem ? html`<remark-list .problem=${lines.problem}></remark-list>` : lines.data ? html`<series-chart .data=${lines.data}></series-chart>` : html`<p role="status">asking …</p>`}`;
  }

  render() {
    const { run: answer, runProblem, runOf } = this.live;
    const body = this.lab.body('workbench');
    const run = answer?.runs.run;
    const old = runOf !== JSON.stringify(body);
    const { plan, planProblem } = this.live;
    return html`
      ${plan ? html`<div class="row"><span>A trace of this: ${count(plan.runs)} runs, about ${duration(plan.cost.seconds)}.</span>
        <button @click=${() => this.lab.show('trace')}>Open Trace</button></div>` : ''}
      <remark-list .problem=${runProblem ?? planProblem} .lints=${[...(plan?.lints ?? []), ...(old ? [] : answer?.lints ?? [])]} .lab=${this.lab}></remark-list>
      ${run ? html`
        <h2>The model's next token <span class="dim" role="status">${this.lab.asking ? 'asking …' : old && body ? 'of the text before' : ''}</span></h2>
        <ul class="next ${old ? 'old' : ''}">${run.topk.map(token => html`<li><button aria-pressed=${alternatives(this.given.target).includes(token.text)} title="rank ${token.rank}, token ${token.id}"
          @click=${() => this.lab.set({ target: token.text })}><bdi>${visible(token.text)}</bdi> <span class="dim">${percent(token.prob)}</span></button></li>`)}</ul>
        <p>${Object.entries(run.metrics).map(([metric, value]) => {
          const { words, unit } = metricName(metric, answer.targets);
          return html`<span>${words} <b>${num(value)}</b> ${unit}&emsp;</span>`;
        })}</p>
        <h2>Logit lens: what each layer would predict</h2>
        <div class=${old ? 'old' : ''}><lens-grid .data=${this.#lens(run)} @cell=${event => this.#follow(run, event.detail.column)}></lens-grid></div>
        ${this.#lines(run)}
        <take-away kind="run" .body=${body} job=${old ? '' : answer.id} .show=${{ kind: 'lens' }} plot="lens"></take-away>`
    : html`<p class="dim" role="status">${!this.given.prompt ? 'Write a prompt above.' : runProblem ? '' : 'The model is asked …'}</p>`}`;
  }
}
customElements.define('workbench-view', WorkbenchView);
