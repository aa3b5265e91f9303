// Measures what the page promises, and prints it as a table. A release build on a quiet machine: MEDIANT_BIN=... node measure.mjs

import { browser, behind, computed, open, serve } from './support.mjs';
import { drag, maps } from './large.mjs';

const EIFFEL = 'prompt=The+Eiffel+Tower+is+in+the+city+of&subject=Eiffel+Tower&target=+Paris';
const TRACE = { prompt: 'The Eiffel Tower is in the city of', subject: 'Eiffel Tower', target: ' Paris' };
const LOADS = Number(process.env.MEDIANT_LOADS ?? 5);

const on = await serve();
const rows = [];
const ms = value => `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
const tell = (what, limit, found) => {
  rows.push([what, limit, found]);
  console.error(`${what}: ${found}`);
};
const spread = values => {
  const sorted = values.toSorted((a, b) => a - b);
  return `${ms(sorted[sorted.length >> 1])} (${ms(sorted[0])} to ${ms(sorted.at(-1))})`;
};
const sleep = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));
const metric = async name => Number((await (await fetch(`${on.url}/metrics`)).text()).match(new RegExp(`^mediant_${name} ([0-9.e+]+)`, 'm'))[1]);
const timed = async work => {
  const begun = performance.now();
  await work();
  return performance.now() - begun;
};
/** A run that nobody asked for before. */
let runs = 0;
const run = () => on.ask('/v1/run', { prompt: `Run number ${++runs} of the day is in the city of`, read: { topk: 10, logit_lens: { topk: 3 } } });
const start = page => page.getByRole('button', { name: 'Trace', exact: true }).click();

/** When, after the page was asked for, each of these is seen: tokens, cost, lens. */
async function load(link) {
  const page = await open(on, link, {
    prepare: page => page.addInitScript(() => {
      const seen = (window.seen = {});
      const inside = (host, ...path) => path.reduce((at, name) => at?.renderRoot?.querySelector(name), host);
      const look = () => {
        const lab = document.querySelector('lab-page');
        const now = {
          tokens: inside(lab, 'token-strip', '[role=option]'),
          plan: inside(lab, 'workbench-view')?.renderRoot.textContent.includes(' runs, about'),
          lens: inside(lab, 'workbench-view', 'lens-grid', '.base'),
        };
        for (const [name, there] of Object.entries(now)) if (there) seen[name] ??= performance.now();
        if (!seen.lens || !seen.plan) requestAnimationFrame(look);
      };
      requestAnimationFrame(look);
    }),
  });
  await page.waitForFunction(() => window.seen.lens && window.seen.plan);
  const found = await page.evaluate(() => ({
    ...window.seen, paint: performance.getEntriesByName('first-contentful-paint')[0].startTime,
    bytes: [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource').filter(({ name }) => name.includes('/assets/'))].reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0),
  }));
  await page.done();
  return found;
}

async function firstView() {
  await load(`#/workbench?${EIFFEL}`);
  const loads = [];
  for (let at = 0; at < LOADS; at++) {
    // Another prompt each time: what was computed is not found.
    loads.push(await load(`#/workbench?prompt=The+Eiffel+Tower+number+${at}+is+in+the+city+of&subject=Eiffel+Tower&target=+Paris`));
  }
  const of = name => spread(loads.map(found => found[name]));
  tell('first paint', '300 ms', of('paint'));
  tell('tokens', '0.5 s', of('tokens'));
  tell('cost of a trace and remarks', '0.5 s', of('plan'));
  tell('top tokens and lens', '1 s', of('lens'));
  tell('all files, gzip', '120 KB', `${(loads[0].bytes / 1024).toFixed(1)} KB`);
  tell('requests to elsewhere', 'none', 'none (each would have ended this script)');
}

async function large() {
  const page = await open(on, `#/trace?${EIFFEL}`);
  await page.locator('trace-view').waitFor();
  const { drawn, redrawn, hover } = await maps(page);
  tell('three hatched maps of 80 x 200, drawn', '0.5 s', ms(drawn));
  tell('the same, redrawn', '16 ms', ms(redrawn));
  tell('a hover, scripting, p95', '4 ms', ms(hover.script));
  tell('a hover, all that the browser does, p95', '16 ms', ms(hover.task));
  await page.done();
  const words = Array(200).fill('the').join('+');
  const long = await open(on, `#/trace?prompt=${words}&target=+a`);
  await long.locator('token-strip [role=option]').nth(199).waitFor();
  const dragged = await drag(long);
  tell(`dragging over ${dragged.tokens} tokens, scripting, p95`, '4 ms', ms(dragged.script));
  await long.done();
}

