// Large figures, timed in the page: what the script measures and a test holds to.

const p95 = sorted => sorted[Math.ceil(0.95 * sorted.length) - 1];

/** Milliseconds of scripting so far, by the browser's own count. */
async function scripting(page) {
  const debug = await page.context().newCDPSession(page);
  await debug.send('Performance.enable');
  const read = async name => (await debug.send('Performance.getMetrics')).metrics.find(metric => metric.name === name).value * 1000;
  return { script: () => read('ScriptDuration'), task: () => read('TaskDuration') };
}

/** Does something some times, and gives the 95 % quantiles of scripting and of all work that the browser does for it. */
async function each(page, times, move) {
  const clock = await scripting(page);
  const [script, task] = [[], []];
  for (let at = 0; at < times; at++) {
    const before = [await clock.script(), await clock.task()];
    await move(at);
    await page.evaluate(() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 0))));
    script.push(await clock.script() - before[0]);
    task.push(await clock.task() - before[1]);
  }
  const up = (a, b) => a - b;
  return { script: p95(script.sort(up)), task: p95(task.sort(up)) };
}

/** Three hatched maps of 80 layers by 200 tokens in the view of traces: milliseconds until they are drawn, of a redraw, of a hover. */
export async function maps(page) {
  const { drawn, redrawn } = await page.evaluate(async () => {
    const grid = make => Array.from({ length: 80 }, (_, row) => Array.from({ length: 200 }, (_, column) => make(row, column)));
    const panel = name => ({
      name, mean: grid((r, c) => Math.sin(r / 9) * Math.cos(c / 17)), se: grid(() => 0.05), recovery: grid(() => 0.5),
      exact: grid((_, c) => c < 20), trivial: grid((r, c) => c === 199 && r < 9),
    });
    const data = {
      panels: ['Hidden state', 'MLP', 'Attention'].map(panel), signed: true, max: 1, unit: 'nats', words: 'effect',
      rows: Array.from({ length: 80 }, (_, at) => ({ text: String(79 - at) })), columns: Array.from({ length: 200 }, (_, at) => ({ text: `·word${at}`, part: '' })),
      place: (row, column) => `Layer ${79 - row}, token ${column}`,
    };
    const map = document.createElement('heat-map');
    const host = document.querySelector('lab-page').renderRoot.querySelector('trace-view').renderRoot;
    const start = performance.now();
    map.id = 'large';
    map.data = data;
    host.prepend(map);
    await map.updateComplete;
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    const drawn = performance.now() - start;
    // The quickest of some: what else the machine does is not the page's.
    const redrawn = Math.min(...Array.from({ length: 9 }, () => {
      const start = performance.now();
      map.draw();
      return performance.now() - start;
    }));
    return { drawn, redrawn };
  });
  const box = await page.locator('#large .base').first().boundingBox();
  const hover = await each(page, 60, at => page.mouse.move(box.x + 60 + ((at * 137) % (box.width - 90)), box.y + 10 + ((at * 53) % 150)));
  return { drawn, redrawn, hover };
}

/** A drag over the tokens of the prompt that is shown. */
export async function drag(page) {
  const tokens = await page.locator('token-strip [role=option]').all();
  const boxes = await page.locator('token-strip [role=option]').evaluateAll(found => found.map(token => {
    const { x, y, width, height } = token.getBoundingClientRect();
    return [x + width / 2, y + height / 2];
  }));
  await page.mouse.move(...boxes[0]);
  await page.mouse.down();
  const move = await each(page, Math.min(60, boxes.length), at => page.mouse.move(...boxes[Math.floor((at * boxes.length) / 60) % boxes.length]));
  await page.mouse.up();
  return { tokens: tokens.length, ...move };
}
