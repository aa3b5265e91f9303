// The page, driven in a browser against the program: the default model for numbers, a tiny one for looks.

import { after } from 'node:test';
import { browser, serve } from './support.mjs';
import { charts } from './charts.mjs';
import { look } from './look.mjs';
import { trace } from './trace.mjs';
import { workbench } from './workbench.mjs';

const on = { tiny: await serve({ model: 'dummy:tiny' }), model: await serve() };

after(async () => {
  await browser.close();
  await Promise.all([on.tiny.stop(), on.model.stop()]);
});

const PROMPT = 'prompt=The+Eiffel+Tower+is+in+the+city+of&subject=Eiffel+Tower&target=+Paris';
const start = async page => page.locator('job-bar button.go:enabled').click();

workbench(on);
trace(on);
charts(on);
look(on, {
  workbench: { link: `#/workbench?${PROMPT}`, until: 'lens-grid .base' },
  trace: { link: `#/trace?${PROMPT}&samples=2`, steps: start, until: 'heat-map .base' },
  refused: { link: '#/trace?prompt=Hello&subject=nobody&target=+a', until: '.problem', allow: ['422'] },
});
