// The page, driven in a browser against the program: the default model for numbers, a tiny one for looks.

import { after } from 'node:test';
import { browser, serve } from './support.mjs';
import { charts } from './charts.mjs';
import { guides } from './guides.mjs';
import { keyboard } from './keyboard.mjs';
import { look } from './look.mjs';
import { trace } from './trace.mjs';
import { views } from './views.mjs';
import { workbench } from './workbench.mjs';

const on = { tiny: await serve({ model: 'dummy:tiny' }), locked: await serve({ model: 'dummy:tiny', keys: true }), model: await serve() };

after(async () => {
  await browser.close();
  await Promise.all(Object.values(on).map(server => server.stop()));
});

const PROMPT = 'prompt=The+Eiffel+Tower+is+in+the+city+of&subject=Eiffel+Tower&target=+Paris';
const saved = async page => {
  await page.locator('averages-view select option').nth(1).waitFor({ state: 'attached', timeout: 1500 }).catch(() => {});
  if (await page.locator('averages-view select[name=dataset] option').count() > 1) {
    await page.locator('averages-view select[name=dataset]').selectOption({ index: 1 });
  } else {
    await page.getByRole('button', { name: 'Example: capitals' }).click();
    await page.getByRole('button', { name: 'Save on the server' }).click();
  }
  await start(page);
};
const start = async page => page.locator('job-bar button.go:enabled').click();

workbench(on);
trace(on);
views(on);
keyboard(on);
charts(on);
guides(on);
look(on, {
  workbench: { link: `#/workbench?${PROMPT}`, until: 'lens-grid .base', asks: 'run' },
  trace: { link: `#/trace?${PROMPT}&samples=2`, steps: start, until: 'trace-view take-away', asks: 'trace' },
  patch: { link: `#/patch?${PROMPT}&source=The+Colosseum+is+in+the+city+of`, steps: start, until: 'series-chart svg[role]', asks: 'patch' },
  heads: { link: `#/patch?${PROMPT}&source=The+Colosseum+is+in+the+city+of&sweep=heads`, steps: start, until: 'heat-map .base', asks: 'patch' },
  averages: { link: '#/averages?samples=2&wrong=keep', steps: saved, until: 'heat-map .base', asks: 'sweep' },
  inside: { link: `#/inside?${PROMPT}&foil=+Rome`, steps: start, until: 'series-chart svg[role]', asks: 'run' },
  generate: { link: `#/generate?${PROMPT}&toward=happy&away=sad&depth=1&strengths=1,4&length=12`, steps: start, until: 'generate-view take-away', asks: 'generate' },
  jobs: { link: '#/jobs', steps: page => page.locator('jobs-view tbody a').first().click(), until: 'jobs-view img' },
  status: { link: '#/status', until: 'dl' },
  refused: { link: '#/trace?prompt=Hello&subject=nobody&target=+a', until: '.problem', allow: ['422'] },
});
