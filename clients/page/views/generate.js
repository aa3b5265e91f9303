import { html, css } from '../vendor/lit.js';
import { Watching } from '../watch.js';
import { num, visible } from '../say.js';
import '../parts/job-bar.js';
import '../parts/take-away.js';

/** Name of the branch that nothing is written into. */
const PLAIN = 'unpatched';

/** The strengths of a text, as `1, 2, 4`; none that is no number. */
const numbers = text => [...new Set(text.split(/[\s,;]+/).filter(Boolean).map(Number).filter(value => Number.isFinite(value) && value !== 0))];

/** Texts as a table: the columns of the Python client's. */
const rows = ({ branches }) => [['branch', 'sample', 'text', 'finish', 'tokens', 'mean_logprob'], ...Object.entries(branches).flatMap(([name, { samples }]) =>
  samples.map(({ text, finish, tokens }, at) => [name, at, text, finish, tokens.length, mean(tokens.map(token => token.logprob))]))];

const canChat = lab => !!lab.facts.model?.tokenizer.chat_templates.length;

/** What the model writes, as it is and with a direction added at several strengths. */
export const generate = {
  title: 'Generate',
  kind: 'generate',
  from: ({ runs, interventions: [{ layers }], sweep }) => ({ prompt: runs.base.prompt, toward: runs.towards.prompt, away: runs.away?.prompt ?? '', depth: layers, strengths: sweep.coefs.filter(Boolean).join(', '), chat: '' }),
  body({ prompt, toward, away, depth, strengths, length, texts, heat, chat }, lab) {
    if (!prompt) return null;
    const base = chat && canChat(lab) ? { messages: [{ role: 'user', content: prompt }] } : { prompt };
    const drawn = { max_tokens: length, ...(heat > 0 && { sampling: { temperature: heat, seed: 1 }, samples: texts }) };
    const strong = numbers(strengths);
    if (!toward || !strong.length) return { ...base, ...drawn };
    const add = (run, coef) => ({ site: 'resid_post', layers: depth, positions: { steps: 'all' }, op: 'add', source: { run, positions: 'last' }, coef });
    return {
      runs: { base, toward: { prompt: toward }, ...(away && { away: { prompt: away } }) }, base: 'base',
      branches: { [PLAIN]: [], ...Object.fromEntries(strong.map(coef => [`strength ${coef}`, [add('toward', coef), ...(away ? [add('away', -coef)] : [])]])) },
      compare_with: PLAIN, ...drawn,
    };
  },
};

const ENDS = {
  stop: 'ended by itself', stop_string: 'reached a stop text', length: 'cut at the length', context: 'no room left',
  source_ended: 'its source ended', not_finite: 'the numbers are not finite', lost: 'could not be computed',
};

const mean = values => (values.length && values.every(Number.isFinite) ? values.reduce((a, b) => a + b, 0) / values.length : null);

export class GenerateView extends Watching {
  static styles = [Watching.styles, css`
    .texts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(280px, 100%), 1fr)); gap: .8rem; }
    .texts > section { border: 1px solid var(--line); border-radius: .5rem; padding: .4rem .8rem; min-width: 0; }
    .texts h3 { margin: .2rem 0; }
    .text { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; }
    .text + .dim { margin-bottom: .8rem; }
    textarea { min-height: 2.4rem; }
    .both { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(280px, 100%), 1fr)); gap: 0 1rem; }
  `];

  render() {
    const { given, lab } = this;
    const set = (name, read = value => value) => event => lab.set({ [name]: read(event.target.value) });
    const job = lab.jobs.generate;
    const layers = lab.facts.model?.config.num_layers ?? given.depth + 1;
    const number = (words, name, extra = {}) => html`<label>${words} <input type="number" name=${name} min=${extra.min ?? 0} max=${extra.max ?? 1000} step=${extra.step ?? 1} .value=${String(given[name])} @change=${set(name, Number)}></label>`;
    return html`
      <p>The model goes on from the prompt above: as it is, and beside that with a direction added to its states at every new token.</p>
      <div class="both">
        <div><label for="toward" class="dim">Towards the last state of</label><textarea id="toward" dir="auto" spellcheck="false" .value=${given.toward} @input=${set('toward')}></textarea></div>
        <div><label for="away" class="dim">Away from the last state of (may be empty)</label><textarea id="away" dir="auto" spellcheck="false" .value=${given.away} @input=${set('away')}></textarea></div>
      </div>
      <div class="row">
        <label>Strengths <input name="strengths" size="10" .value=${given.strengths} @change=${set('strengths')}></label>
        ${number('Added after layer', 'depth', { max: layers - 1 })} ${number('Tokens', 'length', { min: 1 })}
        ${number('Temperature', 'heat', { step: 0.1, max: 10 })} ${given.heat > 0 ? number('Texts of each', 'texts', { min: 1, max: 20 }) : ''}
        ${canChat(lab) ? html`<label><input type="checkbox" name="chat" .checked=${!!given.chat} @change=${event => lab.set({ chat: event.target.checked ? 'yes' : '' })}> The prompt is a message: it goes through the model's chat template</label>` : ''}
        <button @click=${() => lab.set({ prompt: 'When I woke up this morning, I felt', subject: '', tokens: '', toward: 'I am so happy today, everything is wonderful', away: 'I am so sad today, everything is terrible', depth: Math.floor((layers - 1) / 2), strengths: '1, 2, 4', chat: '' })}>Example: joy</button>
      </div>
      <job-bar .lab=${lab} verb="Write"></job-bar>
      ${job?.result || job?.partial ? this.#texts(job.result ?? job.partial, job) : ''}`;
  }

  #texts(answer, job) {
    return html`<h2>What the model writes</h2>
      <div class="texts">${Object.entries(answer.branches).map(([name, { samples }]) => html`<section aria-label=${name}><h3>${name}</h3>${samples.map(sample => this.#text(sample, name, answer.isPartial))}</section>`)}</div>
      ${answer.isPartial ? '' : html`<take-away kind="generate" .body=${job.body} 
        .document=${answer} .table=${rows(answer)} .forms=${['csv', 'json']} plot="texts"></take-away>`}`;
  }

  #text({ text, tokens, finish, compare, first_divergence: parts }, name, isPartial) {
    const own = mean(tokens.map(token => token.logprob));
    const base = compare ? compare.mean_logprob : mean(tokens.map(token => token.compare?.logprob));
    const under = at => (compare ? compare.logprob[at] : tokens[at].compare?.logprob);
    const hasBase = Number.isFinite(base) && name !== PLAIN;
    return html`<p class="text" dir="auto">${text}</p>
      <p class="dim">${tokens.length} tokens${own === null ? '' : `, log P a token ${num(own)}`}${hasBase ? `, under the unpatched model ${num(base)}` : ''} nats${parts ? `; parts from it at token ${parts.step}` : ''}${finish ? `; ${ENDS[finish] ?? finish}` : ''}.</p>
      ${isPartial || !tokens.length ? '' : html`<details><summary>Tokens</summary><div class="scroll" tabindex="0" role="region" aria-label="Tokens of ${name}"><table>
        <thead><tr><th scope="col">token</th><th scope="col">log P</th>${hasBase ? html`<th scope="col">unpatched</th>` : ''}</tr></thead>
        <tbody>${tokens.map((token, at) => html`<tr><th scope="row"><bdi>${visible(token.text)}</bdi></th><td>${num(token.logprob)}</td>${hasBase ? html`<td>${num(under(at))}</td>` : ''}</tr>`)}</tbody></table></div></details>`}`;
  }
}
customElements.define('generate-view', GenerateView);
