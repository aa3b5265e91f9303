import { html, nothing } from '../vendor/lit.js';
import { Watching } from '../watch.js';
import { count, duration } from '../say.js';
import './remarks.js';
import './take-away.js';

/** What a view's request costs, the button that starts it, and how far it is, in words. `alone` views ask nothing of the prompt above. */
export class JobBar extends Watching {
  static properties = { ...Watching.properties, verb: {}, alone: { type: Boolean } };

  connectedCallback() {
    super.connectedCallback();
    this.clock = setInterval(() => { if (this.lab.jobs[this.lab.view]?.view && this.#runs()) this.requestUpdate(); }, 500);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    clearInterval(this.clock);
  }

  #runs() {
    return ['sent', 'queued', 'running'].includes(this.lab.jobs[this.lab.view]?.state);
  }

  render() {
    const { live } = this;
    const job = this.lab.jobs[this.lab.view];
    const body = this.lab.body();
    const runs = this.#runs();
    const { plan } = live;
    return html`
      <div class="row">
        <button class="go" ?disabled=${!body || runs || !!live.planProblem || this.lab.isBlocked()} @click=${() => this.lab.start()}>${this.verb}</button>
        ${plan && !(job?.result && this.lab.isCurrent()) ? html`<span>${count(plan.runs)} ${plan.runs === 1 ? 'run' : 'runs'}, about ${duration(plan.cost.seconds)}</span>` : ''}
        ${runs ? html`<progress max="1" value=${this.#share(job)} aria-label=${this.verb}></progress>` : ''}
        <span role="status">${this.#words(job)}</span>
        ${runs ? html`<button @click=${() => this.lab.cancel()}>Cancel</button>` : ''}
      </div>
      <remark-list .problem=${job?.problem ?? (job ? null : live.planProblem)} .lints=${runs || !this.lab.isCurrent() ? plan?.lints : job?.result?.lints ?? plan?.lints} .lab=${this.lab}></remark-list>`;
  }

  #share(job) {
    const { done = 0, total = 1 } = job.view?.progress ?? {};
    return total > 1 ? done / total : nothing;
  }

  #words(job) {
    if (!job) return '';
    const { progress, position, eta_s: left, error } = job.view ?? {};
    const gone = (Date.now() - job.since) / 1000;
    switch (job.state) {
      case 'sent': return 'Sent.';
      case 'queued': return position ? `${position} ${position === 1 ? 'request is' : 'requests are'} before yours.` : 'Waits for the model.';
      case 'running': {
        const share = job.partial ? `${Math.floor((100 * progress.done) / progress.total)} %, ` : `${progress.done} of ${progress.total} parts, `;
        const done = progress.total > 1 ? share : '';
        return `${done}${duration(gone)} gone${left ? `, about ${duration(progress.total > 1 ? left : Math.max(1, left - gone))} left` : ''}.`;
      }
      case 'failed': return `It failed: ${error ?? 'the server does not say why'}.`;
      case 'cancelled': return 'Cancelled.';
      case 'expired': return 'The server deleted this result when its time was over. Start it again.';
      case 'succeeded': return job.result ? (this.lab.isCurrent() ? '' : 'The result below is of an earlier request.') : 'Done; the result is on its way.';
      default: return '';
    }
  }
}
customElements.define('job-bar', JobBar);
