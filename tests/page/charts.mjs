import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { open, root } from './support.mjs';

export function charts(on) {
  test('colours are those of the server', async () => {
    const source = readFileSync(join(root, 'src/draw/scale.rs'), 'utf8');
    const table = name => [...source.match(new RegExp(`const ${name}: .*?= \\[(.*?)\\];`, 's'))[1].matchAll(/Rgb\((\d+), (\d+), (\d+)\)/g)].map(([, ...rgb]) => rgb.map(Number));
    const { LIGHT } = await import(join(root, 'clients/page/charts/scale.js'));
    const bytes = side => LIGHT[side].slice(1).map(hex => [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16)));
    assert.deepEqual(bytes('negative'), table('NEGATIVE'));
    assert.deepEqual(bytes('positive'), table('POSITIVE'));
  });

  test('three hatched maps of 80 layers by 200 tokens are drawn, redrawn and pointed at in time', async () => {
    const page = await open(on.tiny, '#/trace');
    await page.locator('trace-view').waitFor();
    const debug = await page.context().newCDPSession(page);
    await debug.send('Performance.enable');
    const script = async () => (await debug.send('Performance.getMetrics')).metrics.find(({ name }) => name === 'ScriptDuration').value * 1000;
    const times = await page.evaluate(async () => {
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
    const hovers = [];
    for (let at = 0; at < 60; at++) {
      const before = await script();
      await page.mouse.move(box.x + 60 + ((at * 137) % (box.width - 90)), box.y + 10 + ((at * 53) % 150));
      await page.evaluate(() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 0))));
      hovers.push(await script() - before);
    }
    const p95 = hovers.sort((a, b) => a - b)[57];
    console.log(`80 x 200: drawn ${times.drawn.toFixed(0)} ms, redrawn ${times.redrawn.toFixed(1)} ms, scripting of a hover, p95 ${p95.toFixed(2)} ms`);
    assert.ok(times.drawn <= 500 && times.redrawn <= 16 && p95 <= 4, 'too slow');
    await page.done();
  });
}