async function traces() {
  const idle = [];
  for (let at = 0; at < LOADS; at++) idle.push(await timed(run));
  tell('a run with its lens, alone, over HTTP', '', spread(idle));

  const link = seed => `#/trace?${EIFFEL}&samples=10&seed=${seed}`;
  const page = await open(on, link(21));
  await page.locator('job-bar button.go:enabled').waitFor();
  const before = await metric('batches_total');
  const begun = performance.now();
  await start(page);
  await page.waitForFunction(() => Object.values(document.querySelector('lab-page').lab.jobs.trace?.partial?.arms ?? {}).some(arm => arm.effects['logprob:target'].mean.flat().some(Number.isFinite)), null, { polling: 'raf' });
  const batches = (await metric('batches_total')) - before;
  tell('first cells of a trace of 10 samples on screen', 'after 2 batches', `${ms(performance.now() - begun)}, after ${batches} of its batches`);
  const beside = [];
  while (await page.locator('job-bar progress').count() && beside.length < 20) beside.push(await timed(run));
  await page.locator('trace-view take-away').waitFor({ timeout: 600_000 });
  tell('the whole trace, with the runs beside it', '', `${((performance.now() - begun) / 1000).toFixed(1)} s, ${(await metric('batches_total')) - before} batches`);
  tell('a run with its lens beside that trace', '2 x alone + 1 s', spread(beside));
  await page.done();

  const closed = await open(on, `#/trace?${EIFFEL}&samples=20&seed=22`);
  await closed.locator('job-bar button.go:enabled').waitFor();
  await start(closed);
  await closed.locator('heat-map .base').first().waitFor({ timeout: 600_000 });
  const done = performance.now();
  await closed.done();
  let [last, end] = [await computed(on), performance.now()];
  while (performance.now() - end < 3000) {
    await sleep(20);
    const now = await computed(on);
    if (now !== last) [last, end] = [now, performance.now()];
  }
  tell('closing the tab frees the engine', '1 s', `last batch ended ${ms(Math.max(0, end - done))} after it`);
}

async function cut() {
  const line = await behind(on);
  const whole = async (url, seed) => {
    const page = await open(url, `#/trace?${EIFFEL}&samples=4&every=2&seed=${seed}`, { allow: ['Failed to load resource', 'ERR_'] });
    await page.locator('job-bar button.go:enabled').waitFor();
    const before = await computed(on);
    await start(page);
    return { page, before };
  };
  const plain = await whole(on, 23);
  await plain.page.locator('trace-view take-away').waitFor({ timeout: 600_000 });
  const all = (await computed(on)) - plain.before;
  await plain.page.done();
  const { page, before } = await whole(line, 24);
  await page.locator('heat-map .base').first().waitFor({ timeout: 600_000 });
  line.cut(true);
  await sleep(10_000);
  line.cut(false);
  await page.locator('trace-view take-away').waitFor({ timeout: 600_000 });
  const spent = (await computed(on)) - before;
  const shown = await page.evaluate(() => document.querySelector('lab-page').lab.jobs.trace.result.arms);
  const { arms } = await on.ask('/v1/trace', { ...TRACE, arms: ['hidden', 'mlp', 'attn'], metrics: ['logprob:target', 'prob:target'], layers: { from: 0, to: 30, step: 2 }, corrupt: { samples: 4, seed: 24 } });
  tell('a trace whose connection is cut for 10 s', 'same numbers, nothing twice', `${JSON.stringify(shown) === JSON.stringify(arms) ? 'same numbers' : 'OTHER NUMBERS'}, ${(spent / all).toFixed(3)} times the rows of one that is not`);
  await page.done();

  // A job goes on without the page.
  const sweep = await open(line, '#/averages?samples=2&every=3&wrong=keep', { allow: ['Failed to load resource', 'ERR_'] });
  await sweep.getByText('New data set').waitFor();
  await sleep(500);
  if (!(await sweep.locator('#cases').isVisible())) await sweep.getByText('New data set').click();
  await sweep.getByRole('button', { name: 'Example: capitals' }).click();
  await sweep.getByRole('button', { name: 'Save on the server' }).click();
  await sweep.locator('job-bar button.go:enabled').click();
  await sweep.locator('heat-map .base').first().waitFor({ timeout: 600_000 });
  line.cut(true);
  await sleep(10_000);
  line.cut(false);
  await sweep.locator('job-bar progress').waitFor({ state: 'detached', timeout: 600_000 });
  await sweep.locator('averages-view h2', { hasText: /Averages over \d+ cases$/ }).waitFor({ timeout: 600_000 });
  const { id, rows: of } = await sweep.evaluate(() => {
    const { id, result } = document.querySelector('lab-page').lab.jobs.averages;
    return { id, rows: result.averages.rows };
  });
  const kept = await on.ask(`/v1/jobs/${id}/result`);
  const { jobs } = await on.ask('/v1/jobs');
  tell('a job whose connection is cut for 10 s', 'same numbers, one job', `${JSON.stringify(of) === JSON.stringify(kept.averages.rows) ? 'same numbers' : 'OTHER NUMBERS'}, ${jobs.filter(({ kind }) => kind === 'sweep').length} job`);
  await sweep.done();
  await line.stop();
}

try {
  const parts = { first: firstView, large, traces, cut };
  for (const name of process.argv.length > 2 ? process.argv.slice(2) : Object.keys(parts)) await parts[name]();
} finally {
  await browser.close();
  await on.stop();
}
console.log(`\n| what | promised | measured |\n|---|---|---|`);
for (const row of rows) console.log(`| ${row.join(' | ')} |`);
